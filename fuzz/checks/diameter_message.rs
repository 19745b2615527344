//! Diameter messages (RFC 6733, RFC 8506): lengths are respected, decoded messages survive encoding, and each fault has
//! an answer that reports it and can be decoded.

use super::lies_in;
use imcharge::wire::diameter::avp::AVPS_MAX;
use imcharge::wire::diameter::base::{
    AbortSessionRequest, Answer, CapabilitiesExchangeAnswer, CapabilitiesExchangeRequest, DeviceWatchdogRequest,
    DisconnectPeerRequest, PeerAnswer, ReAuthRequest,
};
use imcharge::wire::diameter::{
    Avps, CreditControlAnswer, CreditControlRequest, Failed, Fault, Framed, HEADER_LENGTH, Header, MANY_MAX,
    MAX_MESSAGE, Message, Outcome, Writer, dictionary, frame, refuse,
};

/// Depth to which groups are walked: deeper than the types of the grammar.
const DEPTH: usize = 8;

/// Splits the stream into messages, and decodes each as every command.
pub fn check(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        assert_frame(rest);
        let Framed::Message(length) = frame(rest) else { break };
        let (one, after) = rest.split_at(length);
        rest = after;
        read(one);
    }
    assert!(Message::parse(rest).is_none(), "frame() finds no message");
}

/// The length is that of the header (RFC 6733, 3). An incomplete message needs the missing octets and no more.
fn assert_frame(bytes: &[u8]) {
    let stated = bytes.get(1..4).map(|length| length.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet)));
    match frame(bytes) {
        Framed::Message(length) => {
            assert_eq!(stated, Some(length));
            assert!(bytes[0] == 1 && length <= bytes.len() && length.is_multiple_of(4));
            assert!((HEADER_LENGTH..=MAX_MESSAGE).contains(&length));
            for cut in [0, 1, 4, length / 2, length - 1] {
                assert!(matches!(frame(&bytes[..cut]), Framed::Need(more) if (1..=length.max(20)).contains(&more)));
            }
        }
        Framed::Need(more) => assert!(more > 0 && stated.is_none_or(|stated| bytes.len() + more == stated)),
        Framed::FramingError(broken) => assert!(!broken.to_string().is_empty() && broken.result().name().is_some()),
    }
}

/// Checks one whole message.
fn read(bytes: &[u8]) {
    let message = Message::parse(bytes).expect("frame() finds a message");
    assert_eq!(message.header.length, bytes.len());
    assert_eq!(message.header.is_request(), bytes[4] & 0x80 != 0);
    walk(message.avps(), &bytes[HEADER_LENGTH..], DEPTH);
    assert_written_again(&message);
    for fault in faults(&message).into_iter().flatten() {
        assert_refused(&message, &fault, bytes);
    }
}

/// Checks all AVPs and groups: they lie in the bytes and cover them.
fn walk(avps: Avps<'_>, bytes: &[u8], depth: usize) {
    let (mut octets, mut count) = (0, 0);
    for avp in avps {
        count += 1;
        assert!(count <= AVPS_MAX + 1, "the number of AVPs is limited");
        let Ok(avp) = avp else { return };
        assert!(lies_in(avp.data, bytes));
        let header = if avp.flags & 0x80 == 0 { 8 } else { 12 };
        octets += (header + avp.data.len()).next_multiple_of(4);
        assert!(octets <= bytes.len(), "an AVP outside its group");
        assert_eq!(avp.u32().is_ok(), avp.data.len() == 4);
        assert_eq!(avp.u64().is_ok(), avp.data.len() == 8);
        assert_eq!(avp.i32().ok(), avp.u32().ok().map(u32::cast_signed));
        assert_eq!(avp.i64().ok(), avp.u64().ok().map(u64::cast_signed));
        assert_eq!(avp.time().is_ok(), avp.u32().is_ok());
        assert_eq!(avp.text().ok(), std::str::from_utf8(avp.data).ok());
        assert!(avp.address().is_err() || avp.data.len() >= 2);
        assert!(!format!("{avp:?}").is_empty());
        if depth > 0 {
            walk(avp.group(), avp.data, depth - 1);
        }
    }
    assert_eq!(octets, bytes.len(), "all octets belong to an AVP");
}

/// AVPs survive encoding.
fn assert_written_again(message: &Message<'_>) {
    let Ok(avps) = message.avps().collect::<Result<Vec<_>, _>>() else { return };
    let mut out = b"before".to_vec();
    let mut writer = begin(&mut out, &message.header);
    avps.iter().for_each(|avp| writer.raw(*avp));
    // An AVP with V flag and Vendor-Id 0 becomes four octets shorter.
    let length = writer.finish().expect("not longer than the original");
    assert!(length <= message.header.length && out.len() == 6 + length);
    let again = Message::parse(&out[6..]).expect("a whole message");
    assert_eq!((again.header.command, again.header.application), (message.header.command, message.header.application));
    assert_eq!(
        (again.header.hop_by_hop, again.header.end_to_end),
        (message.header.hop_by_hop, message.header.end_to_end)
    );
    let read: Vec<_> = again.avps().map(|avp| avp.expect("well formed")).collect();
    assert_eq!(read.len(), avps.len());
    for (read, written) in read.iter().zip(&avps) {
        assert_eq!((read.code, read.vendor, read.data), (written.code, written.vendor, written.data));
        assert_eq!(read.is_mandatory(), written.is_mandatory());
    }
}

