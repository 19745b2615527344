//! The transports by which an operator's command reaches a proxy, as its stock modules and programs have them.

use crate::watching::prometheus::{free_address, http};
use crate::{HOST, Stage};
use imcharge_testkit::proxy::kamailio::kamcmd_text;
use imcharge_testkit::proxy::opensips;
use imcharge_testkit::proxy::{Host, Proxy, Setup};
use imcharge_testkit::unique;
use serde_json::{Value, json};
use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// binrpc of Kamailio's ctl, by kamcmd.
    Kamcmd,
    /// JSON-RPC over HTTP: jsonrpcs with xhttp, mi_http.
    Http,
    /// JSON-RPC over a FIFO: jsonrpcs, mi_fifo.
    Fifo,
    /// JSON-RPC over a datagram: jsonrpcs, mi_datagram.
    Datagram,
    /// opensips-cli, over a datagram.
    Cli,
}

/// A proxy that takes commands by every transport of its host.
pub struct Console {
    /// The proxy.
    pub stage: Stage,
    host: Host,
    http: SocketAddr,
    /// FIFOs and sockets.
    folder: tempfile::TempDir,
}

/// Why a command failed: the code and the sentence.
pub type Refusal = (i64, String);

impl Console {
    /// The shipped configuration with all transports, changed as the case wants.
    pub fn new(change: impl FnOnce(Setup) -> Setup) -> Console {
        let (host, http, folder) = (HOST.get(), free_address(), tempfile::tempdir().expect("a folder"));
        // FIFOs in a folder like /tmp may be written to by their owner alone.
        let path = |name: &str| folder.path().join(name).display().to_string();
        let parameter = |module: &str, name: &str, value: &str| format!("modparam(\"{module}\", \"{name}\", {value})");
        let quoted = |text: String| format!("\"{text}\"");
        let stage = Stage::new(|setup| {
            let setup = match host {
                Host::Kamailio => {
                    let shipped = parameter("jsonrpcs", "transport", "1");
                    let all = [
                        parameter("jsonrpcs", "transport", "7"),
                        parameter("jsonrpcs", "fifo_name", &quoted(path("fifo"))),
                        parameter("jsonrpcs", "fifo_reply_dir", &quoted(path(""))),
                        parameter("jsonrpcs", "dgram_socket", &quoted(path("datagram"))),
                    ];
                    // The private memory of a Kamailio that has no -M.
                    let mut setup = setup;
                    setup.arguments.extend(["-M", "8"]);
                    let setup = setup.defined("WITH_JSONRPC", "1").defined("JSONRPC_LISTEN", format!("tcp:{http}"));
                    setup.changed(&shipped, &format!("{} # ", all.join("\n")))
                }
                Host::OpenSips => {
                    let all = [
                        "loadmodule \"mi_datagram.so\"".to_owned(),
                        "loadmodule \"httpd.so\"".to_owned(),
                        "loadmodule \"mi_http.so\"".to_owned(),
                        "loadmodule \"mi_fifo.so\"".to_owned(),
                        parameter("httpd", "ip", &quoted(http.ip().to_string())),
                        parameter("httpd", "port", &http.port().to_string()),
                        parameter("mi_fifo", "fifo_name", &quoted(path("fifo"))),
                        parameter("mi_fifo", "reply_dir", &quoted(path(""))),
                    ];
                    setup.changed(&all[0], &all.join("\n"))
                }
            };
            change(setup)
        });
        Console { stage, host, http, folder }
    }

    /// The proxy.
    pub fn proxy(&self) -> &Proxy {
        &self.stage.proxy
    }

