//! What `microrun bench` executes.

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    microrun::cli::bench::main(env::args_os()).into()
}
