//! Who may ask a pool, and what: others are refused and start cold, and nothing that is sent makes a pool crash, wait or lose
//! a descriptor.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::pool::{Pool, run_args};
use common::{Bundle, Output, eventually, host, output};
use microrun::sys::request::{self, Header};
use microrun::sys::{process, socket};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::json;
use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// The run of a bundle by `wrapper`, which executes the arguments that it is given. It is named by its path: busybox's shell
/// would prefer its own, which knows fewer options.
fn run_by(pool: &Pool, wrapper: &[&str], args: &[&str]) -> Output {
    let run = pool.lab.command(args);
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(run.get_program()).args(run.get_args());
    let mut command = pool.lab.in_own_cgroup(&command);
    command.env("MICRORUN_POOL", pool.socket());
    output(command)
}

/// Both modes of a run that the pool must refuse: what `require` says, and that `prefer` starts cold.
#[track_caller]
fn refused(pool: &Pool, bundle: &Bundle, wrapper: &[&str], reason: &str) {
    let before = pool.served();
    let told = run_by(pool, wrapper, &run_args(bundle, &[])).failed();
    assert!(told.contains(reason), "{wrapper:?}: {told}");
    let path = bundle.path.to_str().unwrap();
    let cold = run_by(pool, wrapper, &["run", "--bundle", path]);
    // Some of these cannot make containers at all.
    assert!(cold.code != 0 || cold.stdout == "hello", "{wrapper:?}: {cold:?}");
    assert_eq!(pool.served(), before, "{wrapper:?}");
}

#[test]
fn who_is_elsewhere_starts_cold() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let cases: [(&[&str], &str); 8] = [
        (&["/usr/bin/unshare", "-n"], "network or pid namespace"),
        (&["/usr/bin/unshare", "-p", "-f"], "network or pid namespace"),
        (&["/usr/bin/unshare", "-m"], "mount namespace or root"),
        (&["/usr/bin/unshare", "-U", "-r"], "other rights"),
        (&["/usr/bin/nice", "-n", "5"], "nice value"),
        (&["/usr/bin/setpriv", "--bounding-set=-sys_admin", "--inh-caps=-all"], "other rights"),
        (&["/usr/bin/setpriv", "--bounding-set=-all", "--inh-caps=-all"], "other rights"),
        (&["/usr/bin/setpriv", "--no-new-privs"], "privileges"),
    ];
    for (wrapper, reason) in cases {
        refused(&pool, &bundle, wrapper, reason);
    }
    // It was there all the time.
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
}

#[test]
fn who_may_do_more_than_the_pool_starts_cold() {
    let mut pool = pool!();
    pool.kill();
    let socket = pool.socket();
    let serve = pool.lab.command(&["pool", "serve", "--socket", socket.to_str().unwrap()]);
    let mut command = Command::new("/usr/bin/setpriv");
    command.args(["--bounding-set=-kill", "--inh-caps=-all"]).arg(serve.get_program()).args(serve.get_args());
    pool.server = pool.lab.in_own_cgroup(&command).stdin(Stdio::null()).spawn().unwrap();
    // It may be asked how it is, and be told what to hold.
    eventually(|| pool.try_status().is_some());
    let bundle = pool.filled(1, "echo hello", |_| {});
    refused(&pool, &bundle, &["/usr/bin/env"], "other rights");
    let as_many = ["/usr/bin/setpriv", "--bounding-set=-kill", "--inh-caps=-all"];
    assert_eq!(run_by(&pool, &as_many, &run_args(&bundle, &[])).ok(), "hello");
}

#[test]
fn who_would_share_another_namespace_with_the_container_starts_cold() {
    let pool = pool!();
    for (kind, option) in [("ipc", "-i"), ("uts", "-u")] {
        let bundle = pool.filled(1, "echo hello", |config| {
            config["linux"]["namespaces"].as_array_mut().unwrap().retain(|one| one["type"] != kind);
        });
        refused(&pool, &bundle, &["/usr/bin/unshare", option], "IPC or UTS namespace");
        assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
    }
    let bundle = pool.filled(1, "echo hello", |_| {});
    assert_eq!(run_by(&pool, &["/usr/bin/unshare", "-i", "-u"], &run_args(&bundle, &[])).ok(), "hello");
}

