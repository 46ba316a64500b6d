//! An overlayfs root made by the runtime: `root.path` below, and above it a directory or a scratch tmpfs.

use super::builder::{Builder, cpath, slots};
use crate::error::Result;
use crate::init::{Create, Op, Rule};
use oci_spec::runtime::Spec;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The annotation that asks for an overlay, for callers that cannot give flags: "scratch", or a directory.
pub const ANNOTATION: &str = "org.microrun.overlay";

/// What lies above `root.path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlay {
    /// A tmpfs that only the container sees and that ends with it.
    Scratch,
    /// `upper` and `work` in this directory of the host, which stay.
    Directory(PathBuf),
}

impl Overlay {
    /// The overlay that the text of an annotation asks for; a relative directory is the bundle's.
    pub fn parse(text: &str, bundle: &Path) -> Self {
        match text {
            "" | "scratch" => Self::Scratch,
            directory => Self::Directory(bundle.join(directory)),
        }
    }

    /// The overlay that an annotation of `spec` asks for.
    pub fn annotated(spec: &Spec, bundle: &Path) -> Option<Self> {
        let text = spec.annotations().as_ref()?.get(ANNOTATION)?;
        Some(Self::parse(text, bundle))
    }
}

/// Compiles the overlay into [`slots::ROOT`]: a mount of its own, so that no bind of the root is needed.
pub(super) fn compile(builder: &mut Builder, rootfs: &Path, state_dir: &Path, overlay: &Overlay) -> Result<()> {
    let field = "(overlay)";
    let scratch = match overlay {
        Overlay::Scratch => {
            // overlayfs takes its layers by path, so the tmpfs needs a place: the container's state directory, in this
            // mount namespace alone, where it is covered by nothing and reached by nobody.
            builder.push(
                field,
                Op::NewFilesystem {
                    kind: c"tmpfs".into(),
                    options: vec![(c"mode".into(), Some(c"0700".into()))],
                    attributes: libc::MOUNT_ATTR_NODEV,
                    into: slots::MOUNT,
                },
            );
            let path = cpath(field, state_dir)?;
            builder.push(field, Op::OpenHost { path, flags: libc::O_PATH | libc::O_DIRECTORY, into: slots::TARGET });
            builder.push(field, Op::Attach { mount: slots::MOUNT, target: slots::TARGET });
            state_dir
        }
        Overlay::Directory(directory) => {
            let path = cpath(field, directory)?;
            builder.push(field, Op::OpenHost { path, flags: libc::O_PATH | libc::O_DIRECTORY, into: slots::MOUNT });
            directory.as_path()
        }
    };
    for name in [c"upper", c"work"] {
        let mode = if name == c"upper" { 0o755 } else { 0o700 };
        builder.push(field, Op::MakeDirectory { dir: slots::MOUNT, path: name.into(), mode });
    }
    let mut options = vec![
        (c"source".to_owned(), Some(c"overlay".to_owned())),
        (c"lowerdir".to_owned(), Some(escaped(rootfs)?)),
        (c"upperdir".to_owned(), Some(cpath(field, &scratch.join("upper"))?)),
        (c"workdir".to_owned(), Some(cpath(field, &scratch.join("work"))?)),
    ];
    if *overlay == Overlay::Scratch {
        // Nothing in a scratch layer outlives the container: umount need not sync it.
        options.push((c"volatile".to_owned(), None));
    }
    let op = super::mounts::new_filesystem(Some(state_dir), field, c"overlay".into(), options, 0, slots::ROOT)?;
    builder.push(field, op);
    Ok(())
}

/// `lowerdir` is a list with ":" between, so a path's own colons and backslashes are escaped
/// (Documentation/filesystems/overlayfs.rst).
fn escaped(path: &Path) -> Result<CString> {
    let mut text = Vec::new();
    for byte in path.as_os_str().as_bytes() {
        if matches!(byte, b':' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    super::builder::cstring("root.path", text)
}

/// The working directory is made where the image does not have it, as runc does.
pub(super) fn working_directory(builder: &mut Builder, cwd: &Path) -> Result<()> {
    if cwd != Path::new("/") {
        builder.push(
            "process.cwd",
            Op::Target {
                root: slots::ROOT,
                path: cpath("process.cwd", cwd)?,
                create: Create::Directory,
                rule: Rule::Any,
                into: slots::TARGET,
            },
        );
    }
    Ok(())
}
