//! Debian's Prometheus with the shipped configuration, on free ports and in a separate folder; stopped on drop.

use imcharge_testkit::eventually;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// One of the programs, which `make test` fetches.
pub fn program(name: &str) -> PathBuf {
    let folder =
        std::env::var_os("IMCHARGE_PROMETHEUS").expect("IMCHARGE_PROMETHEUS names no folder: run make test-all");
    Path::new(&folder).join(name)
}

/// Returns the path of a shipped file, named relative to `kamailio-config/`.
pub fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kamailio-config").join(name)
}

/// An address that is free now.
pub fn free_address() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a free port");
    socket.local_addr().expect("a bound socket has an address")
}

/// An answer of an HTTP server.
#[derive(Debug)]
pub struct Page {
    /// Status.
    pub status: u16,
    /// Content-Type.
    pub kind: String,
    /// The body.
    pub text: String,
}

/// Gets a page. `None`: no answer within the time.
pub fn get(address: SocketAddr, path: &str, within: Duration) -> Option<Page> {
    http(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n"), within)
}

/// Sends an HTTP request; the answer. `None`: there is none.
pub fn http(address: SocketAddr, request: &str, within: Duration) -> Option<Page> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(within)).ok()?;
    stream.write_all(request.as_bytes()).ok()?;
    let mut reader = BufReader::new(stream);
    let (mut lines, mut line) = (Vec::new(), String::new());
    while reader.read_line(&mut line).ok()? > 0 && !line.trim_end().is_empty() {
        lines.push(std::mem::take(&mut line));
    }
    let header = |name: &str| {
        let of = |line: &String| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        lines.iter().find_map(of)
    };
    let status = lines.first()?.split_whitespace().nth(1)?.parse().ok()?;
    let mut body = Vec::new();
    match header("Content-Length").and_then(|length| length.parse().ok()) {
        Some(length) => {
            body.resize(length, 0);
            reader.read_exact(&mut body).ok()?;
        }
        None => drop(reader.read_to_end(&mut body).ok()?),
    }
    let text = String::from_utf8(body).ok()?;
    Some(Page { status, kind: header("Content-Type").unwrap_or_default(), text })
}

/// A running Prometheus.
pub struct Prometheus {
    child: Child,
    folder: tempfile::TempDir,
    address: SocketAddr,
}

impl Prometheus {
    /// The shipped configuration, but for the address of the proxy and a pace for the impatient.
    pub fn start(proxy: SocketAddr) -> Prometheus {
        let folder = tempfile::tempdir().expect("a folder");
        let mut text = fs::read_to_string(shipped("prometheus/prometheus.yml")).expect("it is shipped");
        let target = format!("\"{proxy}\"");
        for (from, to) in [("\"127.0.0.1:9494\"", &*target), ("_interval: 15s", "_interval: 250ms")] {
            assert!(text.contains(from), "prometheus.yml has no {from} to change");
            text = text.replace(from, to);
        }
        let config = folder.path().join("prometheus.yml");
        fs::write(&config, text).expect("a file");
        fs::copy(shipped("prometheus/imcharge-alerts.yml"), folder.path().join("imcharge-alerts.yml"))
            .expect("it is shipped");
        let address = free_address();
        let log = fs::File::create(folder.path().join("log")).expect("a file");
        let child = Command::new(program("prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("prometheus does not start: {error}"));
        let mut started = Prometheus { child, folder, address };
        let ready = eventually(PATIENCE, || {
            let is_ready = get(address, "/-/ready", PATIENCE).is_some_and(|page| page.status == 200);
            is_ready || started.child.try_wait().is_ok_and(|ended| ended.is_some())
        });
        assert!(ready && started.child.try_wait().is_ok_and(|ended| ended.is_none()), "{}", started.log());
        started
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What its API answers under a path.
    #[track_caller]
    pub fn api(&self, path: &str) -> Value {
        let page = get(self.address, &format!("/api/v1/{path}"), PATIENCE);
        let page = page.unwrap_or_else(|| panic!("no answer to {path}\n{}", self.log()));
        let answer: Value = serde_json::from_str(&page.text).unwrap_or_else(|error| panic!("{error}: {}", page.text));
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// The result of an expression: labels and values.
    #[track_caller]
    pub fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let result = self.api(&format!("query?query={}", escaped(expression)))["result"].clone();
        let rows = result.as_array().unwrap_or_else(|| panic!("{expression}: {result}"));
        let number = |row: &Value| row["value"][1].as_str().and_then(|value| value.parse().ok()).unwrap_or(f64::NAN);
        rows.iter().map(|row| (row["metric"].clone(), number(row))).collect()
    }

    /// Waits until an expression has a result.
    #[track_caller]
    pub fn becomes(&self, expression: &str, within: Duration) {
        let seen = eventually(within, || !self.query(expression).is_empty());
        assert!(seen, "{expression} has no result\n{}", self.log());
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Percent-encodes text for the query of a URL.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}
