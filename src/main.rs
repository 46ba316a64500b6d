//! The program: parse the arguments, call the library, set the exit code.

use std::env;
use std::process::ExitCode;

/// See the type for why.
#[global_allocator]
static ALLOCATOR: microrun::sys::arena::Arena = microrun::sys::arena::Arena::new();

fn main() -> ExitCode {
    microrun::cli::main(env::args_os()).into()
}
