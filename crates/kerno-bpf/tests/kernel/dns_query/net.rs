//! A DNS server of the tests' own, queries, and the many ways to send them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::thread;
use std::time::Duration;

pub(crate) const A: u16 = 1;
pub(crate) const AAAA: u16 = 28;

/// A query as it is sent, without a length before it.
pub(crate) fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    packet.extend(id.to_be_bytes());
    // Recursion desired; one question, and EDNS behind it as most resolvers have it.
    packet.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(qtype.to_be_bytes());
    packet.extend(1u16.to_be_bytes());
    packet.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    packet
}

/// What a name is answered with: response code, and how many records; `None` for no answer.
pub(crate) fn answer_to(name: &str) -> Option<(u8, u16)> {
    match name.split('.').next().unwrap() {
        "mute" => None,
        "failing" => Some((2, 0)),
        "missing" => Some((3, 0)),
        "refused" => Some((5, 0)),
        "empty" => Some((0, 0)),
        _ => Some((0, 2)),
    }
}

fn answer(packet: &[u8]) -> Option<Vec<u8>> {
    let mut at = 12;
    let mut labels = Vec::new();
    // Whatever is no query is dropped.
    if packet.len() < 17 || packet[2] & 0xf8 != 0 || packet[5] != 1 {
        return None;
    }
    loop {
        let length = usize::from(*packet.get(at)?);
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(packet.get(at + 1..=at + length)?).into_owned());
        at += length + 1;
    }
    packet.get(at + 4)?;
    let (rcode, records) = answer_to(&labels.join(".").to_lowercase())?;
    if labels[0] == "slow" {
        thread::sleep(Duration::from_millis(30));
    }
    let mut answer = packet[..at + 5].to_vec();
    answer[2] = 0x81;
    answer[3] = 0x80 | rcode;
    answer[6..12].copy_from_slice(&[0, records.to_be_bytes()[1], 0, 0, 0, 0]);
    for _ in 0..records {
        // The name by a pointer, A, IN, a time to live, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
    }
    Some(answer)
}

/// Answers queries at this address for as long as the process lives.
pub(crate) fn serve(address: IpAddr) {
    let udp = UdpSocket::bind((address, 53)).unwrap();
    let tcp = TcpListener::bind((address, 53)).unwrap();
    thread::spawn(move || {
        let mut packet = [0; 4096];
        while let Ok((bytes, from)) = udp.recv_from(&mut packet) {
            if let Some(answer) = answer(&packet[..bytes]) {
                let _ = udp.send_to(&answer, from);
            }
        }
    });
    thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            thread::spawn(move || {
                let mut length = [0; 2];
                while stream.read_exact(&mut length).is_ok() {
                    let mut packet = vec![0; usize::from(u16::from_be_bytes(length))];
                    stream.read_exact(&mut packet).unwrap();
                    if let Some(answer) = answer(&packet) {
                        stream.write_all(&with_length(&answer)).unwrap();
                    }
                }
            });
        }
    });
}

pub(crate) fn with_length(packet: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(packet.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(packet);
    bytes
}

/// How a query is sent and its answer received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// `sendto` and `recvfrom`, connected.
    Send,
    /// `sendto` and `recvfrom` with an address.
    SendTo,
    /// `sendto` with an address, `recvfrom` without.
    SendToBlind,
    /// `sendmsg` and `recvmsg`, connected.
    SendMsg,
    /// The same with an address.
    SendMsgTo,
    /// `sendmmsg` and `recvmmsg`, connected.
    SendMmsg,
    /// `write` and `read`.
    Write,
    /// `writev` and `readv`.
    WriteV,
    /// Over TCP, the length with the message.
    Tcp,
    /// Over TCP, the length by itself when received, and in a buffer of its own when sent.
    TcpInPieces,
}

pub(crate) const WAYS: [Way; 10] = [
    Way::Send,
    Way::SendTo,
    Way::SendToBlind,
    Way::SendMsg,
    Way::SendMsgTo,
    Way::SendMmsg,
    Way::Write,
    Way::WriteV,
    Way::Tcp,
    Way::TcpInPieces,
];

