//! A Plan in words: for `explain`, for timings, and for the sentence that says which step failed.

use super::Plan;
use crate::error::{Error, Kind, describe, missing};
use crate::init::{Exec, Gate, Op, Step, namespace_names};
use nix::errno::Errno;
use oci_spec::runtime::LinuxIdMapping;
use serde::Serialize;
use std::ffi::CString;
use std::fmt::Write;

/// One step for tools.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Who executes it: "outside", "stage" or "init".
    pub who: &'static str,
    /// What is called.
    pub call: String,
    /// The field of config.json that asks for it.
    pub field: String,
}

/// All that will happen, in order.
pub fn lines(plan: &Plan) -> Vec<Line> {
    let opened = plan.joined.iter().map(|joined| Line {
        who: "outside",
        call: format!("open({:?}) -> {}", joined.path.to_string_lossy(), joined.slot),
        field: joined.field.clone(),
    });
    let maps = plan.outside.id_mappings.iter().map(|map| Line {
        who: "outside",
        call: format!("clone3(NEWUSER), uid_map {}, gid_map {} -> {}", ranges(&map.uids), ranges(&map.gids), map.slot),
        field: "mounts (idmap)".into(),
    });
    let locked = plan.outside.is_locked.then(|| Line {
        who: "outside",
        call: "clone3(NEWUSER|NEWNS), setns(NEWNS) of a thread".to_owned(),
        field: "linux.namespaces (user)".into(),
    });
    let sharing = if plan.share_memory { "VM|" } else { "" };
    let clone = Line {
        who: "runtime",
        call: format!("clone3({sharing}{})", namespace_names(plan.clone_flags as i32)),
        field: "linux.namespaces".into(),
    };
    let exec = Line { who: "init", call: exec_call(&plan.exec), field: "process.args".into() };
    opened
        .chain(maps)
        .chain(locked)
        .chain(lines_of("outside", &plan.outside.steps))
        .chain(lines_of("stage", &plan.stage))
        .chain([clone])
        .chain(lines_of("init", &plan.steps))
        .chain([exec])
        .collect()
}

/// Ranges of ids: of the container, of the host, and how many.
fn ranges(mappings: &[LinuxIdMapping]) -> String {
    let range = |map: &LinuxIdMapping| format!("{} {} {}", map.container_id(), map.host_id(), map.size());
    mappings.iter().map(range).collect::<Vec<_>>().join(", ")
}

fn lines_of(who: &'static str, steps: &[Step]) -> impl Iterator<Item = Line> {
    steps.iter().map(move |step| Line { who, call: step.op.to_string(), field: step.field.clone().into_owned() })
}

/// The Plan as a person reads it: number, who, call, field.
pub fn text(plan: &Plan) -> String {
    let lines = lines(plan);
    let width = lines.iter().map(|line| line.call.len()).max().unwrap_or(0).min(92);
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        let number = index + 1;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{number:>4}  {:<8}{:<width$}  {}", line.who, line.call, line.field);
    }
    text
}

fn exec_call(exec: &Exec) -> String {
    let args: Vec<_> = exec.args.strings().iter().map(|arg| arg.to_string_lossy()).collect();
    match exec.candidates.as_slice() {
        [only] => format!("execve({:?}, {args:?})", only.to_string_lossy()),
        several => format!("execve(one of {} in PATH, {args:?})", several.len()),
    }
}

