use crate::EventType;
use crate::probe::{FilterKind, Hook, Host, LoadError, Options, Plan, Signal, SignalLoader};

/// Loads `sched_delay`: [`SchedEvent`](crate::SchedEvent)s.
pub type SchedDelayLoader = SignalLoader<SchedDelay>;

/// The signal's marker.
#[derive(Debug)]
pub struct SchedDelay;

impl Signal for SchedDelay {
    const NAME: &'static str = "sched_delay";
    const TYPE: EventType = EventType::SchedDelay;
    const OBJECT: &'static [u8] = aya::include_bytes_aligned!("../../../objects/sched_delay.bpf.o");
    const FILTERS: &'static [FilterKind] =
        &[FilterKind::Pids, FilterKind::Comms, FilterKind::Uids, FilterKind::Cgroups, FilterKind::MinLatency];

    fn hooks(_host: &Host, plan: &mut Plan) -> Result<(), LoadError> {
        // The switch first: a wait that began before anything could end it would last until the task's next wake-up.
        plan.attach("on_sched_switch", Hook::Tracepoint("sched_switch"));
        plan.attach("on_sched_wakeup", Hook::Tracepoint("sched_wakeup"));
        plan.attach("on_sched_wakeup_new", Hook::Tracepoint("sched_wakeup_new"));
        Ok(())
    }

    fn knobs(_options: &Options, plan: &mut Plan) -> Result<(), LoadError> {
        plan.size_starts();
        Ok(())
    }
}