/// An unconnected socket of the family of this address.
pub(crate) fn unconnected(server: SocketAddr) -> UdpSocket {
    UdpSocket::bind(if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap()
}

pub(crate) fn connected(server: SocketAddr) -> UdpSocket {
    let socket = unconnected(server);
    socket.connect(server).unwrap();
    socket
}

fn address(server: SocketAddr) -> (libc::sockaddr_in6, u32) {
    // SAFETY: all zeroes is a valid address.
    let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
    match server {
        SocketAddr::V4(v4) => {
            // SAFETY: a sockaddr_in6 has room for a sockaddr_in.
            let of_v4 = unsafe { &mut *(&raw mut address).cast::<libc::sockaddr_in>() };
            of_v4.sin_family = 2;
            of_v4.sin_port = v4.port().to_be();
            of_v4.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
            (address, 16)
        }
        SocketAddr::V6(v6) => {
            address.sin6_family = 10;
            address.sin6_port = v6.port().to_be();
            address.sin6_addr.s6_addr = v6.ip().octets();
            (address, 28)
        }
    }
}

fn iovec(buffer: &mut [u8]) -> libc::iovec {
    libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() }
}

/// Sends or receives a message with one buffer, and with a name if there is one.
fn message(fd: RawFd, buffer: &mut [u8], name: Option<SocketAddr>, sends: bool, many: bool) {
    let (mut name, length) = name.map_or((address("[::]:0".parse().unwrap()).0, 0), address);
    let mut iov = iovec(buffer);
    // SAFETY: all zeroes is a valid header; what it points at lives until the calls have returned.
    let result = unsafe {
        let mut header: libc::mmsghdr = std::mem::zeroed();
        header.msg_hdr.msg_iov = &raw mut iov;
        header.msg_hdr.msg_iovlen = 1;
        if length > 0 {
            header.msg_hdr.msg_name = (&raw mut name).cast();
            header.msg_hdr.msg_namelen = length;
        }
        match (sends, many) {
            (true, false) => libc::sendmsg(fd, &raw const header.msg_hdr, 0),
            (false, false) => libc::recvmsg(fd, &raw mut header.msg_hdr, 0),
            (true, true) => libc::sendmmsg(fd, &raw mut header, 1, 0) as isize,
            (false, true) => libc::recvmmsg(fd, &raw mut header, 1, 0, std::ptr::null_mut()) as isize,
        }
    };
    assert!(result > 0, "{}", std::io::Error::last_os_error());
}

fn vectored(fd: RawFd, buffers: &mut [libc::iovec], sends: bool) {
    let count = i32::try_from(buffers.len()).unwrap();
    // SAFETY: the buffers live until the calls have returned.
    let result = unsafe {
        if sends { libc::writev(fd, buffers.as_ptr(), count) } else { libc::readv(fd, buffers.as_ptr(), count) }
    };
    assert!(result > 0, "{}", std::io::Error::last_os_error());
}

/// Asks and takes the answer.
pub(crate) fn ask(server: SocketAddr, way: Way, packet: &[u8]) {
    let (mut packet, mut answer) = (packet.to_vec(), [0; 512]);
    match way {
        Way::Send => {
            let socket = connected(server);
            socket.send(&packet).unwrap();
            socket.recv(&mut answer).unwrap();
        }
        Way::SendTo => {
            let socket = unconnected(server);
            socket.send_to(&packet, server).unwrap();
            socket.recv_from(&mut answer).unwrap();
        }
        Way::SendToBlind => {
            let socket = unconnected(server);
            socket.send_to(&packet, server).unwrap();
            socket.recv(&mut answer).unwrap();
        }
        Way::SendMsg | Way::SendMmsg => {
            let socket = connected(server);
            message(socket.as_raw_fd(), &mut packet, None, true, way == Way::SendMmsg);
            message(socket.as_raw_fd(), &mut answer, None, false, way == Way::SendMmsg);
        }
        Way::SendMsgTo => {
            let socket = unconnected(server);
            message(socket.as_raw_fd(), &mut packet, Some(server), true, false);
            message(socket.as_raw_fd(), &mut answer, Some(server), false, false);
        }
        Way::Write => {
            let socket = connected(server);
            rustix::io::write(&socket, &packet).unwrap();
            rustix::io::read(&socket, &mut answer).unwrap();
        }
        Way::WriteV => {
            let socket = connected(server);
            vectored(socket.as_raw_fd(), &mut [iovec(&mut packet)], true);
            vectored(socket.as_raw_fd(), &mut [iovec(&mut answer)], false);
        }
        Way::Tcp => {
            let mut stream = TcpStream::connect(server).unwrap();
            stream.write_all(&with_length(&packet)).unwrap();
            assert!(stream.read(&mut answer).unwrap() > 2);
        }
        Way::TcpInPieces => {
            let mut stream = TcpStream::connect(server).unwrap();
            let mut length = u16::try_from(packet.len()).unwrap().to_be_bytes();
            vectored(stream.as_raw_fd(), &mut [iovec(&mut length), iovec(&mut packet)], true);
            stream.read_exact(&mut length).unwrap();
            stream.read_exact(&mut answer[..usize::from(u16::from_be_bytes(length))]).unwrap();
        }
    }
}