/// A message with the R, P and E flags of this one.
fn begin<'b>(out: &'b mut Vec<u8>, header: &Header) -> Writer<'b> {
    let Header { command, flags, application, hop_by_hop, end_to_end, .. } = *header;
    match (header.is_request(), header.is_error()) {
        (true, _) => Writer::request(out, command, flags, application, hop_by_hop, end_to_end),
        (false, true) => Writer::error_answer(out, header),
        (false, false) => Writer::answer(out, header),
    }
}

/// Decodes the message as this command, and returns the fault if that fails. A decoded message survives encoding, and
/// its second encoding is the same. `$body` unwraps the decoded message.
macro_rules! read_as {
    ($kind:ident, $message:expr, $body:expr, $most:expr) => {{
        let message: &Message<'_> = $message;
        match $kind::decode(message).map($body) {
            Err(fault) => Some(fault),
            Ok(body) => {
                let most: fn(&$kind<'_>) -> usize = $most;
                assert!(most(&body) <= MANY_MAX, "the number is limited");
                if let Some(bytes) = written(&message.header, |out| body.write(out)) {
                    let again = Message::parse(&bytes).expect("a whole message");
                    let read = $kind::decode(&again).map($body).expect("an encoded message can be decoded");
                    // A malformed AVP in Failed-AVP becomes well formed.
                    assert!(message.find(dictionary::FAILED_AVP).is_some() || read == body, "decoded again");
                    assert_eq!(written(&message.header, |out| read.write(out)).as_ref(), Some(&bytes));
                }
                None
            }
        }
    }};
}

/// The faults of a message decoded as each command.
fn faults<'a>(message: &Message<'a>) -> [Option<Fault<'a>>; 10] {
    [
        read_as!(CreditControlRequest, message, |read| read, |read| read
            .services
            .len()
            .max(read.subscription_id.len())),
        read_as!(CapabilitiesExchangeRequest, message, |read| read, |read| read.host_ip_address.len()),
        read_as!(DeviceWatchdogRequest, message, |read| read, |_| 0),
        read_as!(DisconnectPeerRequest, message, |read| read, |_| 0),
        read_as!(ReAuthRequest, message, |read| read, |_| 0),
        read_as!(AbortSessionRequest, message, |read| read, |_| 0),
        read_as!(CreditControlAnswer, message, |read| read.body, |read| read.services.len().max(read.failed_avp.len())),
        read_as!(CapabilitiesExchangeAnswer, message, |read| read.body, |read| read.host_ip_address.len()),
        read_as!(Answer, message, |read| read.body, |read| read.failed_avp.len()),
        read_as!(PeerAnswer, message, |read| read.body, |read| read.failed_avp.len()),
    ]
}

/// Encodes a message with this header; `None`: it would be too long.
fn written(header: &Header, fill: impl FnOnce(&mut Writer<'_>)) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = begin(&mut out, header);
    fill(&mut writer);
    let length = writer.finish().ok()?;
    assert!(length == out.len() && length <= MAX_MESSAGE);
    Some(out)
}

/// Checks the answer to a fault: a whole message with the identifiers of the request that reports the fault.
fn assert_refused(message: &Message<'_>, fault: &Fault<'_>, bytes: &[u8]) {
    assert!(!fault.to_string().is_empty() && fault.result.name().is_some());
    if let Some(Failed::Offending(avp)) = fault.failed {
        assert!(lies_in(avp.data, bytes));
    }
    let session = message.find(dictionary::SESSION_ID).and_then(|avp| avp.text().ok());
    let mut out = b"before".to_vec();
    let Ok(length) = refuse(&mut out, &message.header, session, ("host.example", "example"), fault) else {
        return assert_eq!(out, b"before", "an answer that is too long is removed");
    };
    assert!(length <= MAX_MESSAGE && out.len() == 6 + length);
    let answer = Message::parse(&out[6..]).expect("a whole answer");
    assert!(!answer.header.is_request() && answer.header.is_error());
    assert_eq!(
        (answer.header.hop_by_hop, answer.header.end_to_end),
        (message.header.hop_by_hop, message.header.end_to_end)
    );
    let body = Answer::decode(&answer).expect("a readable refusal").body;
    assert_eq!(body.outcome(), Some(Outcome::Result(fault.result)));
    assert_eq!(body.session_id, session);
    assert_eq!(body.failed_avp.len(), usize::from(fault.failed.is_some()));
}