#[test]
fn another_user_is_refused() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let user = ["/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"];
    refused(&pool, &bundle, &user, "another user");
    // The mode of the directory is not all that there is.
    for path in ["pool", "pool/socket"] {
        host("chmod", &["777", pool.lab.path(path).to_str().unwrap()]);
    }
    refused(&pool, &bundle, &user, "another user");
}

#[test]
fn who_is_in_another_root_is_refused() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let root = pool.lab.path("");
    let bundle_inside = format!("/{}", bundle.path.file_name().unwrap().to_str().unwrap());
    let mut command = Command::new("chroot");
    command.arg(root).args(["/microrun", "--root", "/run", "run", "--pool=require", "--bundle", &bundle_inside]);
    command.env("MICRORUN_POOL", "/pool/socket");
    let told = output(command).failed();
    assert!(told.contains("mount namespace or root"), "{told}");
    assert_eq!(pool.served(), 0);
}

#[test]
fn closed_stdio_is_never_the_way_to_the_pool() {
    let pool = pool!();
    let bundle = pool.filled(2, "for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done; true", |_| {});
    let path = bundle.operand();
    for closed in ["<&-", "2>&-", "<&- 2>&-"] {
        let script = format!("exec \"$@\" {closed}");
        let seen = run_by(&pool, &["sh", "-c", &script, "sh"], &["run", &path]).ok();
        assert!(!seen.contains("socket:"), "{closed}: {seen}");
    }
}

/// Sends a request as this process, which may ask, with any bytes and descriptors. The answer, if there is one.
fn send(pool: &Pool, bytes: &[u8], more: &[RawFd], with_answers: bool) -> Option<Vec<u8>> {
    let (ours, theirs) = socket::packets().unwrap();
    let to = microrun::sys::own(socket::datagram().unwrap());
    socket::connect(to.as_raw_fd(), pool.socket().as_os_str().as_bytes()).unwrap();
    let first = with_answers.then_some(theirs.as_raw_fd());
    let fds: Vec<RawFd> = first.into_iter().chain(more.iter().copied()).collect();
    socket::send_fds(to.as_raw_fd(), &[bytes], &fds).unwrap();
    drop(theirs);
    let mut text = [0; request::ANSWER];
    assert!(request::is_told(ours.as_raw_fd()), "the pool does not answer: {bytes:?}");
    let (count, _) = socket::receive_fd(ours.as_raw_fd(), &mut text).unwrap();
    (count > 0).then(|| text[..count].to_vec())
}

fn header(kind: u32, root: usize, id: usize) -> Header {
    let to = microrun::sys::own(socket::datagram().unwrap());
    let header = Header::of_this_process(kind, 0, to.as_raw_fd()).unwrap();
    Header { root: root as u32, id: id as u32, ..header }
}

fn null() -> OwnedFd {
    fs::File::options().read(true).write(true).open("/dev/null").unwrap().into()
}

fn request(kind: u32, root: &[u8], id: &[u8]) -> Vec<u8> {
    [header(kind, root.len(), id.len()).bytes(), root, id].concat()
}

#[track_caller]
fn assert_cold(answer: Option<Vec<u8>>, what: &str) {
    // Where the answers' socket was dropped with the rest there is none.
    assert!(answer.as_ref().is_none_or(|text| text[0] == request::answer::COLD), "{what}: {answer:?}");
}

