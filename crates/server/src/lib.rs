//! The Postgres wire protocol and the `millstream` binary.
//!
//! The protocol speaks to a [`Backend`], of which the engine is one and tests have another; it translates and decides
//! nothing.

pub mod backend;
pub mod cli;
pub mod demo;
mod engine_backend;
pub mod serve;
mod starting;
mod table;
mod wire;

pub use backend::{Backend, BackendSession};
pub use starting::StartingEngine;
pub use wire::server::{Server, ServerHandle};
