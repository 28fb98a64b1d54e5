//! The Postgres wire protocol, version 3.0: one task a connection.

mod cancel;
mod client;
mod connection;
mod copy;
mod extended;
mod frontend;
mod output;
mod params;
mod portal;
mod rows;
pub(crate) mod server;
mod simple;
mod start_up;
