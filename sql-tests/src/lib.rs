//! Home of the SQL test files, and the servers that they run against: Millstream in this process or in one of its own, and
//! Postgres as the oracle.

pub mod bucket;
pub mod durable;
pub mod killing;
pub mod millstream;
pub mod postgres;
mod random;
pub mod random_sql;
pub mod reading_ahead;
pub mod taking_over;
pub mod wire;