#[test]
fn malformed_requests_are_refused_and_leave_nothing() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let directory = fs::File::open(&bundle.path).unwrap();
    let null = null();
    let (place, out) = (directory.as_raw_fd(), null.as_raw_fd());
    let stdio = [place, out, out, out];
    let root = pool.lab.path("run");
    let root = root.as_os_str().as_bytes();
    let good = request(request::RUN, root, b"");
    // It keeps the null device that it lends, from the first request on.
    let before = pool.descriptors() + 1;

    for bytes in [&b""[..], b"x", &good[..10], &good[..good.len() - 1], &[0; 4000], &[0xff; 4096], &[0; 20000]] {
        assert_cold(send(&pool, bytes, &stdio, true), "bytes");
    }
    for kind in [0, 7, u32::MAX] {
        let answer = send(&pool, &request(kind, root, b""), &stdio, true);
        assert_eq!(answer.unwrap()[0], request::answer::FAILED);
    }
    let mut lengths = header(request::RUN, root.len(), 0);
    for (of_root, of_id) in [(u32::MAX, 0), (0, u32::MAX), (u32::MAX, u32::MAX), (root.len() as u32 + 1, 0), (0, 0)] {
        (lengths.root, lengths.id) = (of_root, of_id);
        assert_cold(send(&pool, &[lengths.bytes(), root].concat(), &stdio, true), "lengths");
    }
    for fds in [&[][..], &[place], &[place, out], &[place, out, out]] {
        assert_cold(send(&pool, &good, fds, true), "descriptors");
        // Without a socket for answers there is nobody to tell, and the first of the others is not one.
        send(&pool, &good, fds, false);
    }
    assert_cold(send(&pool, &good, &[out, out, out, out], true), "no directory");
    let long = vec![b'a'; 2000];
    for id in [&b".."[..], b".", b"/", b"a/b", b"../x", b"\xff\xfe", b"a\0b", b"\n", &long, b"-x/.."] {
        assert_cold(send(&pool, &request(request::RUN, root, id), &stdio, true), "id");
    }
    for other in [&b""[..], b"run", b"../run", b"/proc/self/none", b"/dev/shm/microrun-none", b"/dev/null", b"a\0b"] {
        assert_cold(
            send(&pool, &request(request::RUN, other, b""), &stdio, true),
            OsStr::from_bytes(other).to_str().unwrap(),
        );
    }
    common::eventually(|| pool.descriptors() <= before);
    assert_eq!(pool.served(), 0);
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
    let _ = fs::remove_dir("/dev/shm/microrun-none");
}

/// A client's sockets for the answers, and to the pool.
fn client(pool: &Path) -> (OwnedFd, OwnedFd, OwnedFd) {
    let (ours, theirs) = socket::packets().unwrap();
    let to = microrun::sys::own(socket::datagram().unwrap());
    socket::connect(to.as_raw_fd(), pool.as_os_str().as_bytes()).unwrap();
    (ours, theirs, to)
}

#[test]
fn who_keeps_the_pools_end_of_a_connection_open_does_not_keep_it_busy() {
    let pool = pool!("--parts=1");
    let bundle = pool.filled(1, "read line", |_| {});
    pool.await_networks(1);
    let (directory, null, root) = (fs::File::open(&bundle.path).unwrap(), null(), pool.lab.path("run"));
    let (reader, writer) = std::io::pipe().unwrap();
    let root = root.as_os_str().as_bytes();
    let make = Header { flags: request::NETWORK, ..header(request::MAKE, 0, 0) };
    let hear = |answers: &OwnedFd, kind: u8| {
        let mut text = [0; request::ANSWER];
        assert!(request::is_told(answers.as_raw_fd()));
        let (_, fd) = socket::receive_fd(answers.as_raw_fd(), &mut text).unwrap();
        assert_eq!(text[0], kind);
        drop(fd.map(microrun::sys::own));
    };
    let ask = |bytes: &[u8]| {
        let (ours, theirs, to) = client(&pool.socket());
        let (place, out) = (directory.as_raw_fd(), null.as_raw_fd());
        let fds = [theirs.as_raw_fd(), place, reader.as_raw_fd(), out, out];
        socket::send_fds(to.as_raw_fd(), &[bytes], &fds).unwrap();
        (ours, theirs)
    };
    let (runs, end_of_run) = ask(&request(request::RUN, root, b""));
    hear(&runs, request::answer::STARTED);
    let (makes, end_of_make) = ask(make.bytes());
    hear(&makes, request::answer::PARTS);
    // It is watched once there is nothing else to do.
    eventually(|| pool.status()["running"] == 1 && pool.status()["parts"]["networks"] == 1);
    drop(writer);
    hear(&runs, request::answer::EXITED);
    drop((runs, makes));
    // What replaces them has been made, and nothing else is left to be done.
    eventually(|| {
        let status = pool.status();
        let (sandboxes, parts) = (&status["bundles"][0], &status["parts"]);
        let is_full = sandboxes["ready"] == 1 && parts["networks"] == 1;
        let is_at_rest = sandboxes["beingMade"] == 0 && parts["beingMade"] == 0;
        is_full && is_at_rest && parts["lent"] == 0 && parts["pending"] == 0 && status["pending"] == 0
    });
    let used = || process::cpu_time_of(pool.server.id().cast_signed()).unwrap();
    let before = used();
    let asleep = std::time::Duration::from_millis(500);
    std::thread::sleep(asleep);
    let used = used() - before;
    assert!(used < asleep / 2, "{used:?}");
    drop((end_of_run, end_of_make));
}

