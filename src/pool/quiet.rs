//! Containers of which it is certain that they neither use nor change their network namespace, whatever their program does.
//!
//! A process uses a network namespace by a socket. Its seccomp filter can keep it from having one: docs/pools-isolation.md has the argument, call by call. What is looked
//! at after the end of such a container is then what others may have done, and there is nothing to wait for.

use super::network::is_read_only;
use crate::plan::seccomp::Filter;
use crate::spec::{is_bind, makes_namespace};
use libc::c_long;
use oci_spec::runtime::{Capability, Linux, LinuxNamespaceType, Mount, Process, Spec};

/// System calls by which nobody who has no socket gets one, enters a namespace, mounts, loads code into the kernel or has it
/// open a socket for him. What is not listed may do so, or has not been thought about.
///
/// Not here although programs use them: ioctl(2), by which a terminal gets a line discipline (`TIOCSETD`) that makes network
/// devices; and all that takes descriptors from elsewhere but recvmsg(2), which takes a socket to begin with.
const HARMLESS: [c_long; 155] = [
    // Files.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_umask,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_tee,
    libc::SYS_vmsplice,
    libc::SYS_pipe2,
    libc::SYS_memfd_create,
    // Waiting.
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_inotify_rm_watch,
    libc::SYS_signalfd4,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime,
    // Memory.
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_mlock,
    libc::SYS_munlock,
    libc::SYS_msync,
    libc::SYS_membarrier,
    libc::SYS_brk,
    // Threads and processes.
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_wait4,
    libc::SYS_waitid,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
    libc::SYS_getcpu,
    libc::SYS_prctl,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getpgid,
    libc::SYS_setpgid,
    libc::SYS_getsid,
    libc::SYS_setsid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_getpriority,
    libc::SYS_getrlimit,
    libc::SYS_setrlimit,
    libc::SYS_prlimit64,
    libc::SYS_getrusage,
    libc::SYS_capget,
    // Signals.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending,
    libc::SYS_rt_sigsuspend,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_sigaltstack,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_restart_syscall,
    // Time.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_getitimer,
    libc::SYS_setitimer,
    libc::SYS_timer_create,
    libc::SYS_timer_settime,
    libc::SYS_timer_gettime,
    libc::SYS_timer_getoverrun,
    libc::SYS_timer_delete,
    // The machine.
    libc::SYS_getrandom,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_sync,
    libc::SYS_syncfs,
    // Descriptors from a socket, of which there is none: a sandbox waits by it.
    libc::SYS_recvmsg,
];

/// As [`HARMLESS`]: older ways, which other architectures have not.
#[cfg(target_arch = "x86_64")]
const OLDER: [c_long; 30] = [
    libc::SYS_open,
    libc::SYS_creat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_getdents,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_symlink,
    libc::SYS_chmod,
    libc::SYS_chown,
    libc::SYS_lchown,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_eventfd,
    libc::SYS_poll,
    libc::SYS_select,
    libc::SYS_epoll_create,
    libc::SYS_epoll_wait,
    libc::SYS_inotify_init,
    libc::SYS_fork,
    libc::SYS_vfork,
    libc::SYS_getpgrp,
    libc::SYS_alarm,
    libc::SYS_time,
    libc::SYS_arch_prctl,
];

#[cfg(not(target_arch = "x86_64"))]
const OLDER: [c_long; 0] = [];

/// Whether that is certain of a container of `spec`, with its `filter`, whose network namespace it cannot change
/// ([`super::network::can_change`]) and that has no socket for stdin, stdout or stderr.
pub fn is_quiet(spec: &Spec, filter: Option<&Filter>) -> bool {
    let calls = || [&HARMLESS[..], &OLDER].concat();
    has_usual_devices(spec)
        && spec.mounts().iter().flatten().all(is_its_own)
        && filter.is_some_and(|filter| filter.listener.is_none() && filter.permits_only(&calls()))
}

