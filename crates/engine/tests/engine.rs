//! The engine as its users see it, without a wire.

mod engine {
    mod slice;
}
