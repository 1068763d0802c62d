//! Syslog, RFC 5424: over a Unix socket, UDP, or TCP with octet counting (RFC 6587).

use std::io::{self, Write as _};
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use kerno_doctor::report::{NoticeEvent, rfc3339};
use kerno_model::Severity;

use super::deliver::{Deliver, Failure, Receipt};
use super::outbox::Message;
use super::settings::{SyslogAddress, resolve};
use super::text::fitted_bytes;

/// What every receiver should take over UDP (RFC 5424, 6.1), and what the usual ones take otherwise, in bytes.
const MAX_UDP: usize = 2048;
const MAX_BYTES: usize = 8192;

#[derive(Debug)]
pub(super) struct Syslog {
    pub(super) address: SyslogAddress,
    pub(super) facility: u8,
    pub(super) timeout: Duration,
}

impl Deliver for Syslog {
    fn send(&mut self, messages: &[Message], now_unix_ns: u64) -> Result<Receipt, Failure> {
        let most = if matches!(self.address, SyslogAddress::Udp(_)) { MAX_UDP } else { MAX_BYTES };
        for message in messages {
            let line = line(message, self.facility, now_unix_ns, most);
            self.write(&line).map_err(|error| Failure::later(error.to_string()))?;
        }
        Ok(Receipt { answer: format!("{} took it; syslog answers nothing", self.address), handle: None })
    }
}

impl Syslog {
    fn write(&self, line: &[u8]) -> io::Result<()> {
        match &self.address {
            SyslogAddress::Unix(path) => to_unix(path, line, self.timeout),
            SyslogAddress::Udp(host) => {
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                for address in resolve(host)? {
                    let local: std::net::IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
                    let sent = UdpSocket::bind((local, 0)).and_then(|socket| {
                        socket.connect(address)?;
                        socket.send(line)
                    });
                    match sent {
                        Ok(_) => return Ok(()),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
            SyslogAddress::Tcp(host) => {
                let mut last = io::Error::from(io::ErrorKind::NotFound);
                for address in resolve(host)? {
                    match TcpStream::connect_timeout(&address, self.timeout) {
                        Ok(stream) => return to_tcp(stream, line, self.timeout),
                        Err(error) => last = error,
                    }
                }
                Err(last)
            }
        }
    }
}

fn to_tcp(mut stream: TcpStream, line: &[u8], timeout: Duration) -> io::Result<()> {
    stream.set_write_timeout(Some(timeout))?;
    stream.write_all(&framed(line))?;
    stream.flush()?;
    // A receiver that does not take it resets the connection. One that does says nothing.
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(timeout.min(Duration::from_millis(200))))?;
    match io::Read::read(&mut stream, &mut [0]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(error),
        _ => Ok(()),
    }
}

fn to_unix(path: &Path, line: &[u8], timeout: Duration) -> io::Result<()> {
    let datagram = UnixDatagram::unbound()?;
    datagram.set_write_timeout(Some(timeout))?;
    match datagram.connect(path) {
        Ok(()) => datagram.send(line).map(drop),
        // EPROTOTYPE: it is a stream.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PROTOTYPE.raw_os_error()) => {
            let mut stream = UnixStream::connect(path)?;
            stream.set_write_timeout(Some(timeout))?;
            stream.write_all(&framed(line))
        }
        Err(error) => Err(error),
    }
}

/// With its length before it, so that it may have any characters.
fn framed(line: &[u8]) -> Vec<u8> {
    let mut framed = format!("{} ", line.len()).into_bytes();
    framed.extend(line);
    framed
}

fn line(message: &Message, facility: u8, now_unix_ns: u64, most: usize) -> Vec<u8> {
    let Message { event, notice, .. } = message;
    let severity = match (event, notice.severity) {
        (NoticeEvent::Resolved, _) => 5,
        (_, Severity::Critical) => 2,
        (_, Severity::Warning) => 4,
        _ => 6,
    };
    let host = header(&notice.host, 255);
    let mut head = format!(
        "<{}>1 {} {host} kerno {} {}",
        u32::from(facility) * 8 + severity,
        rfc3339(now_unix_ns),
        std::process::id(),
        header(event.name(), 32)
    );
    // 32473 is the number for examples (RFC 5612): kerno has none of its own.
    head += " [kerno@32473";
    let unit = notice.unit.as_deref().unwrap_or_default();
    for (name, value) in [
        ("incident", notice.id.as_str()),
        ("rule", &notice.rule),
        ("severity", notice.severity.name()),
        ("unit", unit),
        ("test", if notice.test { "true" } else { "" }),
    ] {
        if !value.is_empty() {
            head += &format!(" {name}=\"{}\"", escaped(&fitted_bytes(value, 300)));
        }
    }
    // The mark says that UTF-8 follows.
    head += "] \u{feff}";
    let mut text = vec![notice.headline(*event)];
    text.extend(notice.parts(*event).iter().map(|part| format!("{}: {}", part.heading, part.lines.join("; "))));
    let text = fitted_bytes(&text.join(" | "), most.saturating_sub(head.len()));
    (head + &text).into_bytes()
}

/// A part of the header: printable ASCII without spaces.
fn header(text: &str, most: usize) -> String {
    let text: String = text.chars().filter(char::is_ascii_graphic).take(most).collect();
    if text.is_empty() { "-".to_owned() } else { text }
}

/// A value of structured data.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace(']', "\\]")
}

