//! Home of the SQL test files.
