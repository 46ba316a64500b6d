//! What containerd executes for the runtime `io.containerd.microrun.v1`.

use std::env;

fn main() -> ! {
    microrun::sys::process::expect_signals();
    let code = microrun::shim::main(env::args_os().skip(1));
    microrun::sys::process::exit(code)
}
