//! Does nothing; without a build script, features of build dependencies would not count.

fn main() {}