#[test]
fn more_descriptors_than_a_request_has_are_dropped() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let (directory, null) = (fs::File::open(&bundle.path).unwrap(), null());
    // It keeps the null device that it lends, from the first request on.
    let before = pool.descriptors() + 1;
    let good = request(request::RUN, pool.lab.path("run").as_os_str().as_bytes(), b"");
    for count in [1, 2, 7, 100, 248] {
        let (ours, theirs, to) = client(&pool.socket());
        let stdio = [null.as_raw_fd(); 3];
        let more = vec![null.as_raw_fd(); count];
        let fds = [&[theirs.as_raw_fd(), directory.as_raw_fd()][..], &stdio, &more].concat();
        let parts = [std::io::IoSlice::new(&good)];
        let rights = [ControlMessage::ScmRights(&fds)];
        sendmsg::<()>(to.as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).unwrap();
        drop(theirs);
        let mut text = [0; request::ANSWER];
        assert!(request::is_told(ours.as_raw_fd()), "{count}");
        let (length, _) = socket::receive_fd(ours.as_raw_fd(), &mut text).unwrap();
        assert_cold((length > 0).then(|| text[..length].to_vec()), "many descriptors");
    }
    common::eventually(|| pool.descriptors() <= before);
    assert_eq!(pool.served(), 0);
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
}

#[test]
fn a_flood_of_requests_does_not_keep_the_pool_from_anything_else() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let (is_over, socket) = (AtomicBool::new(false), pool.socket());
    let flood = || {
        let null = null();
        let (_ours, theirs, to) = client(&socket);
        // Nobody reads what is answered.
        let bytes = request(request::STATUS, b"", b"");
        let fds = [theirs.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd()];
        while !is_over.load(Ordering::Relaxed) {
            // It fails once there is no pool any more.
            let _ = microrun::sys::socket::send_fds(to.as_raw_fd(), &[&bytes], &fds);
        }
    };
    std::thread::scope(|scope| {
        (0..4).for_each(|_| drop(scope.spawn(flood)));
        // It is served, its end is heard of, another is made, and the pool ends when it is told to.
        assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
        common::eventually(|| pool.is_gone(1));
        host("kill", &[&pool.server.id().to_string()]);
        common::eventually(|| !pool.socket().exists());
        is_over.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_sandbox_that_cannot_take_its_descriptors_never_began() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |config| drop(config["process"]["rlimits"].take()));
    let (directory, null) = (fs::File::open(&bundle.path).unwrap(), null());
    let root = pool.lab.path("run");
    let root = root.as_os_str().as_bytes();
    let mut header = header(request::RUN, root.len(), 0);
    header.limits[process::NOFILE as usize] = [2, 2];
    let (ours, theirs, to) = client(&pool.socket());
    let fds = [theirs.as_raw_fd(), directory.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd()];
    socket::send_fds(to.as_raw_fd(), &[header.bytes(), root], &fds).unwrap();
    drop(theirs);
    let mut heard = Vec::new();
    let mut text = [0; request::ANSWER];
    while let Ok((1.., _)) = socket::receive_fd(ours.as_raw_fd(), &mut text) {
        heard.push(text[0]);
    }
    assert_eq!(heard, [request::answer::STARTED, request::answer::COLD]);
    common::eventually(|| pool.is_gone(1));
}

