//! What not every kernel has, and the programs ask for before they use it.

use std::fmt;

use kerno_model::KernelVersion;

/// Which kernels have it, by upstream's versions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Has {
    Since(KernelVersion),
    Until(KernelVersion),
    /// Other architectures do.
    Never,
}

use Has::{Never, Since, Until};

impl Has {
    pub(super) fn there(self, line: KernelVersion) -> bool {
        match self {
            Since(version) => line >= version,
            Until(version) => line < version,
            Never => false,
        }
    }
}

impl fmt::Display for Has {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Since(version) => write!(f, "since {version}"),
            Until(version) => write!(f, "until {version}"),
            Never => f.write_str("never"),
        }
    }
}

const fn v(major: u32, minor: u32) -> KernelVersion {
    KernelVersion::new(major, minor)
}

/// By what relocations name; all else must be in every stored kernel. A version between two of these is proved by neither.
pub(super) const MISSING: &[(&str, Has)] = &[
    ("bio.__bi_nr_segments", Since(v(6, 10))),
    ("bpf_func_id.BPF_FUNC_get_current_task_btf", Since(v(5, 11))),
    ("bpf_func_id.BPF_FUNC_task_pt_regs", Since(v(5, 15))),
    // Requests of io_uring before 6.0 are laid out otherwise: no program that looks into them is attached there.
    ("io_kiocb.cmd", Since(v(6, 0))),
    ("io_kiocb.cqe.res", Since(v(5, 19))),
    ("io_kiocb.cqe.user_data", Since(v(5, 19))),
    ("io_kiocb.task", Until(v(6, 13))),
    ("io_kiocb.tctx", Since(v(6, 13))),
    ("io_uring_task.task", Since(v(6, 13))),
    ("io_accept.iou_flags", Since(v(6, 3))),
    ("io_socket", Since(v(5, 19))),
    ("io_socket.file_slot", Since(v(5, 19))),
    ("io_pipe", Since(v(6, 16))),
    ("io_pipe.fds", Since(v(6, 16))),
    ("io_pipe.file_slot", Since(v(6, 16))),
    ("io_ring_ctx.file_table.data.nodes", Since(v(6, 13))),
    ("io_ring_ctx.file_table.data.nr", Since(v(6, 13))),
    ("io_rsrc_node.file_ptr", Since(v(6, 13))),
    ("io_ring_ctx.compat", Until(v(7, 0))),
    ("io_ring_ctx.int_flags", Since(v(7, 0))),
    ("mm_struct.rss_stat[0]", Since(v(6, 2))),
    ("mm_struct.rss_stat[1]", Since(v(6, 2))),
    ("mm_struct.rss_stat[2]", Since(v(6, 2))),
    ("mm_struct.rss_stat[3]", Since(v(6, 2))),
    ("mm_struct.rss_stat[0].count", Since(v(6, 2))),
    ("mm_struct.rss_stat[1].count", Since(v(6, 2))),
    ("mm_struct.rss_stat[2].count", Since(v(6, 2))),
    ("mm_struct.rss_stat[3].count", Since(v(6, 2))),
    ("mm_struct___pre_6_2.rss_stat.count", Until(v(6, 2))),
    ("mm_struct___pre_6_2.rss_stat.count[0].counter", Until(v(6, 2))),
    ("mm_struct___pre_6_2.rss_stat.count[1].counter", Until(v(6, 2))),
    ("mm_struct___pre_6_2.rss_stat.count[2].counter", Until(v(6, 2))),
    ("mm_struct___pre_6_2.rss_stat.count[3].counter", Until(v(6, 2))),
    ("pt_regs___arm64.orig_x0", Never),
    ("pt_regs___arm64.regs", Never),
    ("pt_regs___arm64.regs[1]", Never),
    ("pt_regs___arm64.syscallno", Never),
    ("request___flush_list.flush.list", Until(v(6, 9))),
    ("request___rq_disk.rq_disk", Until(v(5, 17))),
    ("request_queue.disk", Since(v(5, 15))),
    ("task_struct.__state", Since(v(5, 14))),
    ("task_struct___pre_5_14.state", Until(v(5, 14))),
];

/// Values of enums that the loaders look up by [`Host::enum_value`](crate::Host).
pub(super) const VALUES: &[(&str, Has)] = &[("IO_RING_F_COMPAT", Since(v(7, 0))), ("__RQF_FLUSH_SEQ", Since(v(6, 11)))];