/// Why step `index` failed, in one sentence that names the call, its arguments and the field. The number of steps
/// itself stands for exec.
pub fn failure(steps: &[Step], exec: &Exec, index: usize, errno: Errno) -> Error {
    let Some(step) = steps.get(index) else { return refused_by_execve(exec, errno) };
    match &step.op {
        Op::SetAttributes { .. } | Op::SetIdMap { .. } if errno == Errno::ENOSYS => {
            let problem = format!("{}: {}: {}", step.field, step.op, missing("5.12"));
            Error::new(Kind::System, problem).with_errno(errno)
        }
        // Whatever else is missing is named.
        op if errno == Errno::ENOSYS => Error::system(format!("{}: {op}", step.field), errno),
        Op::FindProgram => not_found(exec, errno),
        Op::ChangeDirectory { path, .. } => {
            let path = path.to_string_lossy();
            let problem = match errno {
                Errno::ENOENT => format!("chdir to cwd ({path:?}) set in config.json failed: {}", describe(errno)),
                _ => format!(
                    "chdir to cwd ({path:?}) set in config.json failed: {}: name a directory that the user may enter",
                    describe(errno)
                ),
            };
            Error::new(Kind::System, format!("process.cwd: {problem}"))
        }
        Op::Meet(Gate::Hooks) => Error::new(Kind::System, "a hook failed"),
        Op::Meet(_) | Op::AwaitRecord | Op::AwaitStart { .. } if errno == Errno::ECANCELED => {
            Error::new(Kind::System, format!("{}: the runtime ended before the container could start", step.field))
        }
        Op::Target { path, .. } if step.field == "process.cwd" => Error::new(
            Kind::System,
            format!(
                "process.cwd: chdir to cwd ({:?}) set in config.json failed: {}: name a directory, or one that can be made",
                path.to_string_lossy(),
                describe(errno)
            ),
        ),
        Op::NewFilesystem { kind, .. } | Op::NewFilesystemAt { kind, .. } if errno == Errno::ENODEV => Error::new(
            Kind::Config,
            format!(
                "{}.type: the kernel does not know the file system {:?} ({}): load its module, or name another",
                step.field,
                kind.to_string_lossy(),
                describe(errno)
            ),
        ),
        Op::NewFilesystem { options, .. } if errno == Errno::EINVAL && has_comma(options) => Error::new(
            Kind::System,
            format!(
                "{}: {}: {}: before Linux 6.5 no path may have a comma in it, so rename it if this kernel is older",
                step.field,
                step.op,
                describe(errno)
            ),
        )
        .with_errno(errno),
        Op::SetIdMap { .. } if errno == Errno::EINVAL => Error::new(
            Kind::System,
            format!(
                "{}: {}: {}: the file system cannot be id-mapped by this kernel (a tmpfs since Linux 6.3, overlayfs \
                 since 5.19): use another source",
                step.field,
                step.op,
                describe(errno)
            ),
        )
        .with_errno(errno),
        // Which of these it is the kernel does not say, nor the Plan: the user namespace may be one that the runtime is in.
        Op::CloneTree { recursive: false, .. } if errno == Errno::EINVAL && step.field.starts_with("mounts[") => {
            let problem = "the source is unbindable, or in another mount namespace, or what is mounted below it has to \
                           come along, as in a user namespace: use another source, or \"rbind\"";
            Error::new(Kind::System, format!("{}: {}: {}: {problem}", step.field, step.op, describe(errno)))
                .with_errno(errno)
        }
        Op::Target { path, rule, .. } => Error::new(
            Kind::System,
            format!("{}: {}", step.field, target_problem(&path.to_string_lossy(), *rule, errno)),
        ),
        // Not what mount(2) says of a file and a directory, for which Docker has a hint.
        Op::Attach { .. } if errno == Errno::EINVAL && step.field.starts_with("mounts[") => {
            let problem = "not a directory: source and destination must be of one kind";
            Error::new(Kind::System, format!("error mounting {}: {}: {problem}", step.field, step.op))
        }
        // What is not there needs no mask: it is mount(2) that says so, as of what is below /proc/net on Linux 7.3.
        Op::Mask { path, .. } if errno == Errno::ENOENT => {
            let path = path.to_string_lossy();
            let problem = format!("{}: {path:?}: this kernel lets nothing be mounted there: remove it", step.field);
            Error::new(Kind::System, problem)
        }
        Op::Mask { path, .. } if errno == Errno::EBUSY => {
            let path = path.to_string_lossy();
            Error::new(Kind::Config, format!("{}: {path:?} is the root, which cannot be hidden: remove it", step.field))
        }
        Op::MakeDevice { device, .. } if errno == Errno::EEXIST => {
            let path = device.path.to_string_lossy();
            let problem = format!("{path:?} exists already and is not that device: remove it from the rootfs");
            Error::new(Kind::System, format!("{}: {problem}", step.field))
        }
        Op::MakeDevice { host, .. } | Op::BindDevice { host, .. } if errno == Errno::ENXIO => {
            let host = host.to_string_lossy();
            let problem = format!("the host's {host:?}, which is bound in its place, is another device");
            let what_to_do = "give its type and numbers, or another path";
            Error::new(Kind::Config, format!("{}: {problem}: {what_to_do}", step.field))
        }
        Op::CopyUp { .. } if errno == Errno::ENAMETOOLONG => {
            let deepest = crate::init::DEEPEST_COPY;
            let problem = format!("tmpcopyup: directories are nested more than {deepest} deep: leave out that option");
            Error::new(Kind::System, format!("error mounting {}: {problem}", step.field))
        }
        Op::SetBindAttributes { .. } | Op::SetLockedAttributes { .. } if errno == Errno::EPERM => {
            let problem = "a user namespace may not take back what the host's mount forbids, nor change how access times \
                           are kept: leave out the options that would";
            Error::new(Kind::System, format!("error mounting {}: {}: {problem}", step.field, describe(errno)))
        }
        Op::RequireProcfs { .. } => Error::new(
            Kind::Config,
            format!(
                "{}: \"/proc\" cannot be mounted because its source is not of type proc: mount a procfs there",
                step.field
            ),
        ),
        Op::PivotRoot { .. } if matches!(errno, Errno::EPERM | Errno::EINVAL) => {
            let problem = "a seccomp filter around microrun forbids it, or its root is an initramfs: give --no-pivot";
            Error::new(Kind::System, format!("{}: {}: {}: {problem}", step.field, step.op, describe(errno)))
                .with_errno(errno)
        }
        Op::Scheduler { .. } if errno == Errno::EPERM => {
            let problem = "operation not permitted: a deadline needs CAP_SYS_NICE, and \
                           process scheduler can't be used together with AllowedCPUs (linux.resources.cpu.cpus)";
            Error::new(Kind::System, format!("{}: {}: {problem}", step.field, step.op)).with_errno(errno)
        }
        op => Error::system(format!("{}: {op}", step.field), errno),
    }
}