/// Whether such a container leaves its mount and IPC namespaces as it found them, and the next one's would be the same: all that is mounted is
/// read-only and depends on nothing but the configuration, and nothing in it belongs to who runs. (No call by which anything is mounted or a System V
/// object or queue is made is on the list. fcntl(2) is, by which the owner of a file gives it a hint, `F_SET_RW_HINT`: it must be one of the kernels
/// where nobody else can, [`crate::sys::fs::only_owners_give_hints`].)
pub fn keeps_rooms(spec: &Spec) -> bool {
    let makes = |kind| makes_namespace(spec, kind);
    let linux = spec.linux().as_ref();
    let is_empty =
        |paths: Option<&Option<Vec<String>>>| paths.is_none_or(|paths| paths.iter().flatten().next().is_none());
    let propagation = linux.and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or_default();
    [LinuxNamespaceType::Mount, LinuxNamespaceType::Ipc, LinuxNamespaceType::Pid].into_iter().all(makes)
        && spec.root().as_ref().is_some_and(|root| root.readonly().unwrap_or(false))
        && spec.mounts().iter().flatten().all(is_fixed)
        // What is hidden depends on what there is to hide.
        && is_empty(linux.map(Linux::masked_paths))
        && is_empty(linux.map(Linux::readonly_paths))
        && matches!(propagation, "" | "private" | "rprivate" | "slave" | "rslave")
        && spec.process().as_ref().is_some_and(owns_nothing)
}

/// Whether it has no terminal, and neither is nor becomes the owner of what is mounted for it, or somebody who may do what that one may.
fn owns_nothing(process: &Process) -> bool {
    !process.terminal().unwrap_or(false)
        && process.user().uid() != 0
        && process.no_new_privileges().unwrap_or(false)
        && !may_have(process, &[Capability::Fowner, Capability::Setuid])
}

/// Whether one of its sets has one of these capabilities.
pub(super) fn may_have(process: &Process, any: &[Capability]) -> bool {
    let Some(sets) = process.capabilities() else { return false };
    let all = [sets.bounding(), sets.effective(), sets.permitted(), sets.inheritable(), sets.ambient()];
    all.into_iter().flatten().any(|set| any.iter().any(|capability| set.contains(capability)))
}

/// Whether it is a file system without content of its own, root's, which nobody can write to. Its mode is given: else it would be that of what lies
/// below it, which may change.
fn is_fixed(mount: &Mount) -> bool {
    const FLAGS: [&str; 5] = ["ro", "nosuid", "nodev", "noexec", "noatime"];
    const VALUES: [&str; 4] = ["mode", "size", "nr_inodes", "gid"];
    let is_known = |option: &String| match option.split_once('=') {
        Some((name, _)) => VALUES.contains(&name),
        None => FLAGS.contains(&option.as_str()),
    };
    mount.typ().as_deref() == Some("tmpfs")
        && is_read_only(mount)
        && mount.options().iter().flatten().all(is_known)
        && mount.options().iter().flatten().any(|option| option.starts_with("mode="))
        && mount.uid_mappings().is_none()
        && mount.gid_mappings().is_none()
}

/// Whether no device is to be had but those that every container has: by writing to some (rdma_cm) one uses a network.
fn has_usual_devices(spec: &Spec) -> bool {
    let Some(linux) = spec.linux() else { return true };
    let rules = linux.resources().as_ref().and_then(|resources| resources.devices().as_deref()).unwrap_or_default();
    linux.devices().as_deref().unwrap_or_default().is_empty() && !rules.iter().any(|rule| rule.allow())
}

