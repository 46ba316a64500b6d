//! Looks for libseccomp's static archive, so that a machine without it hears what to install instead of a linker's words.

use std::path::Path;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=LIBSECCOMP_LIB_PATH");
    println!("cargo::rerun-if-env-changed=LIBSECCOMP_LINK_TYPE");
    // src/sys/entry.rs
    if std::env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|env| env == "musl") {
        println!("cargo::rustc-link-arg-bin=microrun=-Wl,-e,microrun_entry");
    }
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
