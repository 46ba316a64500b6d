//! Network namespaces of sandboxes that are used again (`pool serve --reuse-netns`), and all that keeps one from it: what the last container did
//! there must not be found by the next.

#![allow(clippy::unwrap_used, reason = "a test ends where it fails")]

mod common;

use common::pool::{LOOK, Pool, allow, silence};
use common::{Bundle, has_ipv6, in_network_of, push};
use microrun::sys::process;
use serde_json::{Value, json};
use std::any::Any;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

/// How many containers follow each other: the second and the third are in namespaces made before the first one's came back.
const RUNS: usize = 6;

/// Prints its network namespace, once nobody has anything more to do there.
const NAME: &str = "while [ -e /mnt/wait ]; do sleep 0.05; done; readlink /proc/self/ns/net";

/// The network namespace of a container: it prints it last.
fn named(told: &str) -> String {
    told.lines().last().unwrap_or_default().to_owned()
}

/// Lets the pool look at what the last container has left, and bring it back.
fn rest() {
    std::thread::sleep(Duration::from_millis(150));
}

/// Whether of containers that are started one after the other, of a configuration changed by `change`, with `script` for their program, two had the
/// same network namespace.
fn is_reused(pool: &Pool, script: &str, change: impl FnOnce(&mut Value)) -> bool {
    let bundle = pool.filled(1, &format!("{script}; {NAME}"), change);
    let path = bundle.operand();
    let run = |_| {
        pool.await_ready(&bundle, 1);
        let told = pool.microrun(&["run", &path]).ok();
        rest();
        named(&told)
    };
    over(pool, &bundle, (0..RUNS).map(run).collect())
}

/// As [`is_reused`], while `act` does something to the container with this id and pid.
fn is_reused_after(pool: &Pool, act: impl FnMut(&str, &str) -> Box<dyn Any>) -> bool {
    is_reused_after_in(pool, |_| {}, act)
}

/// As [`is_reused_after`], of a configuration changed by `change`.
fn is_reused_after_in(
    pool: &Pool,
    change: impl FnOnce(&mut Value),
    mut act: impl FnMut(&str, &str) -> Box<dyn Any>,
) -> bool {
    let bundle = pool.filled(1, NAME, change);
    let (mut names, mut kept) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        pool.await_ready(&bundle, 1);
        let (told, done) = pool.run_while(&bundle, &mut act);
        // The pool may take its time before it looks.
        kept.push(done);
        names.push(named(&String::from_utf8(told.stdout).unwrap()));
        rest();
    }
    over(pool, &bundle, names)
}

/// As the pool says: a new namespace may get the number of one that is gone.
fn over(pool: &Pool, bundle: &Bundle, names: Vec<String>) -> bool {
    let status = pool.status();
    let mut bundles = status["bundles"].as_array().unwrap().iter();
    let about = bundles.find(|one| one["bundle"] == json!(bundle.path)).unwrap();
    let reused = about["reusedNetworks"].as_u64().unwrap();
    pool.microrun(&["pool", "drain", bundle.path.to_str().unwrap()]).ok();
    assert!(names.iter().all(|name| name.starts_with("net:[")), "{names:?}");
    assert!(reused == 0 || names.iter().collect::<BTreeSet<_>>().len() < names.len(), "{names:?}");
    reused > 0
}

/// Does `work` in the network namespace of the process `pid`, in a thread that ends there.
fn within<T: Send + 'static>(pid: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let network = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    let done = std::thread::spawn(move || {
        process::setns(network.as_raw_fd(), 0).unwrap();
        work()
    });
    done.join().unwrap()
}

#[test]
fn a_network_that_nobody_has_used_or_could_change_is_used_again() {
    let pool = reusing_pool!();
    assert!(is_reused(&pool, "true", |_| {}));
    // What somebody else does in none of its namespaces is no reason.
    assert!(is_reused_after(&pool, |_, _| Box::new(())));
}

#[test]
fn a_network_is_not_used_again_unless_that_is_asked_for() {
    let pool = pool!();
    assert!(!is_reused(&pool, "true", |_| {}));
}