#[test]
fn a_status_is_whole_with_many_bundles() {
    let pool = pool!();
    let path = pool.lab.path("a-name-that-is-as-long-as-names-of-bundles-are-at-times");
    fs::create_dir(&path).unwrap();
    let first = pool.lab.bundle(|config| drop(config["linux"].as_object_mut().unwrap().remove("cgroupsPath")));
    let mut config: serde_json::Value =
        serde_json::from_slice(&fs::read(first.path.join("config.json")).unwrap()).unwrap();
    config["root"]["path"] = serde_json::json!(first.rootfs());
    let bundles: Vec<_> = (0..600).map(|number| path.join(number.to_string())).collect();
    for bundle in &bundles {
        fs::create_dir(bundle).unwrap();
        fs::write(bundle.join("config.json"), config.to_string()).unwrap();
    }
    // Each call has a minute.
    for some in bundles.chunks(100) {
        let paths = some.iter().map(|bundle| bundle.to_str().unwrap());
        pool.microrun(&["pool", "fill", "--size=0"].into_iter().chain(paths).collect::<Vec<_>>()).ok();
    }
    // Also for who does not read at once.
    let (ours, theirs, to) = client(&pool.socket());
    let null = null();
    let fds = [theirs.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd()];
    socket::send_fds(to.as_raw_fd(), &[&request(request::STATUS, b"", b"")], &fds).unwrap();
    drop(theirs);
    assert_eq!(pool.status()["bundles"].as_array().unwrap().len(), 600);
    let (mut heard, mut text) = (Vec::new(), [0; request::ANSWER]);
    while let Ok((count @ 1.., _)) = socket::receive_fd(ours.as_raw_fd(), &mut text) {
        heard.extend_from_slice(&text[1..count]);
    }
    let status: serde_json::Value = serde_json::from_slice(&heard).unwrap();
    assert_eq!(status["bundles"].as_array().unwrap().len(), 600);
}

#[test]
fn who_does_not_listen_does_not_hold_the_pool_up() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let directory = fs::File::open(&bundle.path).unwrap();
    let null = null();
    // It keeps the null device that it lends, from the first request on.
    let before = pool.descriptors() + 1;
    let (ours, theirs) = socket::packets().unwrap();
    // A socket with no room left.
    while socket::send_fds_now(theirs.as_raw_fd(), &[&[0; 4096]], &[]).is_ok() {}
    let to = microrun::sys::own(socket::datagram().unwrap());
    socket::connect(to.as_raw_fd(), pool.socket().as_os_str().as_bytes()).unwrap();
    for kind in [request::STATUS, request::DRAIN, 77] {
        let fds = [theirs.as_raw_fd(), directory.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd(), null.as_raw_fd()];
        socket::send_fds(to.as_raw_fd(), &[&request(kind, b"", b"")], &fds).unwrap();
    }
    pool.microrun(&["pool", "fill", bundle.path.to_str().unwrap()]).ok();
    drop((ours, theirs));
    pool.await_ready(&bundle, 4);
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
    pool.microrun(&["pool", "drain", bundle.path.to_str().unwrap()]).ok();
    common::eventually(|| pool.descriptors() <= before);
}

