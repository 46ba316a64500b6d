//! `--version`, in the shape of runc's: containerd, Docker and Podman parse it.

use libseccomp::ScmpVersion;

/// The version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit that it was built from, if the build knew.
pub const COMMIT: Option<&str> = option_env!("MICRORUN_COMMIT");

/// The version of libseccomp that is linked in.
pub fn libseccomp() -> (u32, u32, u32) {
    ScmpVersion::current().map_or((0, 0, 0), |version| (version.major, version.minor, version.micro))
}

/// The text, for a program that was called by the name `program`. No other line may have the word "version": Docker takes
/// the last line that has it.
pub fn text(program: &str) -> String {
    let (major, minor, micro) = libseccomp();
    let commit = COMMIT.map(|commit| format!("commit: {commit}\n")).unwrap_or_default();
    let spec = crate::container::state::OCI_VERSION;
    format!("{program} version {VERSION}\n{commit}spec: {spec}\nlibseccomp: {major}.{minor}.{micro}\n")
}
