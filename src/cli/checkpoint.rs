//! `microrun checkpoint`

use super::criu;
use super::global::Global;
use super::grammar::{Flag, Verb};
use super::parse::{Words, invalid};
use super::warn;
use crate::container::checkpoint::{self, Options};
use crate::container::criu::rpc::Switch;
use crate::container::store::Store;
use crate::error::Result;

/// The verb.
pub static VERB: Verb = Verb {
    name: "checkpoint",
    about: "checkpoint a running container",
    operands: "<container-id>",
    count: (1, 1),
    details: "\
Saves the container's processes with CRIU, ends them and removes the container. restore brings it back.

When it fails the container runs on, and CRIU's dump.log says more.",
    flags: &[
        criu::IMAGE_PATH,
        criu::WORK_PATH,
        Flag::value("parent-path", "DIR", "the images of a --pre-dump before, relative to --image-path"),
        Flag::switch("leave-running", "let the container run on"),
        criu::TCP_ESTABLISHED,
        Flag::switch("tcp-skip-in-flight", "leave out TCP connections that are being made"),
        Flag::switch("link-remap", "allow open files without a name: they get one again for the time being"),
        criu::EXT_UNIX_SK,
        criu::SHELL_JOB,
        criu::LAZY_PAGES,
        Flag::value("status-fd", "N", "write a zero byte to this descriptor when --lazy-pages is ready to bring pages"),
        Flag::value("page-server", "ADDRESS:PORT", "where memory pages go, or come from with --lazy-pages"),
        criu::FILE_LOCKS,
        Flag::switch("pre-dump", "save memory alone, as the start of a later checkpoint, and let the container run on"),
        criu::MANAGE_CGROUPS_MODE,
        criu::NETWORK_LOCK,
        criu::EMPTY_NS,
        criu::AUTO_DEDUP,
    ],
    passes_rest: false,
    failure: 1,
    call,
};

/// The switches that only a dump has.
const SWITCHES: [(&str, Switch); 3] = [
    ("leave-running", Switch::LeaveRunning),
    ("tcp-skip-in-flight", Switch::TcpSkipInFlight),
    ("link-remap", Switch::LinkRemap),
];

fn call(global: &Global, words: &Words) -> Result<u8> {
    let mut choices = criu::choices(words)?;
    choices.switches.extend(SWITCHES.iter().filter(|(name, _)| words.has(name)).map(|(_, switch)| *switch));
    let options = Options {
        store: Store::new(&global.root),
        id: words.id()?.to_owned(),
        choices,
        parent: words.path("parent-path"),
        page_server: words.text("page-server")?.map(page_server).transpose()?,
        status_fd: words.parsed("status-fd", "the number of a descriptor")?.filter(|number| *number != NO_STATUS_FD),
        pre_dump: words.has("pre-dump"),
    };
    warn(checkpoint::checkpoint(&options)?);
    Ok(0)
}

/// runc's default.
const NO_STATUS_FD: i32 = -1;

fn page_server(text: &str) -> Result<(String, u16)> {
    let parts = text.rsplit_once(':').map(|(address, port)| {
        let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
        (bare.unwrap_or(address), port)
    });
    match parts.and_then(|(address, port)| Some((address, port.parse().ok()?))) {
        Some((address, port)) if !address.is_empty() && port != 0 => Ok((address.to_owned(), port)),
        _ => Err(invalid("page-server", text, "ADDRESS:PORT")),
    }
}

#[cfg(test)]
mod tests {
    use super::page_server;

    #[test]
    fn an_address_may_have_colons() {
        assert_eq!(page_server("127.0.0.1:27277").unwrap(), ("127.0.0.1".to_owned(), 27277));
        assert_eq!(page_server("[::1]:80").unwrap(), ("::1".to_owned(), 80));
        for wrong in ["", "127.0.0.1", ":80", "x:", "x:0", "x:65536", "x:-1"] {
            assert!(page_server(wrong).is_err(), "{wrong}");
        }
    }
}
