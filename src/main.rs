//! The program: parse the arguments, call the library, set the exit code.

fn main() {}
