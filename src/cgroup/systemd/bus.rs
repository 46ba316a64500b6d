//! A D-Bus connection to systemd: just enough to call its manager and to hear when a job is done.
//!
//! systemd listens on a socket of its own besides the bus, where root reaches it without the bus daemon in between;
//! that one is tried first. (D-Bus specification: "Message Protocol", "Authentication Protocol";
//! org.freedesktop.systemd1(5).)

use super::value::{Value, align, encode_signature};
use crate::error::{Doing, Kind};
use crate::{Error, Result};
use std::collections::VecDeque;
use std::env;
use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

const MANAGER: (&str, &str) = ("/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager");
const BUS: (&str, &str) = ("/org/freedesktop/DBus", "org.freedesktop.DBus");

/// How long systemd may take for an answer or a job.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The specification's limit of a message.
const MAX_MESSAGE: usize = 128 << 20;
/// How deep variants may be in one another (the specification's limit, "Valid Signatures": 64 containers).
const MAX_VARIANTS: u32 = 64;

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// An answer that is an error: its D-Bus name and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// "org.freedesktop.systemd1.NoSuchUnit"
    pub name: String,
    /// The sentence.
    pub text: String,
}

/// A message, as far as it is looked at.
#[derive(Debug, Default)]
struct Message {
    kind: u8,
    member: String,
    error: String,
    answers: Option<u32>,
    body: Vec<Value>,
}

/// A connection to systemd.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    /// Whether a bus daemon is in between.
    bus: bool,
    serial: u32,
    /// The jobs that are known to be done, and how.
    done: VecDeque<(String, String)>,
}

impl Connection {
    /// Connects to the system's manager, or to that of the user.
    ///
    /// # Errors
    /// No systemd that answers.
    pub fn open(user: bool) -> Result<Self> {
        let mut last = None;
        for (address, bus) in addresses(user) {
            match Self::open_at(&address, bus) {
                Ok(connection) => return Ok(connection),
                Err(error) => last = Some((address, error)),
            }
        }
        let problem = match last {
            Some((address, error)) => format!("failed to connect to systemd ({address:?}): {error}"),
            None => "failed to connect to systemd: DBUS_SESSION_BUS_ADDRESS and XDG_RUNTIME_DIR are not set".to_owned(),
        };
        let hint =
            if user { "is the user's systemd running (dbus-user-session)?" } else { "is this machine run by systemd?" };
        Err(Error::new(Kind::System, format!("{problem}: {hint} Else do without --systemd-cgroup")))
    }

    fn open_at(address: &SocketAddr, bus: bool) -> io::Result<Self> {
        let stream = UnixStream::connect_addr(address)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut connection = Self { stream, bus, serial: 0, done: VecDeque::new() };
        connection.authenticate()?;
        if bus {
            let rule = "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
            for (member, body) in [("Hello", vec![]), ("AddMatch", vec![Value::str(rule)])] {
                connection.exchange(BUS, member, &body)?.map_err(|refusal| io::Error::other(refusal.text))?;
            }
            connection.exchange(MANAGER, "Subscribe", &[])?.map_err(|refusal| io::Error::other(refusal.text))?;
        }
        Ok(connection)
    }