/// Whether a value has a comma, which file systems that know only the options of mount(2) take for the end of it.
fn has_comma(options: &[(CString, Option<CString>)]) -> bool {
    options.iter().filter_map(|(_, value)| value.as_ref()).any(|value| value.to_bytes().contains(&b','))
}

fn target_problem(path: &str, rule: crate::init::Rule, errno: Errno) -> String {
    use crate::init::Rule;
    match (rule, errno) {
        (Rule::OffProc, Errno::EPERM) => {
            format!("{path:?} cannot be mounted because it is inside /proc: choose another destination")
        }
        (Rule::PlainDirectory, Errno::ELOOP | Errno::ENOTDIR) => {
            format!("{path:?} must be mounted on ordinary directory: remove the symbolic link or file from the rootfs")
        }
        (Rule::OffProc, Errno::EBUSY) => {
            format!("the destination {path:?} leads to the root by a symbolic link: make \"/\" the destination")
        }
        (_, Errno::ENOTDIR) => {
            format!("the destination {path:?}: not a directory: source and destination must be of one kind")
        }
        _ => format!("make the destination {path:?} in the rootfs: {}", describe(errno)),
    }
}

fn program(exec: &Exec) -> String {
    exec.args.get(0).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The program was found, and yet the kernel does not execute it: its interpreter is missing, or it is no program.
fn refused_by_execve(exec: &Exec, errno: Errno) -> Error {
    let kind = match errno {
        Errno::ENOENT => Kind::NoProgram,
        Errno::EACCES | Errno::EPERM | Errno::ENOEXEC => Kind::NotExecutable,
        _ => Kind::System,
    };
    Error::new(kind, format!("exec {}: {}", program(exec), describe(errno)))
}

/// As engines know it: they tell 127 from 126 by these words.
fn not_found(exec: &Exec, errno: Errno) -> Error {
    let name = program(exec);
    let searched = !name.contains('/');
    let (kind, problem) = match errno {
        Errno::ENOENT if searched => (Kind::NoProgram, "executable file not found in $PATH".to_owned()),
        Errno::ENOENT => (Kind::NoProgram, format!("stat {name}: no such file or directory")),
        Errno::EACCES | Errno::EPERM => (Kind::NotExecutable, "permission denied".to_owned()),
        Errno::EISDIR => (Kind::NotExecutable, "is a directory: permission denied".to_owned()),
        Errno::ENOEXEC => (Kind::NotExecutable, "exec format error".to_owned()),
        errno => (Kind::System, describe(errno)),
    };
    Error::new(kind, format!("exec: {name:?}: {problem}"))
}
