use crate::EventType;
use crate::probe::{FilterKind, Hook, Host, LoadError, Options, Plan, Signal, SignalLoader};

use super::event::encode_dev;

/// Loads `disk_io`: [`DiskEvent`](crate::DiskEvent)s.
pub type DiskIoLoader = SignalLoader<DiskIo>;

/// The signal's marker.
#[derive(Debug)]
pub struct DiskIo;

/// `MAX_FILTER_DEVICES` in the C source.
const MAX_DEVICES: usize = 16;

/// Largest major and minor in the kernel's 32-bit encoding.
const MAX_MAJOR: u32 = (1 << 12) - 1;
const MAX_MINOR: u32 = (1 << 20) - 1;

impl Signal for DiskIo {
    const NAME: &'static str = "disk_io";
    const TYPE: EventType = EventType::DiskIo;
    const OBJECT: &'static [u8] = aya::include_bytes_aligned!("../../../objects/disk_io.bpf.o");
    const FILTERS: &'static [FilterKind] = &[
        FilterKind::Pids,
        FilterKind::Comms,
        FilterKind::Uids,
        FilterKind::Cgroups,
        FilterKind::MinLatency,
        FilterKind::ErrorsOnly,
        FilterKind::Devices,
    ];

    fn hooks(host: &Host, plan: &mut Plan) -> Result<(), LoadError> {
        hooks(host, plan, WaitsSince::Insertion);
        Ok(())
    }

    fn knobs(options: &Options, plan: &mut Plan) -> Result<(), LoadError> {
        let devices = options
            .filter
            .devices
            .iter()
            .map(|&(major, minor)| {
                if major > MAX_MAJOR || minor > MAX_MINOR {
                    return Err(LoadError::Filter(format!(
                        "device {major}:{minor}: majors go up to {MAX_MAJOR}, minors to {MAX_MINOR}"
                    )));
                }
                Ok(encode_dev(major, minor))
            })
            .collect::<Result<Vec<_>, _>>()?;
        plan.set_list::<_, MAX_DEVICES>("cfg_device_count", "cfg_devices", "device", &devices)
    }
}

/// When a request begins to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WaitsSince {
    /// It was given to an I/O scheduler.
    Insertion,
    /// It was made, by the kernel's own note of it: one hook less. It notes none where the disk has no I/O scheduler and
    /// `queue/iostats` is 0 (`blk_mq_need_time_stamp`); then nothing waits but for a device that takes no more.
    Made,
}

/// Which programs go where on this kernel: those of requests.h, in whichever object.
pub(super) fn hooks(host: &Host, plan: &mut Plan, waits: WaitsSince) {
    // The requests' tracepoints lost the queue in 5.11 (a54895fa057c) and in 5.10.137, block_getrq in 5.11 only (e8a676d61c07): the
    // kernel's own description decides, not its version.
    let attach = |plan: &mut Plan, name, program, program_with_queue, arity_with_queue| {
        let with_queue = host.tracepoint_arity(name) == Some(arity_with_queue);
        plan.attach(if with_queue { program_with_queue } else { program }, Hook::Tracepoint(name));
    };
    // An enum's value since 6.11, but the enum has a name only since some release after 6.12.
    if let Some(bit) = host.enum_value("__RQF_FLUSH_SEQ") {
        plan.set("cfg_flush_seq_bit", &bit);
    }
    plan.set("cfg_skips_runs", &u8::from(host.version.preempts_programs()));
    // The end before the beginning: a request whose end is missed would be stale when its memory is next used.
    plan.attach("on_block_rq_complete", Hook::Tracepoint("block_rq_complete"));
    attach(plan, "block_rq_merge", "on_block_rq_merge", "on_block_rq_merge_q", 2);
    attach(plan, "block_rq_requeue", "on_block_rq_requeue", "on_block_rq_requeue_q", 2);
    attach(plan, "block_rq_issue", "on_block_rq_issue", "on_block_rq_issue_q", 2);
    let has_start = host.tracepoint_arity("block_io_start").is_some();
    // Without a hook at the start, an insertion can be the first sight of a request.
    if waits == WaitsSince::Insertion || !has_start {
        attach(plan, "block_rq_insert", "on_block_rq_insert", "on_block_rq_insert_q", 2);
    }
    plan.set("cfg_waits_since_made", &u8::from(waits == WaitsSince::Made));
    if has_start {
        plan.attach("on_block_io_start", Hook::Tracepoint("block_io_start"));
    } else {
        plan.set("cfg_has_io_start", &0u8);
        attach(plan, "block_getrq", "on_block_getrq", "on_block_getrq_q", 3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Code, registers, offset and immediate of each instruction.
    fn instructions(object: &aya_obj::Object, program: &str) -> Vec<(u8, u8, u8, i16, i32)> {
        let key = object.programs[program].function_key();
        let all = object.functions[&key].instructions.iter();
        all.map(|i| (i.code, i.dst_reg(), i.src_reg(), i.off, i.imm)).collect()
    }

    /// No kernel at hand has the queue in front any more, so the programs for those that had it are held against the ones that run.
    /// That the second argument is the request is left to the verifier, which knows each argument's type.
    #[test]
    fn programs_for_kernels_with_the_queue_in_front_only_take_the_next_argument() {
        let summary = aya::include_bytes_aligned!("../../../objects/disk_io_summary.bpf.o");
        for object in [DiskIo::OBJECT, summary] {
            let object = aya_obj::Object::parse(object).unwrap();
            for hook in ["block_rq_insert", "block_rq_issue", "block_rq_requeue", "block_rq_merge", "block_getrq"] {
                let mut plain = instructions(&object, &format!("on_{hook}"));
                let with_queue = instructions(&object, &format!("on_{hook}_q"));
                let (_, _, context, argument, _) = &mut plain[0];
                assert_eq!(
                    (*context, *argument),
                    (1, 0),
                    "{hook}: first of all, the argument is read from the context"
                );
                *argument = 8;
                assert_eq!(plain, with_queue, "{hook}");
            }
        }
    }
}
