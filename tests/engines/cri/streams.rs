//! exec, attach and port-forward with streams.

use super::stream::{self, Stream};
use super::{Cri, SLEEP};
use crate::cases;
use crate::common::eventually;
use crate::runner::Case;
use serde_json::{Value, json};

pub fn cases() -> Vec<Case<Cri>> {
    cases![exec, exec_exit_code, exec_stdin, exec_terminal, attach, attach_to_terminal, port_forward]
}

fn connect(response: &Value) -> Stream {
    Stream::connect(response["url"].as_str().unwrap())
}

fn exec_stream(cri: &Cri, id: &str, script: &str, options: &[&str]) -> Stream {
    let mut request = json!({"container_id": id, "cmd": ["sh", "-c", script], "stdout": true});
    for option in options {
        request[option] = json!(true);
    }
    connect(&cri.client.call("Exec", &request))
}

fn exec(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |_| {});
    let stream = exec_stream(cri, &id, "echo out; echo err >&2", &["stderr"]).finish();
    assert_eq!((stream.text(stream::STDOUT).as_str(), stream.text(stream::STDERR).as_str()), ("out\n", "err\n"));
    assert!(stream.text(stream::STATUS).contains("Success"), "{}", stream.text(stream::STATUS));
}

fn exec_exit_code(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |_| {});
    let stream = exec_stream(cri, &id, "exit 9", &["stderr"]).finish();
    let status: Value = serde_json::from_str(&stream.text(stream::STATUS)).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "9", "{status}");
}

fn exec_stdin(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |_| {});
    let mut stream = exec_stream(cri, &id, "read line; echo got $line", &["stdin", "stderr"]);
    stream.send(stream::STDIN, b"it\n");
    assert_eq!(stream.finish().text(stream::STDOUT), "got it\n");
}

fn exec_terminal(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, SLEEP, |_| {});
    let script = "tty; until [ \"$(stty size)\" = '33 77' ]; do usleep 10000; done; read line; echo got $line; exit 3";
    let mut stream = exec_stream(cri, &id, script, &["stdin", "tty"]);
    stream.expect(stream::STDOUT, "/dev/pts/0");
    stream.send(stream::RESIZE, br#"{"Width":77,"Height":33}"#);
    stream.send(stream::STDIN, b"it\n");
    let stream = stream.finish();
    assert!(stream.text(stream::STDOUT).contains("got it"), "{}", stream.text(stream::STDOUT));
    assert!(stream.text(stream::STATUS).contains("\"message\":\"3\""), "{}", stream.text(stream::STATUS));
}

fn attach(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let id = cri.started(&pod, "read line; echo got $line; exit 2", |config| config["stdin"] = json!(true));
    let request = json!({"container_id": id, "stdin": true, "stdout": true, "stderr": true});
    let mut stream = connect(&cri.client.call("Attach", &request));
    stream.send(stream::STDIN, b"it\n");
    stream.expect(stream::STDOUT, "got it");
    cri.wait(&id);
    assert_eq!(cri.status(&id)["exit_code"], 2);
}

fn attach_to_terminal(cri: &Cri) {
    let pod = cri.host_pod(|_| {});
    let script = "until [ \"$(stty size)\" = '33 77' ]; do usleep 10000; done; echo resized; read line; echo got $line";
    let id = cri.started(&pod, script, |config| {
        config["stdin"] = json!(true);
        config["tty"] = json!(true);
    });
    let request = json!({"container_id": id, "stdin": true, "stdout": true, "tty": true});
    let mut stream = connect(&cri.client.call("Attach", &request));
    stream.send(stream::RESIZE, br#"{"Width":77,"Height":33}"#);
    stream.expect(stream::STDOUT, "resized");
    stream.send(stream::STDIN, b"it\n");
    stream.expect(stream::STDOUT, "got it");
}

fn port_forward(cri: &Cri) {
    let pod = cri.pod(|_| {});
    let id = cri.started(&pod, "while :; do nc -l -p 4000 -e sh -c 'read line; echo got $line'; done", |_| {});
    eventually(|| cri.exec(&id, "cat /proc/net/tcp /proc/net/tcp6 | grep -c :0FA0").stdout == "1");
    let response = cri.client.call("PortForward", &json!({"pod_sandbox_id": pod, "port": [4000]}));
    let mut stream = Stream::connect(&format!("{}?port=4000", response["url"].as_str().unwrap()));
    stream.send(stream::STDIN, b"it\n");
    stream.expect(stream::STDIN, "got it");
}
