//! The heart of a FaaS platform: a line of standard input is a request, and each request is seen to by a sandbox of its own, which
//! was leased before the request came.
//!
//! ```text
//! microrun pool serve bundle/ &
//! echo "a request" | cargo run --example action -- bundle/
//! ```

use microrun::Error;
use microrun::error::Kind;
use microrun::pool::{Pool, Sandbox, Stdio};
use std::ffi::CString;
use std::io::{self, BufRead};
use std::process::ExitCode;
use std::time::Instant;
use std::{env, process};

fn main() -> ExitCode {
    let Some(bundle) = env::args_os().nth(1) else {
        eprintln!("usage: action BUNDLE");
        return ExitCode::FAILURE;
    };
    match Pool::open(bundle).and_then(|pool| serve(&pool)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("action: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(pool: &Pool) -> Result<(), Error> {
    let mut next = lease(pool)?;
    for line in io::stdin().lock().lines().map_while(Result::ok) {
        let Ok(request) = CString::new(format!("REQUEST={line}")) else { continue };
        let sandbox = match next.take() {
            Some(sandbox) => sandbox,
            None => pool.lease()?,
        };
        let came = Instant::now();
        let mut running = sandbox.start(Stdio::inherit(), None, &[&request])?;
        // While the action runs.
        next = lease(pool)?;
        let code = running.wait()?;
        eprintln!("{}: {} ended with {code} after {:?}", process::id(), running.id(), came.elapsed());
    }
    Ok(())
}

/// A sandbox for the next request; none if the pool has none ready now.
fn lease(pool: &Pool) -> Result<Option<Sandbox>, Error> {
    match pool.lease() {
        Err(error) if error.kind() == Kind::WrongState => Ok(None),
        leased => leased.map(Some),
    }
}
