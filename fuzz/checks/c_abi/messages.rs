//! Well-formed SIP and MSRP messages of one session.

use std::sync::atomic::{AtomicU32, Ordering};

/// The parties of one session. Each input has its own.
pub struct Party {
    pub call_id: String,
    pub account: String,
    number: u32,
}

const MEDIA: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
    m=message 2855 TCP/MSRP *\r\na=accept-types:text/plain\r\na=path:";

impl Party {
    /// Returns new parties.
    pub fn next() -> Party {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Party { call_id: format!("call{number}"), account: format!("sip:user{number}@example.org"), number }
    }

    fn server(&self) -> String {
        format!("msrp://store.example.net:2855/server{};tcp", self.number)
    }

    fn client(&self) -> String {
        format!("msrp://client.example.com:7394/client{};tcp", self.number)
    }

    fn sip(&self, first: &str, to_tag: &str, cseq: &str, path: &str) -> Vec<u8> {
        let body = if path.is_empty() { String::new() } else { format!("{MEDIA}{path}\r\n") };
        format!(
            "{first}\r\nVia: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK{}\r\nFrom: <{}>;tag=inviting\r\n\
             To: <sip:store@example.net>{to_tag}\r\nCall-ID: {}\r\nCSeq: {cseq}\r\nP-Asserted-Identity: <{}>\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.number,
            self.account,
            self.call_id,
            self.account,
            body.len(),
        )
        .into_bytes()
    }

    pub fn invite(&self) -> Vec<u8> {
        self.sip("INVITE sip:store@example.net SIP/2.0", "", "7 INVITE", &self.client())
    }

    pub fn message(&self) -> Vec<u8> {
        self.sip("MESSAGE sip:bob@example.net SIP/2.0", "", "9 MESSAGE", "")
    }

    pub fn reply(&self, code: u16) -> Vec<u8> {
        self.sip(&format!("SIP/2.0 {code} Said"), ";tag=answering", "7 INVITE", &self.server())
    }

    pub fn cancel(&self) -> Vec<u8> {
        self.sip("CANCEL sip:store@example.net SIP/2.0", "", "7 CANCEL", "")
    }

    pub fn bye(&self) -> Vec<u8> {
        self.sip("BYE sip:store@example.net SIP/2.0", ";tag=answering", "8 BYE", "")
    }

    /// A chunk of one of a few messages, its response or its REPORT.
    pub fn frame(&self, kind: u8, message: u8) -> Vec<u8> {
        let (server, client, message) = (self.server(), self.client(), message % 4);
        let content = "Content-Type: text/plain\r\n\r\nHello\r\n";
        let (start, to, from, rest) = match kind % 8 {
            0 | 1 => ("SEND", client, server, format!("Message-ID: mess{message}\r\nByte-Range: 1-5/5\r\n{content}")),
            2 => ("SEND", client, server, format!("Message-ID: mess{message}\r\nByte-Range: 1-*/*\r\n{content}")),
            3 => ("200 OK", server, client, String::new()),
            4 => ("413 Stop", server, client, String::new()),
            5 => {
                let lines = format!("Message-ID: mess{message}\r\nByte-Range: 1-5/5\r\nStatus: 000 200 OK\r\n");
                ("REPORT", server, client, lines)
            }
            6 => ("SEND", client, server, "Message-ID: bind\r\nByte-Range: 1-0/0\r\n".to_owned()),
            _ => ("SEND", client, server, content.to_owned()),
        };
        let flag = ["$", "+", "#"][usize::from(kind / 8) % 3];
        format!(
            "MSRP tran{message} {start}\r\nTo-Path: {to}\r\nFrom-Path: {from}\r\n{rest}-------tran{message}{flag}\r\n"
        )
        .into_bytes()
    }
}
