//! The `musaic` program.

fn main() {}
