//! The Postgres wire protocol and the `millstream` binary.