/// Whether nobody else has the file system, and nothing of the network can be written to in it, as it can in some modules' files below /proc/net.
fn is_its_own(mount: &Mount) -> bool {
    match mount.typ().as_deref() {
        _ if is_bind(mount) => false,
        Some("tmpfs" | "devpts" | "mqueue") => true,
        Some("proc") => is_read_only(mount),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::seccomp::obtain;
    use serde_json::{Value, json};

    /// `spec --action`'s, changed.
    fn is_quiet_with(change: impl FnOnce(&mut Value)) -> bool {
        let mut config: Value = serde_json::from_str(include_str!("../spec/default/action.json")).unwrap();
        change(&mut config);
        let loaded = crate::spec::parse(config.to_string().as_bytes()).unwrap();
        let filter = loaded.seccomp.and_then(|seccomp| obtain(&seccomp, None).unwrap().filter);
        is_quiet(&loaded.spec, filter.as_ref())
    }

    fn add(config: &mut Value, rule: Value) {
        config["linux"]["seccomp"]["syscalls"].as_array_mut().unwrap().push(rule);
    }

    #[test]
    fn an_action_is_quiet() {
        assert!(is_quiet_with(|_| {}));
    }

    #[test]
    fn a_call_by_which_one_gets_a_socket_is_enough() {
        for name in [
            "socket",
            "socketpair",
            "accept4",
            "io_uring_setup",
            "io_uring_enter",
            "setns",
            "unshare",
            "pidfd_getfd",
            "ioctl",
            "bpf",
            "mount",
            "fsopen",
            "open_by_handle_at",
            "ptrace",
            "add_key",
            "mq_notify",
            "init_module",
            "seccomp",
        ] {
            let others: &[&str] = if name == "socket" { &["SCMP_ACT_LOG", "SCMP_ACT_TRACE"] } else { &[] };
            for action in ["SCMP_ACT_ALLOW"].iter().chain(others) {
                let rule = json!({"names": [name], "action": action});
                assert!(!is_quiet_with(|config| add(config, rule)), "{name} {action}");
            }
            for action in ["SCMP_ACT_ERRNO", "SCMP_ACT_KILL", "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_TRAP"] {
                let rule = json!({"names": [name], "action": action});
                assert!(is_quiet_with(|config| add(config, rule)), "{name} {action}");
            }
            // With an argument that the call may well have, in part or in full, or in all cases but one.
            for (value, op) in
                [(1, "SCMP_CMP_EQ"), (1, "SCMP_CMP_NE"), (0x1_0000_0000u64, "SCMP_CMP_GE"), (9, "SCMP_CMP_LT")]
            {
                let args = json!([{"index": 0, "value": value, "op": op}]);
                let rule = json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": args});
                assert!(!is_quiet_with(|config| add(config, rule)), "{name} {op}");
            }
        }
    }

    #[test]
    fn conditions_on_harmless_calls_do_no_harm() {
        let args =
            json!([{"index": 1, "value": 3, "op": "SCMP_CMP_GT"}, {"index": 2, "value": 7, "op": "SCMP_CMP_NE"}]);
        assert!(is_quiet_with(|config| add(
            config,
            json!({"names": ["kill"], "action": "SCMP_ACT_ALLOW", "args": args})
        )));
    }

    #[test]
    fn a_list_of_what_is_forbidden_is_not_enough() {
        let forbid = |config: &mut Value| {
            config["linux"]["seccomp"] = json!({
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["socket", "socketpair", "io_uring_setup", "setns"], "action": "SCMP_ACT_ERRNO"}],
            });
        };
        assert!(!is_quiet_with(forbid));
        let log = json!({"defaultAction": "SCMP_ACT_LOG", "syscalls": []});
        assert!(!is_quiet_with(|config| config["linux"]["seccomp"] = log));
        assert!(!is_quiet_with(|config| config["linux"]["seccomp"] = json!({})));
        assert!(!is_quiet_with(|config| drop(config["linux"].as_object_mut().unwrap().remove("seccomp"))));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn the_numbers_of_other_architectures_are_none_of_its_own() {
        // There "read" is another number, which is another call here.
        for arch in ["SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64"] {
            let architectures = json!(["SCMP_ARCH_X86_64", arch]);
            assert!(!is_quiet_with(|config| config["linux"]["seccomp"]["architectures"] = architectures), "{arch}");
        }
        let own = json!(["SCMP_ARCH_X86_64"]);
        assert!(is_quiet_with(|config| config["linux"]["seccomp"]["architectures"] = own));
    }

    #[test]
    fn an_engines_profile_is_not_quiet() {
        let engine: Value = serde_json::from_str(include_str!("../../tests/data/seccomp-engine.json")).unwrap();
        assert!(!is_quiet_with(|config| config["linux"]["seccomp"] = engine));
    }

    #[test]
    fn file_systems_and_devices_of_others_are_a_way_out() {
        let proc =
            |options: Value| json!({"destination": "/proc", "type": "proc", "source": "proc", "options": options});
        let with = |mount: Value| is_quiet_with(|config| config["mounts"].as_array_mut().unwrap().push(mount));
        assert!(with(proc(json!(["ro"]))));
        assert!(with(proc(json!(["rw", "ro"]))));
        assert!(!with(proc(json!(["ro", "rw"]))));
        assert!(!with(proc(json!([]))));
        assert!(!with(json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"]})));
        assert!(!with(json!({"destination": "/mnt", "type": "tmpfs", "source": "/proc", "options": ["bind", "ro"]})));
        assert!(!with(json!({"destination": "/mnt", "type": "nfs", "source": "host:/"})));
        let device = json!([{"path": "/dev/x", "type": "c", "major": 10, "minor": 200}]);
        assert!(!is_quiet_with(|config| config["linux"]["devices"] = device));
        let rule = |allow: bool| json!({"devices": [{"allow": allow, "access": "rwm"}]});
        assert!(!is_quiet_with(|config| config["linux"]["resources"] = rule(true)));
        assert!(is_quiet_with(|config| config["linux"]["resources"] = rule(false)));
    }

    /// Whether `spec --action`'s container, changed, leaves its rooms as they were.
    fn keeps_rooms_with(change: impl FnOnce(&mut Value)) -> bool {
        let mut config: Value = serde_json::from_str(include_str!("../spec/default/action.json")).unwrap();
        change(&mut config);
        keeps_rooms(&crate::spec::parse(config.to_string().as_bytes()).unwrap().spec)
    }

    #[test]
    fn an_action_leaves_its_rooms_as_they_were() {
        assert!(keeps_rooms_with(|_| {}));
        assert!(keeps_rooms_with(|config| config["mounts"] = json!([])));
        assert!(keeps_rooms_with(|config| config["linux"]["rootfsPropagation"] = json!("rprivate")));
    }

    #[test]
    fn what_can_be_written_to_or_depends_on_more_than_the_configuration_does_not() {
        assert!(!keeps_rooms_with(|config| config["root"]["readonly"] = json!(false)));
        assert!(!keeps_rooms_with(|config| drop(config["root"].as_object_mut().unwrap().remove("readonly"))));
        assert!(!keeps_rooms_with(|config| config["process"]["terminal"] = json!(true)));
        assert!(!keeps_rooms_with(|config| config["process"]["user"]["uid"] = json!(0)));
        assert!(!keeps_rooms_with(|config| config["process"]["noNewPrivileges"] = json!(false)));
        assert!(keeps_rooms_with(|config| config["process"]["capabilities"] = json!({"bounding": ["CAP_KILL"]})));
        for set in ["bounding", "effective", "permitted", "inheritable", "ambient"] {
            for capability in ["CAP_FOWNER", "CAP_SETUID"] {
                let with = |config: &mut Value| config["process"]["capabilities"] = json!({set: [capability]});
                assert!(!keeps_rooms_with(with), "{set} {capability}");
            }
        }
        for propagation in ["shared", "rshared", "unbindable", "runbindable"] {
            assert!(
                !keeps_rooms_with(|config| config["linux"]["rootfsPropagation"] = json!(propagation)),
                "{propagation}"
            );
        }
        for paths in ["maskedPaths", "readonlyPaths"] {
            assert!(!keeps_rooms_with(|config| config["linux"][paths] = json!(["/etc"])), "{paths}");
        }
        for kind in ["pid", "mount", "ipc"] {
            let without = |config: &mut Value| {
                config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != kind);
            };
            assert!(!keeps_rooms_with(without), "{kind}");
        }
        let with = |mount: Value| keeps_rooms_with(|config| config["mounts"].as_array_mut().unwrap().push(mount));
        let tmpfs = |options: Value| {
            with(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": options}))
        };
        assert!(tmpfs(json!(["ro", "nosuid", "size=1m", "mode=755"])));
        assert!(!tmpfs(json!(["ro", "nosuid", "size=1m"])));
        assert!(!tmpfs(json!(["ro", "mode=755", "uid=65534"])));
        for mut options in [
            json!([]),
            json!(["rw"]),
            json!(["ro", "rw"]),
            json!(["ro", "tmpcopyup"]),
            json!(["ro", "rshared"]),
            json!(["ro", "idmap"]),
            json!(["ro", "bind"]),
            json!(["ro", "remount"]),
        ] {
            options.as_array_mut().unwrap().push(json!("mode=755"));
            assert!(!tmpfs(options.clone()), "{options}");
        }
        for kind in ["proc", "sysfs", "devpts", "mqueue", "cgroup", "cgroup2", "ramfs", "bind"] {
            let mount = json!({"destination": "/mnt", "type": kind, "source": "/mnt", "options": ["ro"]});
            assert!(!with(mount), "{kind}");
        }
    }
}
