//! A Diameter relay (RFC 6733, 2.8.1) before several charging systems: it takes turns for requests that name no server.

use super::capture::free;
use imcharge::wire::diameter::dictionary::{
    self as avp, APPLICATION_BASE, APPLICATION_CREDIT_CONTROL, APPLICATION_RELAY,
};
use imcharge::wire::diameter::{Command, EndToEnd, Flags, Header, HopByHop, Message, Writer};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A Credit-Control-Request that came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its header.
    pub header: Header,
    /// Its Session-Id.
    pub session: String,
    /// Its Destination-Host.
    pub destination: Option<String>,
}

/// What all its threads share.
struct Shared {
    host: &'static str,
    systems: Vec<(&'static str, SocketAddr)>,
    turn: AtomicUsize,
    seen: Mutex<Vec<Seen>>,
    /// All connections; `None`: new ones are refused.
    streams: Mutex<Option<Vec<TcpStream>>>,
}

/// The relay.
pub struct Relay {
    /// Its listening address.
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Relay {
    /// Of this name, before charging systems of these.
    pub fn start(host: &'static str, systems: &[(&'static str, SocketAddr)]) -> Relay {
        let address = free();
        let listener = TcpListener::bind(address).expect("the port is still free");
        let (seen, streams) = (Mutex::default(), Mutex::new(Some(Vec::new())));
        let shared = Arc::new(Shared { host, systems: systems.to_vec(), turn: AtomicUsize::new(0), seen, streams });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if !own.keep(&stream) {
                    return;
                }
                let own = Arc::clone(&own);
                std::thread::spawn(move || own.converse(stream));
            }
        });
        Relay { address, shared }
    }

    /// What it was asked to deliver.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("no holder panics").clone()
    }

    /// It is gone for good.
    pub fn cut(&self) {
        let streams = self.shared.streams.lock().expect("no holder panics").take();
        streams.into_iter().flatten().for_each(|stream| _ = stream.shutdown(Shutdown::Both));
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.cut();
    }
}

impl Shared {
    fn keep(&self, stream: &TcpStream) -> bool {
        let mut streams = self.streams.lock().expect("no holder panics");
        streams.as_mut().map(|streams| streams.push(stream.try_clone().expect("a second descriptor"))).is_some()
    }

    /// One client, until it ends.
    fn converse(self: Arc<Shared>, mut client: TcpStream) {
        let systems: Vec<TcpStream> = self.systems.iter().map(|(_, address)| self.connect(*address)).collect();
        for system in &systems {
            let (mut from, mut to) = (system.try_clone().expect("a copy"), client.try_clone().expect("a copy"));
            std::thread::spawn(move || {
                while let Some(answer) = next(&mut from) {
                    // One write for one message: two systems may answer at once.
                    if to.write_all(&answer).is_err() {
                        return;
                    }
                }
            });
        }
        while let Some(octets) = next(&mut client) {
            let message = Message::parse(&octets).expect("the proxy writes messages");
            let written = match message.header.command {
                Command::CREDIT_CONTROL => {
                    let target = self.target(&message);
                    (&systems[target]).write_all(&octets)
                }
                _ => client.write_all(&self.own_answer(&message)),
            };
            if written.is_err() {
                return;
            }
        }
    }

    /// Destination of a request.
    fn target(&self, message: &Message<'_>) -> usize {
        let text = |avp| message.find(avp).and_then(|found| found.text().ok()).map(str::to_owned);
        let destination = text(avp::DESTINATION_HOST);
        let seen = Seen {
            header: message.header,
            session: text(avp::SESSION_ID).unwrap_or_default(),
            destination: destination.clone(),
        };
        self.seen.lock().expect("no holder panics").push(seen);
        match destination {
            Some(host) => self.systems.iter().position(|(known, _)| *known == host).expect("a system of that name"),
            None => self.turn.fetch_add(1, Ordering::Relaxed) % self.systems.len(),
        }
    }

    /// A connection to a charging system, with capabilities exchanged.
    fn connect(&self, address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).expect("the charging system listens");
        self.keep(&stream);
        let (mut out, flags) = (Vec::new(), Flags::default());
        let command = Command::CAPABILITIES_EXCHANGE;
        let mut writer = Writer::request(&mut out, command, flags, APPLICATION_BASE, HopByHop(1), EndToEnd(1));
        self.capabilities(&mut writer, APPLICATION_CREDIT_CONTROL);
        writer.finish().expect("it is short");
        stream.write_all(&out).expect("it reads");
        next(&mut stream).expect("a Capabilities-Exchange-Answer");
        stream
    }

    fn capabilities(&self, writer: &mut Writer<'_>, application: u32) {
        writer.text(avp::ORIGIN_HOST, self.host);
        writer.text(avp::ORIGIN_REALM, "example.com");
        writer.octets(avp::HOST_IP_ADDRESS, &[0, 1, 127, 0, 0, 1]);
        writer.u32(avp::VENDOR_ID, 0);
        writer.text(avp::PRODUCT_NAME, "relay");
        writer.u32(avp::AUTH_APPLICATION_ID, application);
    }

    /// CEA, DWA or DPA.
    fn own_answer(&self, message: &Message<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = Writer::answer(&mut out, &message.header);
        writer.u32(avp::RESULT_CODE, 2001);
        match message.header.command {
            Command::CAPABILITIES_EXCHANGE => self.capabilities(&mut writer, APPLICATION_RELAY),
            _ => {
                writer.text(avp::ORIGIN_HOST, self.host);
                writer.text(avp::ORIGIN_REALM, "example.com");
            }
        }
        writer.finish().expect("it is short");
        out
    }
}

/// The next message.
fn next(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut octets = vec![0; 4];
    stream.read_exact(&mut octets).ok()?;
    let length = u32::from_be_bytes([0, octets[1], octets[2], octets[3]]) as usize;
    octets.resize(length, 0);
    stream.read_exact(&mut octets[4..]).ok()?;
    Some(octets)
}
