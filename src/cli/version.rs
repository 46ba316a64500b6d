//! `--version`, in the shape of runc's: containerd, Docker and Podman parse it.

use libseccomp::ScmpVersion;

/// The text, for a program that was called by the name `program`. No other line may have the word "version": Docker takes
/// the last line that has it.
pub fn text(program: &str) -> String {
    let mut text = format!("{program} version {}\n", env!("CARGO_PKG_VERSION"));
    if let Some(commit) = option_env!("MICRORUN_COMMIT") {
        text.push_str(&format!("commit: {commit}\n"));
    }
    text.push_str(&format!("spec: {}\n", crate::container::state::OCI_VERSION));
    if let Ok(ScmpVersion { major, minor, micro }) = ScmpVersion::current() {
        text.push_str(&format!("libseccomp: {major}.{minor}.{micro}\n"));
    }
    text
}
