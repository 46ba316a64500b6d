//! The program: parse the arguments, call the library, set the exit code.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    microrun::cli::main(env::args_os()).into()
}
