//! Sessions: what a front end calls, statement by statement.
