//! The streams of exec, attach and port-forward: WebSockets (RFC 6455) with Kubernetes' channels.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// stdin, or what goes to the port.
pub const STDIN: u8 = 0;
/// stdout.
pub const STDOUT: u8 = 1;
/// stderr.
pub const STDERR: u8 = 2;
/// How it ended, as JSON.
pub const STATUS: u8 = 3;
/// The size of the terminal, as JSON.
pub const RESIZE: u8 = 4;

/// A connection.
pub struct Stream {
    socket: BufReader<TcpStream>,
    received: BTreeMap<u8, Vec<u8>>,
}

impl Stream {
    /// Connects to the `url` that the server has answered.
    pub fn connect(url: &str) -> Self {
        let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut socket = TcpStream::connect(host).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        write!(
            socket,
            "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\
            Origin: http://{host}\r\n\r\n"
        )
        .unwrap();
        let mut socket = BufReader::new(socket);
        let mut line = String::new();
        socket.read_line(&mut line).unwrap();
        assert!(line.contains("101"), "{line}");
        while line.trim_end() != "" {
            line.clear();
            socket.read_line(&mut line).unwrap();
        }
        Self { socket, received: BTreeMap::new() }
    }

    /// Sends `data` on a channel.
    pub fn send(&mut self, channel: u8, data: &[u8]) {
        let length = u8::try_from(data.len() + 1).unwrap();
        assert!(length < 126, "longer frames have another header");
        // A final binary frame, masked with zeros.
        let mut frame = vec![0x82, 0x80 | length, 0, 0, 0, 0, channel];
        frame.extend(data);
        self.socket.get_mut().write_all(&frame).unwrap();
    }

    /// Receives a frame; false at the end.
    fn receive(&mut self) -> bool {
        let mut head = [0; 2];
        if self.socket.read_exact(&mut head).is_err() {
            return false;
        }
        let length = match head[1] & 0x7f {
            126 => u64::from(u16::from_be_bytes(self.array())),
            127 => u64::from_be_bytes(self.array()),
            short => u64::from(short),
        };
        let mut data = vec![0; usize::try_from(length).unwrap()];
        self.socket.read_exact(&mut data).unwrap();
        match head[0] & 0xf {
            8 => return false,
            1 | 2 if !data.is_empty() => self.received.entry(data[0]).or_default().extend(&data[1..]),
            _ => {}
        }
        true
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.socket.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// What has come on a channel so far.
    pub fn text(&self, channel: u8) -> String {
        String::from_utf8_lossy(self.received.get(&channel).map_or(&[], Vec::as_slice)).into_owned()
    }

    /// Receives until `text` has come on a channel.
    #[track_caller]
    pub fn expect(&mut self, channel: u8, text: &str) {
        while !self.text(channel).contains(text) {
            assert!(self.receive(), "no {text:?}: {:?}", self.received);
        }
    }

    /// Receives to the end.
    pub fn finish(mut self) -> Self {
        while self.receive() {}
        self
    }
}
