//! Looks for libseccomp's static archive, so that a machine without it hears what to install instead of a linker's words.
//! Builds the small programs that `microrun bench` starts and carries with it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // src/sys/entry.rs
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        println!("cargo::rustc-link-arg-bin=microrun=-Wl,-e,microrun_entry");
        // By which a program knows its own file: src/sys/in_place.rs.
        println!("cargo::rustc-link-arg-bins=-Wl,--build-id=sha1");
        // docs/startup.md
        println!("cargo::rerun-if-changed=link/start.ld");
        println!(
            "cargo::rustc-link-arg-bin=microrun=-Wl,-T,{}/link/start.ld",
            std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default()
        );
        println!("cargo::rustc-link-arg-bin=containerd-shim-microrun-v1=-Wl,-e,shim_entry");
    }
    look_for_libseccomp();
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    small_program("hello", &format!("rootfs/hello-{arch}.S"), &["-Wl,-n,-s,-z,noseparate-code,--build-id=none"]);
    let free = ["-O2", "-ffreestanding", "-fno-stack-protector"];
    small_program("floor", "benches/floor.c", &free);
    small_program("pause", "benches/pause.c", &free);
}

/// Compiles a program without a C library, as the Makefile does.
fn small_program(name: &str, source: &str, options: &[&str]) {
    println!("cargo::rerun-if-changed={source}");
    let output = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default()).join(name);
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut command = Command::new(&compiler);
    command.args(["-static", "-nostdlib"]).args(options).arg("-o").arg(&output).arg(source);
    match command.output() {
        Ok(done) if done.status.success() => {}
        Ok(done) => {
            println!("cargo::error={compiler} cannot build {source}: {}", String::from_utf8_lossy(&done.stderr).trim())
        }
        Err(error) => println!("cargo::error={compiler}: {error}: install gcc, or set CC"),
    }
}

fn look_for_libseccomp() {
    println!("cargo::rerun-if-env-changed=LIBSECCOMP_LIB_PATH");
    println!("cargo::rerun-if-env-changed=LIBSECCOMP_LINK_TYPE");
    if std::env::var("LIBSECCOMP_LINK_TYPE").is_ok_and(|kind| kind != "static") {
        return;
    }
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let mut directories = vec![
        format!("/usr/lib/{arch}-linux-gnu"),
        "/usr/lib64".to_owned(),
        "/usr/lib".to_owned(),
        "/usr/local/lib".to_owned(),
    ];
    directories.extend(std::env::var("LIBSECCOMP_LIB_PATH"));
    if !directories.iter().any(|directory| Path::new(directory).join("libseccomp.a").exists()) {
        println!(
            "cargo::error=libseccomp.a is not in {}: install it (Debian and Ubuntu: apt-get install libseccomp-dev; \
             Fedora: dnf install libseccomp-static; Alpine: apk add libseccomp-static) or name its directory in \
             LIBSECCOMP_LIB_PATH",
            directories.join(", ")
        );
    }
}
