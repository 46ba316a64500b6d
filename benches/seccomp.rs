//! What a profile as engines ship it costs: compiling it, finding it in the cache, loading it, and making a system call
//! that it always allows (getppid) or allows by its argument (personality).
//!
//!   cargo bench --bench seccomp
//!
//! Rounds are interleaved; each load happens in a thread of its own, as a filter stays for good.

use libc::sock_filter;
use libseccomp::{ScmpAction, ScmpArch, ScmpFilterContext, ScmpSyscall};
use microrun::plan::seccomp::{Cache, obtain};
use microrun::{spec, sys::process};
use std::error::Error;
use std::io::{Read, Seek};
use std::time::Instant;

const PROFILE: &str = include_str!("../tests/data/seccomp-engine.json");
const ROUNDS: usize = 400;

fn main() -> Result<(), Box<dyn Error>> {
    let profile = |text: &str| -> Result<spec::Seccomp, Box<dyn Error>> {
        let config = format!(r#"{{"ociVersion":"1.3.0","linux":{{"seccomp":{}}}}}"#, text.trim());
        Ok(spec::parse(config.as_bytes())?.seccomp.ok_or("no profile")?)
    };
    let engine = profile(PROFILE)?;
    let directory = tempfile::tempdir()?;
    let cache = Cache::open(&directory.path().join("seccomp"))?;
    let ours = obtain(&engine, Some(&cache))?.filter.ok_or("no filter")?.program;
    let empty = obtain(&profile(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#)?, None)?.filter.ok_or("no filter")?.program;
    let (list, tree) = (libseccomps(1)?, libseccomps(2)?);

    let mut rows = vec![Row::new("compile"), Row::new("cache: open and load")];
    let programs = [("empty", empty), ("ours", ours), ("libseccomp's tree", tree), ("libseccomp's list", list)];
    for kind in ["load", "getppid", "personality"] {
        let names = programs.iter().map(|(name, program)| format!("{kind}: {name} ({} instructions)", program.len()));
        rows.extend(names.map(|name| Row::new(&name)));
    }
    for round in 0..ROUNDS {
        if round < ROUNDS / 10 {
            rows[0].time(|| obtain(&engine, None))?;
        }
        rows[1]
            .time(|| Cache::open(&directory.path().join("seccomp")).and_then(|cache| obtain(&engine, Some(&cache))))?;
        for (i, (_, program)) in programs.iter().enumerate() {
            for (kind, microseconds) in load(program)?.into_iter().enumerate() {
                rows[2 + kind * programs.len() + i].samples.push(microseconds);
            }
        }
    }
    println!("{:44} {:>10} {:>10}", "µs", "median", "p99");
    rows.iter_mut().for_each(Row::print);
    Ok(())
}

struct Row {
    name: String,
    samples: Vec<f64>,
}

impl Row {
    fn new(name: &str) -> Self {
        Self { name: name.to_owned(), samples: Vec::new() }
    }

    fn time<T, E>(&mut self, work: impl FnOnce() -> Result<T, E>) -> Result<(), E> {
        let start = Instant::now();
        let result = work();
        self.samples.push(start.elapsed().as_secs_f64() * 1e6);
        result.map(drop)
    }

    fn print(&mut self) {
        self.samples.sort_by(f64::total_cmp);
        let at = |share: f64| self.samples[((self.samples.len() - 1) as f64 * share) as usize];
        println!("{:44} {:10.2} {:10.2}", self.name, at(0.5), at(0.99));
    }
}

/// Microseconds that seccomp(2) takes, and then the two system calls.
fn load(program: &[sock_filter]) -> Result<[f64; 3], Box<dyn Error>> {
    const CALLS: u32 = 500;
    let each = |mut call: Box<dyn FnMut()>| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
    };
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            process::prctl(libc::PR_SET_NO_NEW_PRIVS, [1, 0, 0, 0])?;
            let start = Instant::now();
            process::load_seccomp(program, libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32)?;
            let load = start.elapsed().as_secs_f64() * 1e6;
            let getppid = each(Box::new(|| {
                std::hint::black_box(nix::unistd::getppid());
            }));
            let personality = each(Box::new(|| {
                let _ = std::hint::black_box(process::personality(0xffff_ffff));
            }));
            Ok::<_, nix::errno::Errno>([load, getppid, personality])
        });
        Ok(thread.join().map_err(|_| "the thread panicked")??)
    })
}

/// The profile's rules without conditions as libseccomp compiles them, with its optimisation `level`.
fn libseccomps(level: u32) -> Result<Vec<sock_filter>, Box<dyn Error>> {
    let profile: serde_json::Value = serde_json::from_str(PROFILE)?;
    let mut context = ScmpFilterContext::new(ScmpAction::Errno(1))?;
    context.add_arch(ScmpArch::X86)?.add_arch(ScmpArch::X32)?.set_ctl_optimize(level)?;
    // A condition on personality(2), as the profile has; those on socket(2) and clone(2) do not change the picture.
    let any = libseccomp::ScmpArgCompare::new(0, libseccomp::ScmpCompareOp::Equal, 0xffff_ffff);
    context.add_rule_conditional(ScmpAction::Allow, ScmpSyscall::from_name("personality")?, &[any])?;
    let names = profile["syscalls"][0]["names"].as_array().ok_or("no names")?;
    for name in names.iter().filter_map(|name| name.as_str()) {
        if let Ok(syscall) = ScmpSyscall::from_name(name) {
            context.add_rule(ScmpAction::Allow, syscall)?;
        }
    }
    let mut file = tempfile::tempfile()?;
    context.export_bpf(&file)?;
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    let word = |b: &[u8]| u32::from_ne_bytes([b[4], b[5], b[6], b[7]]);
    let steps = bytes.chunks_exact(8);
    Ok(steps.map(|b| sock_filter { code: u16::from_ne_bytes([b[0], b[1]]), jt: b[2], jf: b[3], k: word(b) }).collect())
}
