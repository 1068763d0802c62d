//! Requests to the kernel's network configuration over netlink: the machine has neither ip nor tc.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// An attribute with its value.
pub fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// 32-bit numbers one after another.
pub fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

/// The number of an interface of the calling thread's network namespace.
pub fn index_of(interface: &str) -> u32 {
    let name = std::ffi::CString::new(interface).unwrap();
    // SAFETY: a string that ends with NUL.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert!(index > 0, "no interface {interface}");
    index
}

/// Has the kernel do it, in the calling thread's network namespace.
pub fn request(kind: u16, more_flags: i32, body: &[u8]) {
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | more_flags;
    let mut message = words(&[u32::try_from(16 + body.len()).unwrap()]);
    message.extend(kind.to_ne_bytes());
    message.extend(u16::try_from(flags).unwrap().to_ne_bytes());
    message.extend(words(&[1, 0]));
    message.extend(body);
    let error = answer(&message);
    assert_eq!(error, 0, "netlink request {kind}: {}", io::Error::from_raw_os_error(-error));
}

/// The error in the kernel's acknowledgement, negative, or 0.
fn answer(message: &[u8]) -> i32 {
    let mut reply = [0u8; 4096];
    // SAFETY: the descriptor is new and ours; the buffers live as long as the calls.
    let received = unsafe {
        let fd = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE);
        assert!(fd >= 0, "netlink: {}", io::Error::last_os_error());
        let socket = OwnedFd::from_raw_fd(fd);
        let sent = libc::send(socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0);
        assert_eq!(usize::try_from(sent), Ok(message.len()), "netlink: {}", io::Error::last_os_error());
        libc::recv(socket.as_raw_fd(), reply.as_mut_ptr().cast(), reply.len(), 0)
    };
    assert!(received >= 20, "netlink: {}", io::Error::last_os_error());
    i32::from_ne_bytes(reply[16..20].try_into().unwrap())
}
