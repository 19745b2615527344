//! Diameter messages (RFC 6733, RFC 8506): nothing is read beyond a length, what is read is written and read again the
//! same, and whatever is wrong has an answer that says so and can itself be read.

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

/// How deep groups are followed here: deeper than any type of the grammar goes.
const DEPTH: usize = 8;

/// Cuts the stream into messages, and reads each as everything there is.
pub fn check(bytes: &[u8]) {
    let mut rest = bytes;
    loop {
        assert_framed_alike(rest);
        let Framed::Message(length) = frame(rest) else { break };
        let (one, behind) = rest.split_at(length);
        rest = behind;
        read(one);
    }
    assert!(Message::parse(rest).is_none(), "no message, by the frame");
}

/// The length is where RFC 6733, 3 puts it; a stream that is short says how much is missing, and not too much.
fn assert_framed_alike(bytes: &[u8]) {
    let told = bytes.get(1..4).map(|length| length.iter().fold(0, |sum, octet| sum << 8 | usize::from(*octet)));
    match frame(bytes) {
        Framed::Message(length) => {
            assert_eq!(told, Some(length));
            assert!(bytes[0] == 1 && length <= bytes.len() && length.is_multiple_of(4));
            assert!((HEADER_LENGTH..=MAX_MESSAGE).contains(&length));
            for cut in [0, 1, 4, length / 2, length - 1] {
                assert!(matches!(frame(&bytes[..cut]), Framed::Need(more) if (1..=length.max(20)).contains(&more)));
            }
        }
        Framed::Need(more) => assert!(more > 0 && told.is_none_or(|told| bytes.len() + more == told)),
        Framed::FramingError(broken) => assert!(!broken.to_string().is_empty() && broken.result().word().is_some()),
    }
}

/// One whole message.
fn read(bytes: &[u8]) {
    let message = Message::parse(bytes).expect("a message, by the frame");
    assert_eq!(message.header.length, bytes.len());
    assert_eq!(message.header.is_request(), bytes[4] & 0x80 != 0);
    walk(message.avps(), &bytes[HEADER_LENGTH..], DEPTH);
    assert_written_again(&message);
    for fault in faults(&message).into_iter().flatten() {
        assert_refused(&message, &fault, bytes);
    }
}

/// Every AVP and every group: within the bytes, and the octets of all of them are the octets that there are.
fn walk(avps: Avps<'_>, bytes: &[u8], depth: usize) {
    let (mut octets, mut count) = (0, 0);
    for avp in avps {
        count += 1;
        assert!(count <= AVPS_MAX + 1, "more AVPs than are taken");
        let Ok(avp) = avp else { return };
        assert!(lies_in(avp.data, bytes));
        let header = if avp.flags & 0x80 == 0 { 8 } else { 12 };
        octets += (header + avp.data.len()).next_multiple_of(4);
        assert!(octets <= bytes.len(), "an AVP beyond its group");
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

/// The AVPs as they came, written by hand and read again, are the AVPs.
fn assert_written_again(message: &Message<'_>) {
    let Ok(avps) = message.avps().collect::<Result<Vec<_>, _>>() else { return };
    let mut out = b"before".to_vec();
    let mut writer = begin(&mut out, &message.header);
    avps.iter().for_each(|avp| writer.raw(*avp));
    // A vendor's AVP with Vendor-Id 0 loses its four octets; nothing ever grows.
    let length = writer.finish().expect("no longer than what was read");
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

/// Reads the message as one of this kind. What can be read, written and read again is the same, and writing it once more
/// changes no octet; else the fault. `$body` takes what was read out of its wrapping.
macro_rules! read_as {
    ($kind:ident, $message:expr, $body:expr, $most:expr) => {{
        let message: &Message<'_> = $message;
        match $kind::decode(message).map($body) {
            Err(fault) => Some(fault),
            Ok(body) => {
                let most: fn(&$kind<'_>) -> usize = $most;
                assert!(most(&body) <= MANY_MAX, "more than are taken");
                if let Some(bytes) = written(&message.header, |out| body.write(out)) {
                    let again = Message::parse(&bytes).expect("a whole message");
                    let read = $kind::decode(&again).map($body).expect("what is written can be read");
                    // A malformed AVP in a Failed-AVP comes out in good form.
                    assert!(message.find(dictionary::FAILED_AVP).is_some() || read == body, "read again");
                    assert_eq!(written(&message.header, |out| read.write(out)).as_ref(), Some(&bytes));
                }
                None
            }
        }
    }};
}

/// The faults of a message, as each kind of message.
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

/// A message of this header and content; `None`: it would be too long.
fn written(header: &Header, fill: impl FnOnce(&mut Writer<'_>)) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut writer = begin(&mut out, header);
    fill(&mut writer);
    let length = writer.finish().ok()?;
    assert!(length == out.len() && length <= MAX_MESSAGE);
    Some(out)
}

/// The refusal of a fault: a whole message that names the fault, within its bound, and mirrors the request.
fn assert_refused(message: &Message<'_>, fault: &Fault<'_>, bytes: &[u8]) {
    assert!(!fault.to_string().is_empty() && fault.result.word().is_some());
    if let Some(Failed::Offending(avp)) = fault.failed {
        assert!(lies_in(avp.data, bytes));
    }
    let session = message.find(dictionary::SESSION_ID).and_then(|avp| avp.text().ok());
    let mut out = b"before".to_vec();
    let Ok(length) = refuse(&mut out, &message.header, session, ("host.example", "example"), fault) else {
        return assert_eq!(out, b"before", "an answer that is too long leaves nothing behind");
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
