//! As much MSRP (RFC 4975) over TCP as an IM client and an IM server need.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A frame that came in.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Transaction id.
    pub id: String,
    /// Method, or status and comment.
    pub what: String,
    /// Headers.
    pub headers: Vec<(String, String)>,
    /// Body; `None`: no Content-Type.
    pub body: Option<Vec<u8>>,
    /// Flag of the end-line.
    pub flag: char,
}

impl Frame {
    /// Status of a response; 0 for a request.
    pub fn status(&self) -> u16 {
        self.what.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// A header's value, or nothing.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// Whether it is a SEND with content.
    pub fn is_content(&self) -> bool {
        self.what == "SEND" && self.body.is_some()
    }

    /// First octet and octets of the whole message, as far as Byte-Range says (RFC 4975, 9).
    pub fn byte_range(&self) -> (usize, Option<usize>) {
        let (range, total) = self.header("Byte-Range").split_once('/').unwrap_or_default();
        let start = range.split('-').next().and_then(|start| start.parse().ok()).unwrap_or(1);
        (start, total.parse().ok())
    }

    /// Cuts the first whole frame off the buffer.
    fn take(buffer: &mut Vec<u8>) -> Option<Frame> {
        let head_end = find(buffer, b"\r\n")?;
        let start = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
        let mut words = start.splitn(3, ' ');
        let (_, id, what) = (words.next()?, words.next()?.to_owned(), words.next()?.to_owned());
        let end_line = format!("-------{id}");
        let mut from = head_end;
        let (end, flag) = loop {
            let at = from + find(&buffer[from..], end_line.as_bytes())?;
            let tail = buffer.get(at + end_line.len()..at + end_line.len() + 3)?;
            if b"$+#".contains(&tail[0]) && &tail[1..] == b"\r\n" && buffer[..at].ends_with(b"\r\n") {
                break (at, tail[0] as char);
            }
            from = at + 1;
        };
        let inner = buffer[head_end + 2..end].to_vec();
        buffer.drain(..end + end_line.len() + 3);
        // Headers alone end with the CRLF before the end-line.
        let (head, body) = match find(&inner, b"\r\n\r\n") {
            Some(at) => (&inner[..at], inner.get(at + 4..inner.len().saturating_sub(2))),
            None => (&inner[..], None),
        };
        let head = String::from_utf8_lossy(head).into_owned();
        let headers = head.split("\r\n").filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        });
        Some(Frame { id, what, headers: headers.collect(), body: body.map(<[u8]>::to_vec), flag })
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// What a peer may send without the end of a frame; a relay passes 14 KB at most.
const LONGEST_FRAME: usize = 1 << 20;

/// One direction of a TCP connection each: the reader is one thread's, the writer everyone's.
pub struct Reader {
    stream: Arc<TcpStream>,
    buffer: Vec<u8>,
}

/// Writes whole frames.
#[derive(Clone)]
pub struct Writer(Arc<Mutex<Arc<TcpStream>>>);

/// Both ends of a connection.
pub fn connection(stream: TcpStream) -> io::Result<(Reader, Writer)> {
    stream.set_nodelay(true)?;
    // One descriptor for both directions: thousands of parties live in one process.
    let stream = Arc::new(stream);
    let writer = Writer(Arc::new(Mutex::new(Arc::clone(&stream))));
    Ok((Reader { stream, buffer: Vec::new() }, writer))
}

impl Reader {
    /// Address of this end.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Another reader of the same connection; what this one has begun to read stays with it.
    pub fn beside(&self) -> io::Result<Reader> {
        Ok(Reader { stream: Arc::clone(&self.stream), buffer: Vec::new() })
    }

    /// The next frame within the time. `Ok(None)`: none yet. An error: the connection is gone.
    pub fn next(&mut self, within: Duration) -> io::Result<Option<Frame>> {
        self.stream.set_read_timeout(Some(within.max(Duration::from_millis(1))))?;
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer) {
                return Ok(Some(frame));
            }
            if self.buffer.len() > LONGEST_FRAME {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut piece = [0; 16_384];
            match (&*self.stream).read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.buffer.extend(&piece[..length]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Writer {
    /// Writes bytes as they are.
    pub fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.0.lock().expect("no holder panics");
        (&**stream).write_all(bytes)
    }

    /// Drops the connection without a word.
    pub fn drop_connection(&self) {
        let _ = self.0.lock().expect("no holder panics").shutdown(std::net::Shutdown::Both);
    }

    /// A request with these header lines (each with its CRLF).
    pub fn request(&self, id: &str, method: &str, lines: &str, body: Option<&[u8]>, flag: char) -> io::Result<()> {
        let mut bytes = format!("MSRP {id} {method}\r\n{lines}").into_bytes();
        if let Some(body) = body {
            bytes.extend(b"Content-Type: message/cpim\r\n\r\n");
            bytes.extend(body);
            bytes.extend(b"\r\n");
        }
        bytes.extend(format!("-------{id}{flag}\r\n").bytes());
        self.raw(&bytes)
    }

    /// Answers a request, to the hop before (RFC 4975, 7.2), or with `whole` along the whole path, as some do.
    pub fn answer(&self, to: &Frame, code: u16, own: &str, whole: bool) -> io::Result<()> {
        let path = to.header("From-Path");
        let path = if whole { path } else { path.split(' ').next().unwrap_or_default() };
        let id = &to.id;
        self.raw(format!("MSRP {id} {code} -\r\nTo-Path: {path}\r\nFrom-Path: {own}\r\n-------{id}$\r\n").as_bytes())
    }
}
