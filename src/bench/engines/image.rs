//! The image that the engines run: one layer with the action in it, made here.

use super::super::contender::words_to_command;
use super::super::world::{Result, doing};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

/// Its name.
pub const NAME: &str = "localhost/microrun-bench:hello";

/// Makes the archive of the image [`NAME`] in `directory`, in the format of `docker save`, which every engine loads. `program`
/// is the action.
///
/// # Errors
/// A file cannot be written, or there is no tar(1) or sha256sum(1).
pub fn make(directory: &Path, program: &[u8]) -> Result<PathBuf> {
    let rootfs = directory.join("rootfs");
    for name in ["dev", "etc", "proc", "sys"] {
        fs::create_dir_all(rootfs.join(name)).map_err(doing("create", &rootfs.join(name)))?;
    }
    let action = rootfs.join("hello");
    fs::write(&action, program).map_err(doing("write", &action))?;
    fs::set_permissions(&action, PermissionsExt::from_mode(0o755)).map_err(doing("change the mode of", &action))?;
    let layer = directory.join("layer.tar");
    tar(&layer, &rootfs, &["."])?;
    let sum = said(&["sha256sum", &layer.to_string_lossy()])?;
    let digest = sum.split(' ').next().unwrap_or_default();
    let config = json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {"Cmd": ["/hello"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]}
    });
    let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]}]);
    for (name, value) in [("config.json", config), ("manifest.json", manifest)] {
        fs::write(directory.join(name), value.to_string()).map_err(doing("write", &directory.join(name)))?;
    }
    let archive = directory.join("image.tar");
    tar(&archive, directory, &["manifest.json", "config.json", "layer.tar"])?;
    Ok(archive)
}

/// Archives `names` below `directory`.
fn tar(archive: &Path, directory: &Path, names: &[&str]) -> Result<()> {
    let (archive, directory) = (archive.to_string_lossy(), directory.to_string_lossy());
    let options = ["tar", "--numeric-owner", "--owner=0", "--group=0", "-C", &directory, "-cf", &archive];
    said(&[&options[..], names].concat()).map(drop)
}

/// Runs a command to its end; what it writes.
///
/// # Errors
/// It cannot be started or fails: the last line that it writes to its standard error.
fn said(words: &[&str]) -> Result<String> {
    let mut command = words_to_command(words.iter().map(Into::into));
    let output = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.map_err(|error| format!("{}: {error}", words[0]))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{}: {}", words[0], text.lines().last().unwrap_or_default()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The machine's architecture as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
