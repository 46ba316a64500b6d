//! `microrun features`

use super::global::Global;
use super::grammar::Verb;
use super::parse::Words;
use super::{print, version};
use crate::error::Result;
use crate::plan::seccomp;
use crate::spec::features::{Facts, features};
use libseccomp::{ScmpArch, ScmpSyscall};

/// The verb.
pub static VERB: Verb = Verb {
    name: "features",
    about: "print what this runtime and this kernel support",
    operands: "",
    count: (0, 0),
    details: "Prints the features document of runtime-spec (JSON). Engines decide by it what they may ask for.",
    flags: &[],
    passes_rest: false,
    failure: 1,
    call,
};

fn call(_: &Global, _: &Words) -> Result<u8> {
    print(&document())
}

/// What it prints.
pub fn document() -> String {
    features(&Facts {
        libseccomp: version::libseccomp(),
        seccomp_arch,
        seccomp_flag: |name| seccomp::supported_flags().iter().any(|(known, _)| *known == name),
        version: version::VERSION,
        commit: version::COMMIT.unwrap_or_default(),
    })
}

/// Whether the libseccomp that is linked can compile for an architecture: its Rust binding knows names that are newer.
fn seccomp_arch(name: &str) -> bool {
    name.parse::<ScmpArch>().is_ok_and(|arch| ScmpSyscall::from_name_by_arch("read", arch).is_ok())
}