#[test]
fn no_datagram_crashes_it() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let directory = fs::File::open(&bundle.path).unwrap();
    // It keeps the null device that it lends, from the first request on.
    let before = pool.descriptors() + 1;
    let good = request(request::RUN, pool.lab.path("none").as_os_str().as_bytes(), b"");
    // Not the root, nor its length: the pool would make the directory that they happen to name.
    let changes = prop::collection::vec((0..size_of::<Header>() - 8, any::<u8>()), 1..6);
    let mutated = (changes, 0..good.len() + 1, prop::bool::weighted(0.3)).prop_map(|(changes, end, is_cut)| {
        let mut bytes = good.clone();
        changes.into_iter().for_each(|(at, byte)| bytes[at] = byte);
        bytes.truncate(if is_cut { end } else { good.len() });
        bytes
    });
    let any_bytes = prop::collection::vec(any::<u8>(), 0..600);
    let datagram = prop_oneof![mutated, any_bytes];
    let mut runner = TestRunner::new(Config { cases: 2000, failure_persistence: None, ..Config::default() });
    // The bundle stands for stdio as well: no program can do anything with it.
    runner
        .run(&(datagram, 0usize..5), |(bytes, count)| {
            // Filling it with the bundle as often as a random number says would take long.
            if Header::read(&bytes).is_none_or(|header| header.kind != request::FILL) {
                send(&pool, &bytes, &vec![directory.as_raw_fd(); count], true);
            }
            Ok(())
        })
        .unwrap();
    pool.microrun(&["pool", "fill", "--size=1", bundle.path.to_str().unwrap()]).ok();
    pool.await_ready(&bundle, 1);
    assert_eq!(pool.run(&bundle, &[]).ok(), "hello");
    pool.await_ready(&bundle, 1);
    common::eventually(|| pool.descriptors() <= before);
    // Some were good enough to be served, and nobody has waited for what was started.
    let root = pool.lab.path("none");
    let of_root = |args: &[&str]| pool.microrun(&[&["--root", root.to_str().unwrap()], args].concat());
    for id in of_root(&["list", "-q"]).stdout.lines() {
        of_root(&["delete", "--force", id]).ok();
    }
}