#[test]
fn it_looks_as_a_new_one_does() {
    let pool = reusing_pool!();
    let look = "look /proc/net/sockstat; \
                cat /proc/net/dev /proc/net/snmp /proc/net/igmp /proc/net/if_inet6 /proc/net/unix; \
                ip addr; ip route show table local; ls /sys/class/net";
    let bundle = pool.filled(1, &format!("{LOOK} ({look}) 2>&1; {NAME}"), |_| {});
    let path = bundle.operand();
    let cold = pool.microrun(&["run", "--pool=off", &path]).ok();
    let without_name = |told: &str| told.lines().rev().skip(1).map(str::to_owned).collect::<Vec<_>>();
    let mut names = Vec::new();
    for _ in 0..RUNS {
        pool.await_ready(&bundle, 1);
        let told = pool.microrun(&["run", &path]).ok();
        assert_eq!(without_name(&told), without_name(&cold));
        names.push(named(&told));
        rest();
    }
    // Listing devices opens a socket, which is gone with its process.
    assert!(over(&pool, &bundle, names));
}

#[test]
fn a_network_over_which_anything_was_sent_is_not_used_again() {
    let pool = pool!("--reuse-netns");
    for script in [
        "nslookup x 127.0.0.1 >/dev/null 2>&1",
        "nc -w 1 127.0.0.1 9 </dev/null",
        "(nc -l -p 7000 >/dev/null &) ; sleep 0.2; echo x | nc -w 1 127.0.0.1 7000",
        "wget -q -O - http://[::1]:9/ 2>/dev/null",
        // It fails, and that is counted.
        "nslookup x 10.1.1.1 >/dev/null 2>&1",
    ] {
        if script.contains("[::1]") && !has_ipv6() {
            continue;
        }
        assert!(!is_reused(&pool, &format!("{script} || true"), |_| {}), "{script}");
    }
}

#[test]
fn what_stays_without_a_socket_is_found() {
    let pool = pool!("--reuse-netns");
    // A group that was left is reported later, of the last moment as well.
    let leave = |_: &str, pid: &str| {
        within(pid, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.join_multicast_v4(&Ipv4Addr::new(239, 1, 2, 3), &Ipv4Addr::LOCALHOST).unwrap();
        });
        Box::new(()) as Box<dyn Any>
    };
    assert!(!is_reused_after(&pool, leave));
    if !has_ipv6() {
        return;
    }
    let leave = |_: &str, pid: &str| {
        within(pid, || {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            socket.join_multicast_v6(&"ff05::99".parse::<Ipv6Addr>().unwrap(), 1).unwrap();
        });
        Box::new(()) as Box<dyn Any>
    };
    assert!(!is_reused_after(&pool, leave));
    // A label of flows lasts for seconds (net/ipv6/ip6_flowlabel.c).
    let label = |_: &str, pid: &str| {
        within(pid, || {
            let socket = UdpSocket::bind("[::]:0").unwrap();
            // struct in6_flowlabel_req (linux/in6.h): ::1, label 0x12345, get, of anybody, create, linger 60 s.
            let mut request = [0u8; 32];
            request[15] = 1;
            request[16..20].copy_from_slice(&0x12345u32.to_be_bytes());
            request[21] = 255;
            request[22..24].copy_from_slice(&1u16.to_ne_bytes());
            request[24..26].copy_from_slice(&60u16.to_ne_bytes());
            request[26..28].copy_from_slice(&60u16.to_ne_bytes());
            const IPV6_FLOWLABEL_MGR: i32 = 32;
            set_option(&socket, IPV6_FLOWLABEL_MGR, &request);
        });
        Box::new(()) as Box<dyn Any>
    };
    assert!(!is_reused_after(&pool, label));
}

/// setsockopt(2) at the level of IPv6.
#[allow(unsafe_code, reason = "the option has no safe wrapper")]
fn set_option(socket: &UdpSocket, name: i32, value: &[u8]) {
    // SAFETY: the kernel reads as many bytes as there are.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, name, value.as_ptr().cast(), value.len() as u32)
    };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_network_of_which_somebody_keeps_a_socket_is_not_used_again() {
    let pool = pool!("--reuse-netns");
    let bind = |_: &str, pid: &str| {
        Box::new(within(pid, || {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name("microrun").unwrap();
            std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap()
        })) as Box<dyn Any>
    };
    assert!(!is_reused_after(&pool, bind));
    let bind = |_: &str, pid: &str| Box::new(within(pid, || UdpSocket::bind("127.0.0.1:0").unwrap())) as Box<dyn Any>;
    assert!(!is_reused_after(&pool, bind));
}

