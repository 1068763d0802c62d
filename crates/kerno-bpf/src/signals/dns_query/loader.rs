use crate::EventType;
use crate::calls;
use crate::event::syscall_names;
use crate::probe::{FilterKind, Group, Hook, Host, LoadError, Options, Plan, Signal, SignalLoader};

/// Loads `dns_query`: [`DnsEvent`](crate::DnsEvent)s.
pub type DnsQueryLoader = SignalLoader<DnsQuery>;

/// The signal's marker.
#[derive(Debug)]
pub struct DnsQuery;

/// The calls, with the `DNS_*` of dns.h.
const CLASSES: [(&str, u8); 12] = [
    ("connect", 1),
    ("sendto", 2),
    ("sendmsg", 3),
    ("sendmmsg", 4),
    ("write", 5),
    ("writev", 6),
    ("recvfrom", 7),
    ("recvmsg", 8),
    ("recvmmsg", 9),
    ("read", 10),
    ("readv", 11),
    ("close", 12),
];

/// `DNS_AWAITED` and `DNS_SETS` in dns.h: queries awaited at once; sets of two sockets.
const AWAITED: u32 = 4096;
const SETS: u32 = 2048;

impl Signal for DnsQuery {
    const NAME: &'static str = "dns_query";
    const TYPE: EventType = EventType::DnsQuery;
    const OBJECT: &'static [u8] = aya::include_bytes_aligned!("../../../objects/dns_query.bpf.o");
    const GROUP: Option<&'static Group> = Some(&calls::EVENTS);
    const FILTERS: &'static [FilterKind] = &[
        FilterKind::Pids,
        FilterKind::Comms,
        FilterKind::Uids,
        FilterKind::Cgroups,
        FilterKind::MinLatency,
        FilterKind::ErrorsOnly,
    ];

    fn hooks(_host: &Host, plan: &mut Plan) -> Result<(), LoadError> {
        attach(plan);
        Ok(())
    }

    fn knobs(_options: &Options, plan: &mut Plan) -> Result<(), LoadError> {
        knobs(plan);
        Ok(())
    }
}

/// The hooks of both planes. What forgets a socket comes before what remembers it; the iterator, for sockets that are there already, comes last.
pub(super) fn attach(plan: &mut Plan) {
    plan.attach("on_sched_process_exit", Hook::Tracepoint("sched_process_exit"));
    plan.attach("on_sys_exit", Hook::Tracepoint("sys_exit"));
    plan.attach("on_task_file", Hook::Seed("task_file"));
}

/// What dns.h needs in both planes.
pub(super) fn knobs(plan: &mut Plan) {
    let mut classes = [0u8; syscall_names::MAX_SYSCALLS];
    for (name, class) in CLASSES {
        let (native, _) = syscall_names::numbers(name);
        if let Some(slot) = native.and_then(|nr| classes.get_mut(nr as usize)) {
            *slot = class;
        }
    }
    plan.set("cfg_dns_classes", &classes);
    plan.set("cfg_dns_set_mask", &(SETS - 1));
    plan.map_entries.push(("dns_sockets", SETS));
    plan.map_entries.push(("dns_awaited", AWAITED));
}