#[test]
fn a_directory_that_others_may_change_is_none_for_a_pool() {
    let pool = pool!();
    let directory = pool.lab.path("theirs");
    let socket = directory.join("socket");
    fs::create_dir(&directory).unwrap();
    let serve = || pool.microrun(&["pool", "serve", "--socket", socket.to_str().unwrap()]).failed();
    let set = |path: &Path, owner: u32, mode: u32| {
        std::os::unix::fs::chown(path, Some(owner), None).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    for (owner, mode, expected) in [
        (1000, 0o700, "belongs to the user 1000"),
        (1000, 0o1777, "belongs to the user 1000"),
        (0, 0o777, "has the mode 777"),
        (0, 0o775, "has the mode 775"),
        // As /tmp has it: whoever is first has the name.
        (0, 0o1777, "has the mode 1777"),
    ] {
        set(&directory, owner, mode);
        let told = serve();
        assert!(told.contains(expected) && told.contains(directory.to_str().unwrap()), "{told}");
    }
    // Somebody may have been there before.
    set(&directory, 0, 0o700);
    for name in ["parked", "parts"] {
        let planted = directory.join(name);
        let _ = fs::create_dir(&planted);
        set(&planted, 1000, 0o700);
        let told = serve();
        assert!(told.contains(planted.to_str().unwrap()) && told.contains("belongs to"), "{told}");
        set(&planted, 0, 0o700);
    }
    assert!(!socket.exists());
    let serve = pool.lab.command(&["pool", "serve", "--socket", socket.to_str().unwrap()]);
    let mut server = pool.lab.in_own_cgroup(&serve).stdin(Stdio::null()).spawn().unwrap();
    eventually(|| socket.exists());
    host("kill", &[&server.id().to_string()]);
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_socket_of_somebody_else_is_none_of_a_pool() {
    let lab = lab!();
    let bundle = lab.bundle(|config| {
        config["process"]["args"] = json!(["echo", "hello"]);
        config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    });
    let socket = lab.path("socket");
    let theirs = UnixDatagram::bind(&socket).unwrap();
    theirs.set_nonblocking(true).unwrap();
    std::os::unix::fs::chown(&socket, Some(65534), None).unwrap();
    let ask = |args: &[&str]| {
        let mut command = lab.in_own_cgroup(&lab.command(args));
        command.env("MICRORUN_POOL", &socket);
        output(command)
    };
    let path = bundle.path.to_str().unwrap();
    assert_eq!(ask(&["run", &bundle.operand()]).ok(), "hello");
    assert_eq!(ask(&["run", "--bundle", path]).ok(), "hello");
    let asks: [&[&str]; 4] =
        [&run_args(&bundle, &[]), &["pool", "status"], &["pool", "fill", path], &["pool", "drain", path]];
    for args in asks {
        let told = ask(args).failed();
        assert!(told.contains("belongs to another user"), "{args:?}: {told}");
    }
    let at = microrun::pool::Pool::at(&socket, lab.path("run"), &bundle.path).unwrap();
    assert!(at.lease().is_err());
    // A link to one that is root's may lead elsewhere when it is followed.
    let link = lab.path("link");
    std::os::unix::fs::symlink(microrun::pool::SOCKET, &link).unwrap();
    std::os::unix::fs::lchown(&link, Some(65534), None).unwrap();
    let told = ask(&["pool", "status", "--socket", link.to_str().unwrap()]).failed();
    assert!(told.contains("belongs to another user"), "{told}");
    let sent = theirs.recv(&mut [0; 64]).map_err(|error| error.kind());
    assert_eq!(sent, Err(std::io::ErrorKind::WouldBlock), "it has been asked");
}

#[test]
fn whoever_asks_how_a_pool_is_hears_that_it_does_not_answer() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let (path, server) = (bundle.operand(), pool.server.id().to_string());
    host("kill", &["-STOP", &server]);
    let asks: [&[&str]; 3] = [&["status"], &["fill", &path], &["drain", &path]];
    // Not by a pipe: what the pool has not read keeps it open.
    let said = |args: &&[&str]| pool.lab.path(args[0]);
    let start = |args: &&[&str]| {
        let mut command = pool.command(&[&["pool"], *args].concat());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(said(args)).unwrap());
        command.spawn().unwrap()
    };
    let asking: Vec<_> = asks.iter().map(start).collect();
    for (mut one, args) in asking.into_iter().zip(&asks) {
        let code = one.wait().unwrap().code();
        let text = fs::read_to_string(said(args)).unwrap();
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains("does not answer") && text.contains(pool.socket().to_str().unwrap()), "{text}");
    }
    // Nothing is done for who has gone.
    host("kill", &["-CONT", &server]);
    assert_eq!(pool.status()["bundles"][0]["wanted"], 1);
}

#[test]
fn a_pool_that_does_not_answer_is_not_waited_for() {
    let pool = pool!();
    let bundle = pool.filled(1, "echo hello", |_| {});
    let server = pool.server.id().to_string();
    host("kill", &["-STOP", &server]);
    let path = bundle.operand();
    // Not by a pipe: what the pool has not read yet holds its end of one open.
    let to_file = |args: &[&str], name: &str| {
        let file = pool.lab.path(name);
        let mut command = pool.command(args);
        command.stdin(Stdio::null()).stdout(fs::File::create(&file).unwrap()).stderr(fs::File::create(&file).unwrap());
        let code = command.status().unwrap().code();
        (code, fs::read_to_string(file).unwrap())
    };
    let short = to_file(&["run", &path], "short");
    let told = to_file(&run_args(&bundle, &[]), "told");
    host("kill", &["-CONT", &server]);
    assert_eq!(short, (Some(0), "hello\n".to_owned()));
    assert!(told.0 == Some(1) && told.1.contains("does not answer"), "{told:?}");
    // It does not start afterwards what has been started cold.
    assert_eq!(pool.served(), 0);
    let mut quiet = pool.command(&["run", &path]);
    assert!(quiet.stdin(Stdio::null()).stdout(Stdio::null()).status().unwrap().success());
}
