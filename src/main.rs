//! The program: parse the arguments, call the library, set the exit code.

use std::env;

/// See the type for why.
#[global_allocator]
static ALLOCATOR: microrun::sys::arena::Arena = microrun::sys::arena::Arena::new();

fn main() -> ! {
    microrun::sys::process::expect_signals();
    let code = microrun::cli::main(env::args_os());
    // All output has been flushed. What Rust and libc would do at the end, the kernel does as well, and 15 µs sooner.
    microrun::sys::process::exit(code.into())
}
