//! --lazy-pages: memory that comes when it is used, and what CRIU is told of it.

use crate::common::{BUSYBOX, Guard, Lab, criu, eventually};
use crate::{Counter, in_silence, lab, pid_of, skip};
use prost::Message;
use serde_json::json;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// CRIU's `criu_req`, as far as it is looked at (images/rpc.proto).
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(message, optional, tag = "2")]
    options: Option<Options>,
}

#[derive(Clone, PartialEq, Message)]
struct Options {
    #[prost(bool, tag = "5")]
    tcp_established: bool,
    #[prost(message, optional, tag = "11")]
    page_server: Option<PageServer>,
    #[prost(bool, tag = "16")]
    auto_dedup: bool,
    #[prost(bool, tag = "18")]
    link_remap: bool,
    #[prost(int32, tag = "34")]
    cgroup_mode: i32,
    #[prost(bool, tag = "46")]
    tcp_skip_in_flight: bool,
    #[prost(bool, tag = "48")]
    lazy_pages: bool,
    #[prost(bool, tag = "52")]
    tcp_close: bool,
    #[prost(string, tag = "53")]
    lsm_profile: String,
    #[prost(string, tag = "63")]
    lsm_mount_context: String,
    #[prost(int32, tag = "64")]
    network_lock: i32,
}

#[derive(Clone, PartialEq, Message)]
struct PageServer {
    #[prost(string, tag = "1")]
    address: String,
    #[prost(int32, tag = "2")]
    port: i32,
}

/// A program in the place of CRIU: says that it is version 4.0, with lazy pages or without, keeps each request in a file by its kind, and
/// fails what is to be done.
fn stand_in(lab: &Lab, has_lazy_pages: bool) -> PathBuf {
    let directory = lab.path(if has_lazy_pages { "new" } else { "old" });
    fs::create_dir(&directory).unwrap();
    // criu_resp: type, success, and the answer: version (4, 0), or features.
    let script = format!(
        r#"#!{BUSYBOX} sh
cd {}
dd bs=65536 count=1 <&$2 >got 2>/dev/null
kind=$(od -An -tu1 -j1 -N1 got | tr -d ' ')
mv got request.$kind
case $kind in
10) printf '\010\012\020\001\122\004\010\004\020\000' >&$2 ;;
9) printf '\010\011\020\001\102\004\010\000\020\00{}' >&$2 ;;
*) printf "\\010\\00$kind\\020\\000" >&$2 ;;
esac
"#,
        directory.display(),
        u8::from(has_lazy_pages)
    );
    let program = directory.join("criu");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    directory
}

/// What the program in `directory` was asked last of this kind, as an engine's or a user's `args` have it; and what is said.
fn asked(lab: &Lab, directory: &Path, args: &[&str], kind: i32) -> (Option<Options>, String) {
    let file = directory.join(format!("request.{kind}"));
    let _ = fs::remove_file(&file);
    let mut command = lab.command(args);
    command.env("PATH", format!("{}:{}", directory.display(), std::env::var("PATH").unwrap()));
    let said = command.stdin(Stdio::null()).output().unwrap();
    assert!(!said.status.success());
    let request = fs::read(file).ok().map(|bytes| Request::decode(&*bytes).unwrap());
    let options = request.and_then(|request| request.options.filter(|_| request.kind == kind));
    (options, String::from_utf8(said.stderr).unwrap())
}

/// Removes the container, and leaves what a dump would have left.
fn is_dumped(lab: &Lab, counter: &Counter) {
    lab.microrun(&["delete", "--force", counter.id()]).ok();
    fs::write(counter.images.join("descriptors.json"), "[\"/dev/null\",\"/dev/null\",\"/dev/null\"]").unwrap();
}

const DUMP: i32 = 1;
const RESTORE: i32 = 2;

