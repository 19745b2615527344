//! Diameter load generator: pairs of INITIAL and TERMINATION with a window of pending requests.

use imcharge::wire::diameter::base::CapabilitiesExchangeRequest;
use imcharge::wire::diameter::codes::{RequestType, SubscriptionIdType};
use imcharge::wire::diameter::credit_control::SubscriptionId;
use imcharge::wire::diameter::{
    Address, Command, CreditControlAnswer, CreditControlRequest, EndToEnd, Flags, Framed, HopByHop, Message, Outcome,
    ResultCode, Service, ServiceUnits, Writer, dictionary, frame,
};
use std::error::Error;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Parameters of the load.
pub struct Load {
    pub address: SocketAddr,
    /// Number of connections, each with one thread.
    pub connections: usize,
    /// Pending requests per connection.
    pub window: usize,
    pub seconds: u64,
}

impl Load {
    /// Runs the load and prints the throughput.
    pub fn run(&self) -> Result<(), Box<dyn Error>> {
        let start = Instant::now();
        let threads: Vec<_> = (0..self.connections)
            .map(|number| {
                let (address, window, seconds) = (self.address, self.window, self.seconds);
                std::thread::spawn(move || run_connection(address, number, window, Duration::from_secs(seconds)))
            })
            .collect();
        let (mut answered, mut granted) = (0, 0);
        for thread in threads {
            let counts = thread.join().map_err(|_| "a thread of the load panicked")?;
            let counts = counts.map_err(|error| format!("{}: {error}", self.address))?;
            answered += counts.0;
            granted += counts.1;
        }
        let span = start.elapsed().as_secs_f64();
        println!(
            "{answered} CCRs answered in {span:.2} s, {granted} with SUCCESS: {:.0} CCR/s \
             ({} connections, {} pending on each; CPU of the client {} ms)",
            answered as f64 / span,
            self.connections,
            self.window,
            super::control::cpu_ms(),
        );
        Ok(())
    }
}

/// Runs one connection. Returns the numbers of answers and of grants.
fn run_connection(address: SocketAddr, number: usize, window: usize, span: Duration) -> std::io::Result<(u64, u64)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut out = Vec::new();
    let host = format!("load{number}.example.com");
    write_cer(&mut out, &host);
    stream.write_all(&out)?;
    let mut input = Vec::new();
    let mut chunk = vec![0; 256 * 1024];
    let (mut answered, mut granted, mut sent) = (0, 0, 0_u64);
    receive(&mut stream, &mut chunk, &mut input, 1, |_| {})?;
    let start = Instant::now();
    while start.elapsed() < span {
        out.clear();
        for _ in 0..window {
            write_ccr(&mut out, &host, sent);
            sent += 1;
        }
        stream.write_all(&out)?;
        receive(&mut stream, &mut chunk, &mut input, window, |message| {
            let answer = CreditControlAnswer::decode(&message);
            let outcome = answer.ok().and_then(|answer| answer.body.outcome());
            answered += 1;
            granted += u64::from(outcome == Some(Outcome::Result(ResultCode::SUCCESS)));
        })?;
    }
    Ok((answered, granted))
}

fn write_cer(out: &mut Vec<u8>, host: &str) {
    let body = CapabilitiesExchangeRequest {
        origin_host: host,
        origin_realm: "example.com",
        host_ip_address: vec![Address::Ip(std::net::Ipv4Addr::LOCALHOST.into())],
        product_name: "imcharge load",
        auth_application_id: vec![dictionary::APPLICATION_CREDIT_CONTROL],
        ..CapabilitiesExchangeRequest::default()
    };
    let command = Command::CAPABILITIES_EXCHANGE;
    let mut writer = Writer::request(out, command, Flags::default(), 0, HopByHop(0), EndToEnd(0));
    body.write(&mut writer);
    let _ = writer.finish();
}

/// Writes the next request: alternately INITIAL for two units and TERMINATION with one used.
fn write_ccr(out: &mut Vec<u8>, host: &str, number: u64) {
    let session_id = format!("{host};{};1", number / 2);
    let begins = number.is_multiple_of(2);
    let units = |count| ServiceUnits { service_specific: Some(count), ..ServiceUnits::default() };
    let service = Service {
        requested_service_unit: begins.then(|| units(2)),
        used_service_unit: if begins { vec![] } else { vec![units(1)] },
        rating_group: Some(1),
        ..Service::default()
    };
    let body = CreditControlRequest {
        session_id: &session_id,
        origin_host: host,
        origin_realm: "example.com",
        destination_realm: "example.com",
        auth_application_id: dictionary::APPLICATION_CREDIT_CONTROL,
        service_context_id: "32274@3gpp.org",
        request_type: if begins { RequestType::INITIAL_REQUEST } else { RequestType::TERMINATION_REQUEST },
        request_number: (number % 2) as u32,
        subscription_id: vec![SubscriptionId {
            kind: SubscriptionIdType::END_USER_SIP_URI,
            data: "sip:load@example.com",
        }],
        services: vec![service],
        ..CreditControlRequest::default()
    };
    let (hop_by_hop, end_to_end) = (HopByHop(number as u32), EndToEnd(number as u32));
    let application = dictionary::APPLICATION_CREDIT_CONTROL;
    let mut writer =
        Writer::request(out, Command::CREDIT_CONTROL, Flags::PROXIABLE, application, hop_by_hop, end_to_end);
    body.write(&mut writer);
    let _ = writer.finish();
}

/// Waits for `count` messages and passes each to `take`.
fn receive(
    stream: &mut TcpStream,
    chunk: &mut [u8],
    input: &mut Vec<u8>,
    mut count: usize,
    mut take: impl FnMut(Message<'_>),
) -> std::io::Result<()> {
    let invalid = |text: String| std::io::Error::new(std::io::ErrorKind::InvalidData, text);
    let mut taken = 0;
    while count > 0 {
        let rest = input.get(taken..).unwrap_or_default();
        match frame(rest) {
            Framed::Message(length) => {
                rest.get(..length).and_then(Message::parse).into_iter().for_each(&mut take);
                taken += length;
                count -= 1;
            }
            Framed::Need(_) => {
                input.drain(..taken);
                taken = 0;
                let read = stream.read(chunk)?;
                if read == 0 {
                    return Err(invalid("the server has closed the connection".into()));
                }
                input.extend_from_slice(chunk.get(..read).unwrap_or_default());
            }
            Framed::FramingError(broken) => return Err(invalid(broken.to_string())),
        }
    }
    input.drain(..taken);
    Ok(())
}