    /// Every transport of the host.
    pub fn ways(&self) -> &'static [Way] {
        match self.host {
            Host::Kamailio => &[Way::Kamcmd, Way::Http, Way::Fifo, Way::Datagram],
            Host::OpenSips if cli().is_some() => &[Way::Http, Way::Fifo, Way::Datagram, Way::Cli],
            Host::OpenSips => &[Way::Http, Way::Fifo, Way::Datagram],
        }
    }

    /// Those whose arguments have types.
    pub fn json_ways(&self) -> impl Iterator<Item = Way> {
        self.ways().iter().copied().filter(|way| !matches!(way, Way::Kamcmd | Way::Cli))
    }

    /// A command's name in the host's form.
    pub fn named(&self, command: &str) -> String {
        match self.host {
            Host::Kamailio => format!("imcharge.{command}"),
            Host::OpenSips => format!("imcharge:{command}"),
        }
    }

    /// Runs a command of the module with these texts.
    pub fn ask(&self, way: Way, command: &str, arguments: &[&str]) -> Result<Value, Refusal> {
        match way {
            Way::Kamcmd => {
                let name = self.named(command);
                let words = std::iter::once(name).chain(arguments.iter().map(|word| kamcmd_text(word)));
                self.kamcmd(&words.collect::<Vec<_>>())
            }
            Way::Cli => self.cli(&self.named(command), arguments),
            _ => self.ask_json(way, command, json!(arguments)),
        }
    }

    /// Runs a command of the module with these parameters of JSON.
    pub fn ask_json(&self, way: Way, command: &str, parameters: Value) -> Result<Value, Refusal> {
        let mut request = json!({"jsonrpc": "2.0", "id": 1, "method": self.named(command), "params": parameters});
        if parameters == json!([]) {
            request.as_object_mut().expect("an object").remove("params");
        }
        self.send(way, request)
    }

    /// Sends a request.
    pub fn send(&self, way: Way, mut request: Value) -> Result<Value, Refusal> {
        let answer = match way {
            Way::Http => {
                let (path, text) = (if self.host == Host::OpenSips { "/mi" } else { "/" }, request.to_string());
                let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json", self.http);
                let whole = format!("{head}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                http(self.http, &whole, Duration::from_secs(10)).expect("an answer by HTTP").text
            }
            Way::Datagram => {
                let socket = match self.host {
                    Host::Kamailio => self.folder.path().join("datagram"),
                    Host::OpenSips => self.proxy().folder().join("ctl"),
                };
                opensips::ask(&socket, &request.to_string()).expect("an answer by datagram")
            }
            Way::Fifo => {
                let name = format!("answers{}", unique());
                let request = match self.host {
                    Host::Kamailio => {
                        request["reply_name"] = json!(name);
                        request.to_string()
                    }
                    Host::OpenSips => format!(":{name}:{request}"),
                };
                self.ask_fifo(&name, &request)
            }
            Way::Kamcmd | Way::Cli => panic!("{way:?} sends no JSON of ours"),
        };
        let mut answer: Value = serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error} in {answer}"));
        match answer.get("error") {
            Some(error) => {
                let code = error["code"].as_i64().expect("a code");
                Err((code, error["message"].as_str().expect("a sentence").to_owned()))
            }
            None => Ok(answer["result"].take()),
        }
    }

    fn ask_fifo(&self, name: &str, request: &str) -> String {
        let place = self.folder.path().join(name);
        let made = Command::new("mkfifo").args(["-m", "666"]).arg(&place).status();
        assert!(made.is_ok_and(|made| made.success()), "no FIFO for answers");
        let reader = Command::new("timeout").arg("10").arg("cat").arg(&place).stdout(Stdio::piped()).spawn();
        let mut fifo = fs::OpenOptions::new().write(true).open(self.folder.path().join("fifo")).expect("a FIFO");
        fifo.write_all(request.as_bytes()).expect("written");
        drop(fifo);
        let answer = reader.and_then(|reader| reader.wait_with_output()).expect("an answer by FIFO");
        let _ = fs::remove_file(place);
        String::from_utf8(answer.stdout).expect("JSON is UTF-8")
    }

    /// Runs kamcmd with these words as they are.
    pub fn kamcmd<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<Value, Refusal> {
        let refused = |text: String| {
            let (code, sentence) = text.trim().strip_prefix("error: ")?.split_once(" - ")?;
            Some((code.parse().ok()?, sentence.to_owned()))
        };
        let failed = |text: String| refused(text.clone()).unwrap_or_else(|| panic!("{text}"));
        self.proxy().kamcmd(words).map(|text| structures(&text)).map_err(failed)
    }

    /// Runs opensips-cli with these words as they are.
    pub fn cli(&self, command: &str, words: &[&str]) -> Result<Value, Refusal> {
        let socket = self.proxy().folder().join("ctl");
        let mut cli = Command::new(cli().expect("opensips-cli"));
        let options = [
            "communication_type=datagram".to_owned(),
            format!("datagram_unix_socket={}", socket.display()),
            "datagram_timeout=10".to_owned(),
            "output_type=pretty-print".to_owned(),
        ];
        cli.args(options.iter().flat_map(|option| ["-o", option])).args(["-x", "mi", command]).args(words);
        let done = cli.env("HOME", self.folder.path()).output().expect("opensips-cli can be run");
        let said = String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
        // ERROR: command 'imcharge:account.get' returned: Error executing command: 404: imcharge:account.get: ...
        if let Some((_, refusal)) = said.split_once("Error executing command: ") {
            let (code, sentence) = refusal.trim().split_once(": ").unwrap_or_else(|| panic!("{said}"));
            return Err((code.parse().unwrap_or_else(|_| panic!("{said}")), sentence.to_owned()));
        }
        serde_json::from_str(&said).map_err(|error| panic!("{error} in {said}"))
    }
}

/// opensips-cli, if installed: in the folder that `scripts/peers.sh` has made.
fn cli() -> Option<PathBuf> {
    let program = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("out/peers/opensips-cli/bin/opensips-cli");
    program.exists().then_some(program)
}

/// Parses what kamcmd prints; every value is a string. Braces with unnamed rows or texts, or without any, are a list.
pub fn structures(text: &str) -> Value {
    let mut open: Vec<(Option<&str>, Value)> = vec![(None, json!([]))];
    for line in text.lines().map(|line| line.trim_start_matches('\t')) {
        let add = |to: &mut Value, name: Option<&str>, value: Value| match (name, to) {
            (Some(name), to) => {
                if to.is_array() {
                    *to = json!({});
                }
                to[name] = value;
            }
            (None, to) => to.as_array_mut().expect("a list").push(value),
        };
        if line == "}" {
            let (name, value) = open.pop().expect("something is open");
            add(&mut open.last_mut().expect("something is open").1, name, value);
        } else if let Some(name) = line.strip_suffix('{') {
            open.push((name.strip_suffix(": "), json!([])));
        } else {
            let is_name = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            let (name, value) = match line.split_once(": ").filter(|(name, _)| is_name(name)) {
                Some((name, value)) => (Some(name), value),
                None => (None, line),
            };
            add(&mut open.last_mut().expect("something is open").1, name, json!(value));
        }
    }
    open.swap_remove(0).1[0].take()
}

/// An answer with texts alone, as kamcmd has it.
pub fn as_texts(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.to_string()),
        Value::Array(rows) => rows.iter().map(as_texts).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), as_texts(value))).collect(),
        other => other.clone(),
    }
}