/// The facilities by their names.
pub(super) const FACILITIES: [&str; 24] = [
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp",
    "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];

#[cfg(test)]
mod tests {
    use super::super::testing::{long, message, resolved};
    use super::*;

    #[test]
    fn lines_are_as_the_rfc_says_and_fit() {
        let now = 1_780_000_000_000_000_000;
        let opened = String::from_utf8(line(&message(NoticeEvent::Opened), 3, now, MAX_BYTES)).unwrap();
        assert!(opened.starts_with("<28>1 2026-05-28T20:26:40Z web-1 kerno "), "{opened}");
        assert!(
            opened.contains(" opened [kerno@32473 incident=\"0123456789abcdef-1780000000\" rule=\"fd_leak\""),
            "{opened}"
        );
        assert!(opened.contains("] \u{feff}WARNING on web-1: "), "{opened}");
        assert!(!opened.contains('\n'));
        let over = String::from_utf8(line(&resolved(), 16, now, MAX_BYTES)).unwrap();
        assert!(over.starts_with("<133>1 "), "{over}");
        for most in [MAX_UDP, MAX_BYTES] {
            let line = line(&long(), 23, now, most);
            assert!(line.len() <= most && String::from_utf8_lossy(&line).ends_with("(cut)"), "{}", line.len());
        }
        assert_eq!(escaped("a\"b]c\\d"), "a\\\"b\\]c\\\\d");
        assert_eq!((header("a b\u{e9}", 9).as_str(), header("\u{e9}", 9).as_str()), ("ab", "-"));
        assert_eq!(framed(b"abc"), b"3 abc");
    }

    #[test]
    fn it_writes_to_both_kinds_of_unix_sockets() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let sink = |path: &Path| Syslog {
            address: SyslogAddress::Unix(path.to_owned()),
            facility: 3,
            timeout: Duration::from_secs(2),
        };
        assert!(matches!(sink(&path).send(&[resolved()], 1), Err(Failure::Later { .. })), "nobody listens yet");
        let socket = UnixDatagram::bind(&path).unwrap();
        assert!(sink(&path).send(&[resolved()], 1).is_ok());
        let mut buffer = vec![0; 9000];
        let read = socket.recv(&mut buffer).unwrap();
        assert!(buffer[..read].starts_with(b"<29>1 "));
        let stream = directory.path().join("stream");
        let listener = std::os::unix::net::UnixListener::bind(&stream).unwrap();
        assert!(sink(&stream).send(&[resolved()], 1).is_ok());
        let mut text = String::new();
        io::Read::read_to_string(&mut listener.accept().unwrap().0, &mut text).unwrap();
        let (length, line) = text.split_once(' ').unwrap();
        assert_eq!(length.parse(), Ok(line.len()));
    }
}
