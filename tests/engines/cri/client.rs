//! Calls of the CRI: gRPC by curl(1), which speaks HTTP/2 on a socket.

use super::message;
use crate::process::{limited, output};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

/// A client of a CRI server.
pub struct Client {
    socket: String,
    /// Where requests and responses are kept for the moment.
    dir: PathBuf,
}

impl Client {
    /// One for the server at `socket`, with files in `dir`.
    pub fn new(socket: &str, dir: PathBuf) -> Self {
        fs::create_dir_all(&dir).unwrap();
        Self { socket: socket.to_owned(), dir }
    }

    /// Calls `method` of the runtime service.
    ///
    /// # Errors
    /// What the server answers instead.
    pub fn try_call(&self, method: &str, request: &Value) -> Result<Value, String> {
        let message = message::encode(&format!("{method}Request"), request);
        // gRPC over HTTP/2, "Length-Prefixed-Message": not compressed, and the length.
        let mut body = vec![0];
        body.extend((message.len() as u32).to_be_bytes());
        body.extend(message);
        let [request, response, header] = ["request", "response", "header"].map(|name| self.dir.join(name));
        fs::write(&request, body).unwrap();
        fs::write(&response, "").unwrap();
        let mut curl = limited("curl");
        curl.args(["--silent", "--show-error", "--http2-prior-knowledge", "--unix-socket", &self.socket]);
        curl.args(["--header", "content-type: application/grpc", "--header", "te: trailers"]);
        curl.arg("--data-binary").arg(format!("@{}", request.display()));
        curl.arg("--output").arg(&response).arg("--dump-header").arg(&header);
        curl.arg(format!("http://localhost/runtime.v1.RuntimeService/{method}"));
        output(curl, "").ok();
        let header = fs::read_to_string(header).unwrap();
        let field = |name: &str| header.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        match field("grpc-status:") {
            Some("0") => {
                let bytes = fs::read(response).unwrap();
                Ok(message::decode(&format!("{method}Response"), bytes.get(5..).unwrap_or_default()))
            }
            _ => Err(field("grpc-message:").unwrap_or(&header).to_owned()),
        }
    }

    /// Calls `method`, which must succeed.
    #[track_caller]
    pub fn call(&self, method: &str, request: &Value) -> Value {
        self.try_call(method, request).unwrap_or_else(|why| panic!("{method}: {why}"))
    }
}