    /// SASL EXTERNAL without a name: the kernel's credentials of the socket say who this is, which holds inside a user
    /// namespace too.
    fn authenticate(&mut self) -> io::Result<()> {
        self.stream.write_all(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let mut line = Vec::new();
        let mut byte = [0];
        loop {
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
            if line.ends_with(b"\r\n") {
                match &line[..] {
                    b"DATA\r\n" => line.clear(),
                    accepted if accepted.starts_with(b"OK ") => return Ok(()),
                    refused => return Err(io::Error::other(String::from_utf8_lossy(refused).trim().to_owned())),
                }
            }
        }
    }

    /// Calls the method `member` of systemd's manager.
    ///
    /// # Errors
    /// A connection that breaks. An answer that is an error is the inner result.
    pub fn call(&mut self, member: &str, body: &[Value]) -> Result<Result<Vec<Value>, Refusal>> {
        self.exchange(MANAGER, member, body).doing(|| format!("call systemd's {member}"))
    }

    /// The property `name` of interface `interface` of the object `path`, if it is a string.
    ///
    /// # Errors
    /// A connection that breaks, or no such property.
    pub fn string_property(&mut self, path: &str, interface: &str, name: &str) -> Result<String> {
        let body = [Value::str(interface), Value::str(name)];
        let answer = self
            .exchange((path, "org.freedesktop.DBus.Properties"), "Get", &body)
            .doing(|| format!("ask systemd for {name}"))?;
        let problem = match answer {
            Ok(values) => match values.into_iter().next() {
                Some(Value::Variant(value)) if matches!(*value, Value::Str(_)) => return Ok(value.into_text()),
                _ => "it is no string".to_owned(),
            },
            Err(refusal) => refusal.text,
        };
        Err(Error::new(Kind::System, format!("ask systemd for {name}: {problem}")))
    }

    /// The property `name` of the manager, if it is a string.
    ///
    /// # Errors
    /// Those of [`Self::string_property`].
    pub fn manager_property(&mut self, name: &str) -> Result<String> {
        self.string_property(MANAGER.0, MANAGER.1, name)
    }

    /// The version of the manager, the number alone.
    ///
    /// # Errors
    /// Those of [`Self::string_property`], or a version without a number.
    pub fn version(&mut self) -> Result<u32> {
        let text = self.manager_property("Version")?;
        let digits: String =
            text.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
        digits.parse().map_err(|_| Error::new(Kind::System, format!("systemd's version {text:?} has no number")))
    }

    /// Waits until the job `path` is done; its result, "done" if all went well.
    ///
    /// # Errors
    /// A connection that breaks, or a job that takes longer than 30 s.
    pub fn wait_job(&mut self, path: &str) -> Result<String> {
        loop {
            while let Some((job, result)) = self.done.pop_front() {
                if job == path {
                    return Ok(result);
                }
            }
            let message = self.receive().doing(|| "wait for systemd's job")?;
            self.note(message);
        }
    }

    fn exchange(
        &mut self,
        target: (&str, &str),
        member: &str,
        body: &[Value],
    ) -> io::Result<Result<Vec<Value>, Refusal>> {
        self.serial += 1;
        let serial = self.serial;
        let destination = self.bus.then_some(if target == BUS { BUS.1 } else { "org.freedesktop.systemd1" });
        self.stream.write_all(&encode_call(serial, target, member, destination, body))?;
        loop {
            let message = self.receive()?;
            match (message.kind, message.answers) {
                (RETURN, Some(answered)) if answered == serial => return Ok(Ok(message.body)),
                (ERROR, Some(answered)) if answered == serial => {
                    let text = match message.body.into_iter().next() {
                        Some(Value::Str(text)) => text,
                        _ => message.error.clone(),
                    };
                    return Ok(Err(Refusal { name: message.error, text }));
                }
                _ => self.note(message),
            }
        }
    }

    /// Keeps what a JobRemoved signal says: number, path, unit and result.
    fn note(&mut self, message: Message) {
        if message.kind == SIGNAL
            && message.member == "JobRemoved"
            && let [_, Value::Path(job), _, Value::Str(result)] = &message.body[..]
        {
            self.done.push_back((job.clone(), result.clone()));
        }
    }

    fn receive(&mut self) -> io::Result<Message> {
        let mut start = [0; 16];
        self.stream.read_exact(&mut start)?;
        let word = |at: usize| u32::from_le_bytes([start[at], start[at + 1], start[at + 2], start[at + 3]]) as usize;
        if start[0] != b'l' {
            return Err(invalid("the message is big-endian"));
        }
        let (body, fields) = (word(4), word(12).next_multiple_of(8));
        if body.saturating_add(fields) > MAX_MESSAGE {
            return Err(invalid("the message is too long"));
        }
        let mut rest = vec![0; fields + body];
        self.stream.read_exact(&mut rest)?;
        decode(start[1], word(12), &rest[..fields], &rest[fields..])
    }
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// Where the manager may listen, and whether that is a bus.
fn addresses(user: bool) -> Vec<(SocketAddr, bool)> {
    let at = |path: String| SocketAddr::from_pathname(path).ok();
    let mut found = Vec::new();
    let (variable, runtime) = if user {
        ("DBUS_SESSION_BUS_ADDRESS", env::var("XDG_RUNTIME_DIR").ok())
    } else {
        ("DBUS_SYSTEM_BUS_ADDRESS", Some("/run".to_owned()))
    };
    if let Some(runtime) = &runtime {
        found.extend(at(format!("{runtime}/systemd/private")).map(|address| (address, false)));
    }
    if let Ok(list) = env::var(variable) {
        found.extend(list.split(';').filter_map(bus_address).map(|address| (address, true)));
    }
    if let Some(runtime) = &runtime {
        let path = if user { format!("{runtime}/bus") } else { format!("{runtime}/dbus/system_bus_socket") };
        found.extend(at(path).map(|address| (address, true)));
    }
    found
}

/// An address as D-Bus variables spell it: "unix:path=/run/user/1000/bus,guid=...".
fn bus_address(text: &str) -> Option<SocketAddr> {
    text.strip_prefix("unix:")?.split(',').find_map(|pair| match pair.split_once('=')? {
        ("path", path) => SocketAddr::from_pathname(unescape(path)?).ok(),
        ("abstract", name) => SocketAddr::from_abstract_name(unescape(name)?).ok(),
        _ => None,
    })
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut letters = text.bytes();
    while let Some(letter) = letters.next() {
        bytes.push(match letter {
            b'%' => {
                let digits = [letters.next()?, letters.next()?];
                u8::from_str_radix(str::from_utf8(&digits).ok()?, 16).ok()?
            }
            letter => letter,
        });
    }
    String::from_utf8(bytes).ok()
}

fn encode_call(
    serial: u32,
    (path, interface): (&str, &str),
    member: &str,
    to: Option<&str>,
    body: &[Value],
) -> Vec<u8> {
    let mut encoded = Vec::new();
    body.iter().for_each(|value| value.encode(&mut encoded));
    let mut out = vec![b'l', CALL, 0, 1];
    out.extend_from_slice(&(encoded.len() as u32).to_le_bytes());
    out.extend_from_slice(&serial.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let start = out.len();
    let fields = [
        (1, Some(Value::Path(path.to_owned()))),
        (2, Some(Value::str(interface))),
        (3, Some(Value::str(member))),
        (6, to.map(Value::str)),
    ];
    for (code, value) in fields {
        let Some(value) = value else { continue };
        Value::Struct(vec![Value::Byte(code), Value::Variant(Box::new(value))]).encode(&mut out);
    }
    if !body.is_empty() {
        align(&mut out, 8);
        out.push(8);
        out.extend_from_slice(&[1, b'g', 0]);
        encode_signature(&mut out, &body.iter().map(Value::signature).collect::<String>());
    }
    let length = (out.len() - start) as u32;
    out[start - 4..start].copy_from_slice(&length.to_le_bytes());
    align(&mut out, 8);
    out.extend_from_slice(&encoded);
    out
}

fn decode(kind: u8, length: usize, fields: &[u8], body: &[u8]) -> io::Result<Message> {
    let mut message = Message { kind, ..Message::default() };
    let mut signature = String::new();
    let mut reader = Reader { bytes: &fields[..length], at: 0 };
    while reader.at < length {
        reader.align(8)?;
        let code = reader.take(1)?[0];
        let kind = reader.signature()?;
        if code == 8 {
            signature = reader.signature()?;
            continue;
        }
        match (code, reader.value(&kind)?) {
            (3, Value::Str(member)) => message.member = member,
            (4, Value::Str(name)) => message.error = name,
            (5, Value::U32(serial)) => message.answers = Some(serial),
            _ => {}
        }
    }
    // Only the answers that are asked for and JobRemoved are of interest; all of them are made of simple types.
    let wanted = kind != SIGNAL || message.member == "JobRemoved";
    if wanted && signature.bytes().all(|letter| b"ybuxtosv".contains(&letter)) {
        let mut reader = Reader { bytes: body, at: 0 };
        for index in 0..signature.len() {
            message.body.push(reader.value(&signature[index..=index])?);
        }
    }
    Ok(message)
}

/// Reads wire form.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn align(&mut self, alignment: usize) -> io::Result<()> {
        self.at = self.at.next_multiple_of(alignment);
        if self.at > self.bytes.len() { Err(invalid("the message is cut short")) } else { Ok(()) }
    }

    fn take(&mut self, count: usize) -> io::Result<&'a [u8]> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| invalid("the message is cut short"))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.align(4)?;
        let bytes = self.take(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn text(&mut self, length: usize) -> io::Result<String> {
        let text = str::from_utf8(self.take(length)?).map_err(|_| invalid("a string is no UTF-8"))?.to_owned();
        self.take(1)?;
        Ok(text)
    }

    fn signature(&mut self) -> io::Result<String> {
        let length = usize::from(self.take(1)?[0]);
        self.text(length)
    }

    /// A value of the simple type `kind`; others have no place in the messages that are read.
    fn value(&mut self, kind: &str) -> io::Result<Value> {
        self.nested(kind, 0)
    }

    /// The same, inside of `depth` variants.
    fn nested(&mut self, kind: &str, depth: u32) -> io::Result<Value> {
        Ok(match kind {
            "y" => Value::Byte(self.take(1)?[0]),
            "b" => Value::Bool(self.u32()? != 0),
            "u" => Value::U32(self.u32()?),
            "x" | "t" => {
                self.align(8)?;
                let mut bytes = [0; 8];
                bytes.copy_from_slice(self.take(8)?);
                Value::U64(u64::from_le_bytes(bytes))
            }
            "s" | "o" => {
                let length = self.u32()? as usize;
                let text = self.text(length)?;
                if kind == "s" { Value::Str(text) } else { Value::Path(text) }
            }
            "v" if depth < MAX_VARIANTS => {
                let kind = self.signature()?;
                Value::Variant(Box::new(self.nested(&kind, depth + 1)?))
            }
            _ => return Err(invalid("a value is of an unexpected type")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a whole message, as [`Connection::receive`] does.
    fn read(bytes: &[u8]) -> io::Result<Message> {
        let (ours, mut theirs) = UnixStream::pair()?;
        theirs.write_all(bytes)?;
        drop(theirs);
        Connection { stream: ours, bus: false, serial: 0, done: VecDeque::new() }.receive()
    }

    #[test]
    fn variants_are_not_followed_for_ever() {
        for (depth, good) in [(60, true), (30_000, false)] {
            let nested = [1, b'v', 0].repeat(depth);
            let body = [&nested[..], &[1, b'y', 0, 7]].concat();
            let mut reader = Reader { bytes: &body, at: 0 };
            assert_eq!(reader.value("v").is_ok(), good, "{depth}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// An answer with some bytes changed, or cut off, is an answer or an error.
        #[test]
        fn a_damaged_answer_is_survived(
            text in "[ -~]{0,20}",
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let body = [Value::str(text), Value::U32(7), Value::Variant(Box::new(Value::U64(9)))];
            let mut bytes = encode_call(5, MANAGER, "JobRemoved", Some("a.b"), &body);
            let _ = read(&bytes[..cut.index(bytes.len())]);
            prop_assert!(read(&bytes).is_ok());
            for (at, with) in damage {
                let at = at.index(bytes.len());
                bytes[at] = with;
            }
            let _ = read(&bytes);
        }

        #[test]
        fn any_fields_and_body_are_survived(
            kind in 0..6u8,
            fields in prop::collection::vec(prop_oneof![any::<u8>(), prop::sample::select(&b"\0\x01\x02\x08gsuvybot"[..])], 0..60),
            body in prop::collection::vec(any::<u8>(), 0..60),
        ) {
            let length = fields.len();
            let mut padded = fields;
            padded.resize(length.next_multiple_of(8), 0);
            let _ = decode(kind, length, &padded, &body);
        }

        #[test]
        fn any_address_is_read(text in "unix:((path|abstract|guid)=|%[0-9a-g]{0,2}|[ -~]|,|\u{e4}){0,12}") {
            let _ = bus_address(&text);
        }
    }

    #[test]
    fn a_call_is_read_back_as_it_was_written() {
        let body = [Value::str("x.scope"), Value::U32(7), Value::Variant(Box::new(Value::str("v")))];
        let bytes = encode_call(5, MANAGER, "JobRemoved", Some("a.b"), &body);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let fields = word(12).next_multiple_of(8);
        assert_eq!(bytes.len(), 16 + fields + word(4));
        let message = decode(bytes[1], word(12), &bytes[16..16 + fields], &bytes[16 + fields..]).unwrap();
        assert_eq!((message.kind, message.member.as_str(), &message.body[..]), (CALL, "JobRemoved", &body[..]));
    }

    #[test]
    fn a_message_that_is_cut_short_is_an_error_not_a_panic() {
        let bytes = encode_call(5, MANAGER, "GetUnit", None, &[Value::str("x.scope")]);
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let (length, fields) = (word(12), word(12).next_multiple_of(8));
        for cut in 0..word(4) {
            assert!(decode(RETURN, length, &bytes[16..16 + fields], &bytes[16 + fields..16 + fields + cut]).is_err());
        }
        for cut in 1..length {
            let _ = decode(RETURN, cut, &bytes[16..16 + fields], &[]);
        }
    }

    #[test]
    fn addresses_are_unescaped() {
        assert_eq!(
            bus_address("unix:path=/run/a%20b,guid=5").unwrap().as_pathname().unwrap().to_str(),
            Some("/run/a b")
        );
        assert_eq!(bus_address("unix:abstract=/x").unwrap().as_abstract_name(), Some(&b"/x"[..]));
        assert!(bus_address("tcp:host=x").is_none());
    }
}
