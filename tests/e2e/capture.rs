//! What goes over a port, as dumpcap writes it down and tshark reads it afterwards.

use imcharge_testkit::{eventually, send_signal};
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A datagram of these octets is the last thing that is captured.
const END: &[u8] = b"this is the end of the capture";

/// A port that is free now.
pub fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port")
}

/// A process that ends with its owner.
pub struct Process(pub Child);

impl Process {
    /// Starts it.
    pub fn start(command: &mut Command) -> Process {
        Process(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Sends it a signal that ends it, and waits for that.
    pub fn signal(&mut self, signal: &str) {
        send_signal(signal, i64::from(self.0.id()));
        let _ = self.0.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A capture of one port.
pub struct Capture {
    process: Process,
    folder: tempfile::TempDir,
    port: u16,
}

impl Capture {
    /// Begins, and has begun when it returns.
    pub fn start(port: u16) -> Capture {
        let folder = tempfile::tempdir().expect("a folder");
        let mut command = Command::new("dumpcap");
        // TCP for the messages, UDP for the end.
        command.args(["-q", "-i", "lo", "-f", &format!("port {port}"), "-w"]).arg(folder.path().join("pcap"));
        let mut process = Process::start(command.stderr(Stdio::piped()));
        let mut said = BufReader::new(process.0.stderr.take().expect("piped"));
        let mut line = String::new();
        while !line.starts_with("File: ") {
            line.clear();
            assert!(said.read_line(&mut line).expect("it speaks") > 0, "dumpcap does not start: it wants root");
        }
        Capture { process, folder, port }
    }

    /// Ends it; what tshark has in the messages that the filter takes: fields by frame.
    pub fn read(mut self, filter: &str, fields: &[&str]) -> String {
        self.end();
        let mut arguments = vec!["-Y", filter, "-T", "fields"];
        fields.iter().for_each(|field| arguments.extend(["-e", field]));
        self.tshark(&arguments)
    }

    /// Ends it; what tshark warns of, or takes for an error, in the messages that were sent to the port.
    pub fn complaints(mut self) -> Vec<String> {
        self.end();
        let sent = format!("tcp.dstport == {}", self.port);
        let (messages, experts) = (format!("{sent} && diameter"), format!("expert,warn,{sent}"));
        let said = self.tshark(&["-Y", &messages, "-T", "fields", "-e", "diameter.cmd.code", "-z", &experts]);
        assert!(said.starts_with("257"), "no Capabilities-Exchange-Request was captured:\n{said}");
        // After the messages comes a table: how often, group, protocol, text. Lines about TCP, such as a reset connection,
        // are caused by the case.
        let is_complaint = |line: &&str| {
            let words: Vec<&str> = line.split_whitespace().take(4).collect();
            words.len() == 4 && words[0].parse::<u32>().is_ok() && !words.contains(&"TCP")
        };
        said.lines().filter(is_complaint).map(|line| line.trim().to_owned()).collect()
    }

    /// dumpcap writes late, and forgets at a signal what it has not written: so what was captured last is waited for.
    fn end(&mut self) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.send_to(END, ("127.0.0.1", self.port)).expect("sent");
        let path = self.folder.path().join("pcap");
        let is_written = || std::fs::read(&path).is_ok_and(|octets| octets.windows(END.len()).any(|part| part == END));
        assert!(eventually(Duration::from_secs(30), is_written), "dumpcap does not write");
        self.process.signal("INT");
    }

    fn tshark(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("tshark");
        command.arg("-r").arg(self.folder.path().join("pcap")).arg("-d");
        command.arg(format!("tcp.port=={},diameter", self.port)).args(arguments);
        let output = command.stderr(Stdio::null()).output().expect("tshark runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A capture that runs until its owner is dropped, and in which tshark must then have nothing against the
/// messages that were sent to the port. What came from there may be wrong on purpose.
pub struct Judged(Option<Capture>);

impl Judged {
    /// Begins.
    pub fn start(port: u16) -> Judged {
        Judged(Some(Capture::start(port)))
    }
}

impl Drop for Judged {
    fn drop(&mut self) {
        let capture = self.0.take().filter(|_| !std::thread::panicking());
        let complaints = capture.map(Capture::complaints).unwrap_or_default();
        assert!(complaints.is_empty(), "tshark has something against our messages: {complaints:#?}");
    }
}