#[test]
fn criu_is_told_what_the_command_line_says() {
    let lab = lab!();
    let criu = stand_in(&lab, true);
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    let images = counter.images.to_str().unwrap();
    let told = |options: &[&str]| {
        let args = [&["checkpoint", "--image-path", images], options, &[counter.id()]].concat();
        let (options, said) = asked(&lab, &criu, &args, DUMP);
        assert!(said.contains("criu failed: type DUMP"), "{said}");
        options.unwrap()
    };
    let plain = told(&[]);
    assert!(!plain.lazy_pages && !plain.tcp_established && plain.page_server.is_none(), "{plain:?}");
    let lazy = told(&["--lazy-pages", "--page-server", "127.0.0.1:27277", "--network-lock=skip"]);
    let server = PageServer { address: "127.0.0.1".into(), port: 27277 };
    assert!(lazy.lazy_pages && lazy.page_server == Some(server) && lazy.network_lock == 3, "{lazy:?}");
    let all = told(&[
        "--tcp-established",
        "--tcp-skip-in-flight",
        "--link-remap",
        "--auto-dedup",
        "--manage-cgroups-mode",
        "strict",
    ]);
    assert!(all.tcp_established && all.tcp_skip_in_flight && all.link_remap && all.auto_dedup, "{all:?}");
    assert_eq!(all.cgroup_mode, 5);
    let not_open = counter.checkpoint(&lab, &["--lazy-pages", "--status-fd", "77"]);
    assert_ne!(not_open.code, 0);
    assert_eq!(lab.status(counter.id()), "running");
    is_dumped(&lab, &counter);
    let restored = |options: &[&str]| {
        let (options, said) = asked(&lab, &criu, &counter.restore_args(options), RESTORE);
        assert!(said.contains("criu failed: type RESTORE"), "{said}");
        assert!(!lab.path("run").join(counter.id()).exists());
        options.unwrap()
    };
    let lazy = restored(&["--lazy-pages", "--tcp-close", "--lsm-profile", "apparmor:x", "--lsm-mount-context", "y"]);
    assert!(lazy.lazy_pages && lazy.tcp_close, "{lazy:?}");
    assert_eq!((lazy.lsm_profile.as_str(), lazy.lsm_mount_context.as_str()), ("apparmor:x", "y"));
    assert!(!restored(&[]).lazy_pages);
}

#[test]
fn without_userfaultfd_it_is_refused() {
    let lab = lab!();
    let criu = stand_in(&lab, false);
    let counter = Counter::new(&lab, |_| {});
    counter.start(&lab);
    let args = ["checkpoint", "--image-path", counter.images.to_str().unwrap(), "--lazy-pages", counter.id()];
    let (options, said) = asked(&lab, &criu, &args, DUMP);
    assert_eq!(options, None);
    let sentence = "criu is missing features: LazyPages, which --lazy-pages needs (a kernel with CONFIG_USERFAULTFD)";
    assert!(said.contains(sentence), "{said}");
    assert_eq!(lab.status(counter.id()), "running");
    counter.counts_on(counter.count());
    is_dumped(&lab, &counter);
    let (options, said) = asked(&lab, &criu, &counter.restore_args(&["--lazy-pages"]), RESTORE);
    assert_eq!(options, None);
    assert!(said.contains(sentence), "{said}");
    assert!(!lab.path("run").join(counter.id()).exists());
}

