use crate::EventType;
use crate::calls;
use crate::event::syscall_names;
use crate::probe::{FilterKind, Group, Hook, Host, LoadError, Options, Plan, Signal, SignalLoader};

/// Loads `tcp_monitor`: [`TcpEvent`](crate::TcpEvent)s.
pub type TcpMonitorLoader = SignalLoader<TcpMonitor>;

/// The signal's marker.
#[derive(Debug)]
pub struct TcpMonitor;

/// Connections that are followed at once.
const MAX_CONNECTIONS: u32 = 65536;

/// `MAX_FILTER_PORTS` in the C source.
const MAX_PORTS: usize = 16;

/// `accept`, `accept4` and `socketcall` of the 32-bit table (arm has no `socketcall` in its newer ABI).
const COMPAT_ACCEPT_NRS: [u32; 3] = if cfg!(target_arch = "aarch64") {
    [285, 366, u32::MAX]
} else {
    // i386 has no accept of its own.
    [u32::MAX, 364, 102]
};

impl Signal for TcpMonitor {
    const NAME: &'static str = "tcp_monitor";
    const TYPE: EventType = EventType::TcpMonitor;
    const OBJECT: &'static [u8] = aya::include_bytes_aligned!("../../../objects/tcp_monitor.bpf.o");
    const GROUP: Option<&'static Group> = Some(&calls::EVENTS);
    const FILTERS: &'static [FilterKind] = &[
        FilterKind::Pids,
        FilterKind::Comms,
        FilterKind::Uids,
        FilterKind::Cgroups,
        FilterKind::ErrorsOnly,
        FilterKind::Ports,
    ];

    fn hooks(host: &Host, plan: &mut Plan) -> Result<(), LoadError> {
        if host.tracepoint_arity("tcp_retransmit_skb").is_some_and(|arguments| arguments > 2) {
            plan.set("cfg_retransmit_has_err", &1u8);
        }
        // What forgets a socket comes before what remembers it.
        plan.attach("on_tcp_destroy_sock", Hook::Tracepoint("tcp_destroy_sock"));
        let accept_exit = Hook::FunctionExit("inet_csk_accept");
        let sys_exit = ("on_sys_exit", Hook::Tracepoint("sys_exit"));
        plan.switch("accepts_by_call", sys_exit.1);
        match host.function_arity("inet_csk_accept") {
            Some(2) => plan.attach_or(("on_accept", accept_exit), sys_exit),
            Some(4) => plan.attach_or(("on_accept_before_6_10", accept_exit), sys_exit),
            _ => plan.attach(sys_exit.0, sys_exit.1),
        }
        plan.attach("on_tcp_rcv_space_adjust", Hook::Tracepoint("tcp_rcv_space_adjust"));
        plan.attach("on_inet_sock_set_state", Hook::Tracepoint("inet_sock_set_state"));
        // After these hooks: a socket opened meanwhile is known to one or the other.
        plan.attach("on_task_file", Hook::Seed("task_file"));
        plan.attach("on_tcp_retransmit_skb", Hook::Tracepoint("tcp_retransmit_skb"));
        plan.attach("on_tcp_retransmit_synack", Hook::Tracepoint("tcp_retransmit_synack"));
        plan.attach("on_tcp_receive_reset", Hook::Tracepoint("tcp_receive_reset"));
        plan.attach("on_tcp_send_reset", Hook::Tracepoint("tcp_send_reset"));
        plan.attach("on_tcp_probe", Hook::Tracepoint("tcp_probe"));
        Ok(())
    }

    fn knobs(options: &Options, plan: &mut Plan) -> Result<(), LoadError> {
        plan.map_entries.push(("conns", MAX_CONNECTIONS));
        let accept_nrs = ["accept", "accept4"].map(|name| syscall_names::numbers(name).0.unwrap_or(u32::MAX));
        plan.set("cfg_accept_nrs", &accept_nrs);
        plan.set("cfg_compat_accept_nrs", &COMPAT_ACCEPT_NRS);
        let ports: Vec<_> = options.filter.ports.iter().map(|port| u32::from(*port)).collect();
        plan.set_list::<_, MAX_PORTS>("cfg_port_count", "cfg_ports", "port", &ports)
    }
}
