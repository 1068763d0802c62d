use crate::EventType;
use crate::calls;
use crate::probe::{FilterKind, Group, Hook, Host, LoadError, Options, Plan, Signal, SignalLoader};

/// Loads `process_life`: [`LifeEvent`](crate::LifeEvent)s.
pub type ProcessLifeLoader = SignalLoader<ProcessLife>;

/// The signal's marker.
#[derive(Debug)]
pub struct ProcessLife;

/// Since 6.16 the tracepoint of an end tells whether the thread is the last of its process.
pub(super) fn tell_exits(host: &Host, plan: &mut Plan) {
    plan.set("cfg_exit_tells", &u8::from(host.tracepoint_arity("sched_process_exit") == Some(2)));
}

impl Signal for ProcessLife {
    const NAME: &'static str = "process_life";
    const TYPE: EventType = EventType::ProcessLife;
    const OBJECT: &'static [u8] = aya::include_bytes_aligned!("../../../objects/process_life.bpf.o");
    const GROUP: Option<&'static Group> = Some(&calls::EVENTS);
    const FILTERS: &'static [FilterKind] =
        &[FilterKind::Pids, FilterKind::Comms, FilterKind::Uids, FilterKind::Cgroups, FilterKind::ErrorsOnly];

    fn hooks(host: &Host, plan: &mut Plan) -> Result<(), LoadError> {
        tell_exits(host, plan);
        // What ends first: a beginning that is told has its end told, too.
        plan.attach("on_sched_process_exit", Hook::Tracepoint("sched_process_exit"));
        plan.attach("on_sched_process_exec", Hook::Tracepoint("sched_process_exec"));
        plan.attach("on_sched_process_fork", Hook::Tracepoint("sched_process_fork"));
        Ok(())
    }

    fn knobs(_options: &Options, _plan: &mut Plan) -> Result<(), LoadError> {
        Ok(())
    }
}