/// Counts as others do, and says how long something in its memory is, all of which it reads for that.
const REMEMBERS: &str = "m=$(head -c 300000 /dev/zero | tr '\\0' x); i=0
    while :; do
        i=$((i+1)); echo $i ${#m} >/count/new; cp /count/new /count/size; echo $i >/count/new; mv /count/new /count/now
        usleep 20000
    done";

/// As from one machine to another: the one that dumps keeps the pages until the other has come for them.
#[test]
fn pages_come_when_they_are_used() {
    let (lab, _alone) = criu_lab!();
    if criu::run(&["check", "--feature", "uffd-noncoop"]).code != 0 {
        skip!("this kernel has no userfaultfd that CRIU could use");
    }
    if !may_have_large_pipes() {
        skip!("needs CAP_SYS_RESOURCE, without which CRIU cannot make its pipes large enough (F_SETPIPE_SZ)");
    }
    let from = Counter::running(&lab, REMEMBERS, |_| {});
    from.start_in_silence(&lab, &[]);
    let (images, status) = (from.images.to_str().unwrap(), lab.path("status"));
    let port = free_port();
    let server = format!("127.0.0.1:{port}");
    let mut script = Command::new("sh");
    script.arg("-c").arg(format!("exec \"$@\" 3>{}", status.display())).arg("sh");
    let args = ["checkpoint", "--image-path", images, "--lazy-pages", "--status-fd", "3", "--page-server", &server];
    let dump = lab.command(&[&args[..], &[from.id()]].concat());
    script.arg(dump.get_program()).args(dump.get_args()).stdin(Stdio::null());
    let log = File::create(lab.path("dump")).unwrap();
    let mut dump = Helper(Guard(script.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()));
    let said = || fs::read_to_string(lab.path("dump")).unwrap();
    eventually(|| fs::metadata(&status).is_ok_and(|file| file.len() == 1) || dump.has_ended());
    assert!(!dump.has_ended(), "{}", said());
    let before = from.count();
    // The other machine: another container, of the same files, and who fetches the pages.
    let work = lab.path("work");
    fs::create_dir(&work).unwrap();
    let mut pages = Command::new("criu");
    pages.args(["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", &port.to_string()]);
    pages.args(["-D", images, "-W", work.to_str().unwrap(), "-o", "lazy.log"]);
    let mut pages =
        Helper(Guard(pages.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()));
    eventually(|| work.join("lazy-pages.socket").exists());
    let to = Counter::running(&lab, REMEMBERS, |config| {
        config["root"]["path"] = json!(from.bundle.rootfs());
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.last_mut().unwrap()["source"] = json!(from.bundle.path.join("count"));
    });
    let mut args = vec!["restore", "--detach", "--lazy-pages", "--image-path", images];
    args.extend(["--work-path", work.to_str().unwrap(), "--bundle", to.bundle.path.to_str().unwrap(), to.id()]);
    let log = lab.path("log");
    args.splice(0..0, ["--log", log.to_str().unwrap()]);
    let mut limited = Command::new("timeout");
    let restore = lab.command(&args);
    limited.args(["-k", "5", "60"]).arg(restore.get_program()).args(restore.get_args());
    assert!(in_silence(limited).success(), "{}{}", fs::read_to_string(&log).unwrap(), said());
    from.counts_on(before);
    let remembered = || fs::read_to_string(from.file("size")).unwrap_or_default();
    eventually(|| remembered().split_once(' ').is_some_and(|(count, _)| count.parse().unwrap_or(0) > before + 1));
    eventually(|| remembered().trim().ends_with(" 300000"));
    // All pages have gone over when both have ended.
    eventually(|| dump.has_ended() && pages.has_ended());
    assert!(dump.0.wait().unwrap().success(), "{}", said());
    assert!(pages.0.wait().unwrap().success(), "{}", fs::read_to_string(work.join("lazy.log")).unwrap());
    assert_eq!(lab.status(from.id()), "");
    assert_eq!(lab.status(to.id()), "running");
    assert!(pid_of(&lab, to.id()) > 0);
    lab.microrun(&["delete", "--force", to.id()]).ok();
}

/// A process beside the test.
struct Helper(Guard);

impl Helper {
    fn has_ended(&mut self) -> bool {
        self.0.try_wait().unwrap().is_some()
    }
}

/// Whether this process, and so CRIU, has CAP_SYS_RESOURCE.
fn may_have_large_pipes() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() & 1 << 24 != 0
}

/// A port that nobody listened on a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
