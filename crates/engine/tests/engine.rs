//! The engine as its users see it, without a wire.

mod engine {
    mod arrangements;
    mod common;
    mod durability;
    mod epochs;
    mod flow;
    mod history;
    mod planning;
    mod restoring;
    mod serializability;
    mod slice;
    mod spilling;
    mod streams;
    mod transactions;
    mod upgrade;
}
