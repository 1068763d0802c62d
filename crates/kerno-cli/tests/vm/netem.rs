//! netem, asked for over netlink: the machine has no tc.

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

/// What a network does to its packets, in each direction.
#[derive(Clone, Copy, Debug, Default)]
pub struct Netem {
    pub delay_ms: u32,
    pub loss_percent: u32,
    /// So many go at once, before those that are delayed.
    pub reorder_percent: u32,
}

// linux/rtnetlink.h, linux/pkt_sched.h
const RTM_NEWQDISC: u16 = 36;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = u32::MAX;
const TCA_NETEM_REORDER: u16 = 3;
const TCA_NETEM_LATENCY64: u16 = 10;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap();
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn probability(percent: u32) -> u32 {
    u32::MAX / 100 * percent
}

impl Netem {
    /// Makes an interface of the calling thread's network namespace so.
    pub fn apply(self, interface: &str) {
        let name = std::ffi::CString::new(interface).unwrap();
        // SAFETY: a string that ends with NUL.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        assert!(index > 0, "no interface {interface}");
        // struct tc_netem_qopt: latency, limit, loss, gap, duplicate, jitter
        let gap = u32::from(self.reorder_percent > 0);
        let mut netem = words(&[0, 10_000, probability(self.loss_percent), gap, 0, 0]);
        netem.extend(attribute(TCA_NETEM_LATENCY64, &(u64::from(self.delay_ms) * 1_000_000).to_ne_bytes()));
        if self.reorder_percent > 0 {
            netem.extend(attribute(TCA_NETEM_REORDER, &words(&[probability(self.reorder_percent), 0])));
        }
        // struct tcmsg: family and padding, ifindex, handle, parent, info
        let mut body = words(&[0, index, 1 << 16, TC_H_ROOT, 0]);
        body.extend(attribute(TCA_KIND, b"netem\0"));
        body.extend(attribute(TCA_OPTIONS, &netem));
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        let mut message = words(&[u32::try_from(16 + body.len()).unwrap()]);
        message.extend(RTM_NEWQDISC.to_ne_bytes());
        message.extend(u16::try_from(flags).unwrap().to_ne_bytes());
        message.extend(words(&[1, 0]));
        message.extend(body);
        assert_eq!(answer(&message), 0, "netem: {}", io::Error::from_raw_os_error(-answer(&message)));
    }
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
