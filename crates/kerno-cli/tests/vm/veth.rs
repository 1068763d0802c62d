//! A cable between two network namespaces.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;

use crate::netlink::{self, attribute, words};

// linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/veth.h
const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

fn name(interface: &str) -> Vec<u8> {
    attribute(IFLA_IFNAME, format!("{interface}\0").as_bytes())
}

/// struct ifinfomsg: family and type, index, flags, which flags change.
fn interface(index: u32, flags: u32) -> Vec<u8> {
    words(&[0, index, flags, flags])
}

/// One end here, in the calling thread's namespace, the other in that one.
pub fn connect(here: &str, there: &str, namespace: &File) {
    let fd = namespace.as_raw_fd().cast_unsigned();
    let peer = [interface(0, 0), name(there), attribute(IFLA_NET_NS_FD, &words(&[fd]))].concat();
    let data = attribute(IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &peer));
    let link = [attribute(IFLA_INFO_KIND, b"veth\0"), data].concat();
    let body = [interface(0, 0), name(here), attribute(IFLA_LINKINFO, &link)].concat();
    netlink::request(RTM_NEWLINK, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body);
}

/// Gives this end an address of a network of 256, and takes it into use.
pub fn bring_up(end: &str, address: Ipv4Addr) {
    let index = netlink::index_of(end);
    // struct ifaddrmsg: family, length of the prefix, flags, scope, index
    let mut body = vec![2, 24, 0, 0];
    body.extend(words(&[index]));
    body.extend([IFA_LOCAL, IFA_ADDRESS].iter().flat_map(|kind| attribute(*kind, &address.octets())));
    netlink::request(RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body);
    netlink::request(RTM_NEWLINK, 0, &interface(index, libc::IFF_UP.cast_unsigned()));
}