/// What somebody else sets up in the network of a container, of a configuration changed by `configure`, is found.
#[track_caller]
fn no_change_is_missed(pool: &Pool, configure: impl Fn(&mut Value)) {
    for change in ["ip addr add 10.9.9.9/32 dev lo", "ip -6 addr add fd00::9/128 dev lo", "ip link add dummy type veth"]
    {
        if change.contains("-6") && !has_ipv6() {
            continue;
        }
        let act = |_: &str, pid: &str| {
            assert!(in_network_of(pid, change).status().unwrap().success());
            Box::new(()) as Box<dyn Any>
        };
        assert!(!is_reused_after_in(pool, &configure, act), "{change}");
    }
}

#[test]
fn a_network_that_somebody_else_has_changed_is_not_used_again() {
    let pool = pool!("--reuse-netns");
    no_change_is_missed(&pool, |_| {});
}

#[test]
fn a_network_that_another_process_was_let_into_is_not_used_again() {
    let pool = pool!("--reuse-netns");
    for command in [
        &["exec", "--cap", "CAP_NET_ADMIN", "ID", "ip", "link", "set", "lo", "mtu", "1400"][..],
        // What it did is not asked.
        &["exec", "ID", "true"],
    ] {
        let act = |id: &str, _: &str| {
            let words: Vec<_> = command.iter().map(|word| if *word == "ID" { id } else { word }).collect();
            pool.microrun(&words).ok();
            Box::new(()) as Box<dyn Any>
        };
        assert!(!is_reused_after(&pool, act), "{command:?}");
    }
}

#[test]
fn a_network_that_a_container_could_change_or_show_is_not_used_again() {
    let pool = pool!("--reuse-netns");
    let grant = |config: &mut Value| config["process"]["capabilities"]["bounding"] = json!(["CAP_NET_ADMIN"]);
    assert!(!is_reused(&pool, "true", grant));
    // A socket in a place that others have could carry an open file of /proc/net away.
    assert!(!is_reused(&pool, "true", |config| config["root"]["readonly"] = json!(false)));
    let bind = json!({"destination": "/mnt", "source": "/usr", "options": ["bind", "ro"]});
    assert!(!is_reused(&pool, "true", |config| push(&mut config["mounts"], bind)));
    let sysfs = json!({"destination": "/mnt", "type": "sysfs", "source": "sysfs"});
    assert!(!is_reused(&pool, "true", |config| push(&mut config["mounts"], sysfs)));
    // And so could one that it gets for its standard output, which in the foreground it does not.
    let bundle = pool.filled(1, NAME, |_| {});
    let path = bundle.operand();
    let run = |_| {
        pool.await_ready(&bundle, 1);
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let mut command = pool.command(&["run", "--detach", &path]);
        assert!(command.stdin(Stdio::null()).stdout(OwnedFd::from(theirs)).status().unwrap().success());
        drop(command);
        let mut told = String::new();
        ours.read_to_string(&mut told).unwrap();
        rest();
        named(&told)
    };
    assert!(!over(&pool, &bundle, (0..RUNS).map(run).collect()));
}

#[test]
fn of_who_can_have_no_socket_only_others_are_looked_for() {
    let pool = pool!("--reuse-netns");
    // It fails for want of a route, and of all that is looked at snmp alone counts that.
    let fail = |_: &str, pid: &str| {
        let sent = within(pid, || UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"x", "10.1.1.1:9"));
        assert!(sent.is_err());
        Box::new(()) as Box<dyn Any>
    };
    assert!(is_reused_after_in(&pool, silence, fail));
    assert!(!is_reused_after_in(&pool, |_| {}, fail));
    // With one system call more, whatever its arguments, that is not certain.
    for call in ["socket", "io_uring_setup"] {
        let change = |config: &mut Value| {
            silence(config);
            allow(config, call);
        };
        assert!(!is_reused_after_in(&pool, change, fail), "{call}");
    }
    let writable = |config: &mut Value| {
        silence(config);
        config["mounts"][0]["options"] = json!(["ro", "rw"]);
    };
    assert!(!is_reused_after_in(&pool, writable, fail));
}

#[test]
fn what_others_have_changed_is_found_where_the_container_could_have_no_socket() {
    let pool = pool!("--reuse-netns");
    no_change_is_missed(&pool, silence);
    let keep = |_: &str, pid: &str| Box::new(within(pid, || UdpSocket::bind("127.0.0.1:0").unwrap())) as Box<dyn Any>;
    assert!(!is_reused_after_in(&pool, silence, keep));
    let enter = |id: &str, _: &str| {
        pool.microrun(&["exec", id, "true"]);
        Box::new(()) as Box<dyn Any>
    };
    assert!(!is_reused_after_in(&pool, silence, enter));
}
