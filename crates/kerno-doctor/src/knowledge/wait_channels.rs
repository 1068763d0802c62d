//! What a task in uninterruptible sleep waits for, judged by the kernel functions on its stack.

use kerno_model::{BlockedTask, WaitsFor};

/// Functions with sleeps that are uninterruptible by design and may last any time, with the reason.
const BY_DESIGN: &[(&str, &str)] = &[
    ("wait_for_vfork_done", "a parent sleeps until its vfork() child has called exec or exited"),
    ("kernel_clone", "the same, where the compiler has inlined wait_for_vfork_done"),
    ("_do_fork", "the same, before Linux 5.10"),
    ("__refrigerator", "frozen by the freezer cgroup or for a suspend, before Linux 6.1"),
    (
        "coredump_task_exit",
        "a thread of a crashed process sleeps until the others have stopped and the core dump is written",
    ),
    ("exit_mm", "the same, before Linux 5.16"),
    ("wb_wait_for_completion", "sync, syncfs or umount lasts until all dirty data is written, however much there is"),
];

/// Discards, by fstrim or mkfs: a device may take any time for them.
const DISCARDS: &[&str] = &["blkdev_issue_discard", "blkdev_issue_secure_erase"];

/// Prefixes of function names. The search goes from the innermost frame outwards, and the first frame that matches decides.
const MEANINGS: &[(&str, WaitsFor)] = &[
    ("fuse_", WaitsFor::Fuse),
    ("request_wait_answer", WaitsFor::Fuse),
    ("__fuse_", WaitsFor::Fuse),
    ("nfs_", WaitsFor::Nfs),
    ("nfs3_", WaitsFor::Nfs),
    ("nfs4_", WaitsFor::Nfs),
    ("rpc_", WaitsFor::Nfs),
    ("__rpc_", WaitsFor::Nfs),
    ("xprt_", WaitsFor::Nfs),
    ("cifs_", WaitsFor::Smb),
    ("smb2_", WaitsFor::Smb),
    ("smb_", WaitsFor::Smb),
    ("compound_send_recv", WaitsFor::Smb),
    ("try_to_free_", WaitsFor::Memory),
    ("shrink_", WaitsFor::Memory),
    ("reclaim_throttle", WaitsFor::Memory),
    ("throttle_direct_reclaim", WaitsFor::Memory),
    ("mem_cgroup_", WaitsFor::Memory),
    ("do_swap_page", WaitsFor::Storage),
    ("swap_read", WaitsFor::Storage),
    ("__folio_lock", WaitsFor::PageLock),
    ("__lock_page", WaitsFor::PageLock),
    ("io_schedule_timeout", WaitsFor::Storage),
    ("folio_wait_writeback", WaitsFor::Storage),
    ("wait_on_page_writeback", WaitsFor::Storage),
    ("filemap_", WaitsFor::Storage),
    ("__filemap_", WaitsFor::Storage),
    ("wait_on_buffer", WaitsFor::Storage),
    ("__wait_on_buffer", WaitsFor::Storage),
    ("__bread", WaitsFor::Storage),
    ("blk_", WaitsFor::Storage),
    ("__blk_", WaitsFor::Storage),
    ("blkdev_", WaitsFor::Storage),
    ("__blkdev_", WaitsFor::Storage),
    ("bio_", WaitsFor::Storage),
    ("submit_bio", WaitsFor::Storage),
    ("rq_qos_wait", WaitsFor::Storage),
    ("wbt_wait", WaitsFor::Storage),
    ("jbd2_", WaitsFor::Storage),
    ("xlog_", WaitsFor::Storage),
    ("xfs_log_", WaitsFor::Storage),
    ("xfs_buf_", WaitsFor::Storage),
    ("iomap_dio", WaitsFor::Storage),
    ("__iomap_dio", WaitsFor::Storage),
    ("scsi_", WaitsFor::Storage),
    ("nvme_", WaitsFor::Storage),
    ("md_", WaitsFor::Storage),
    ("raid", WaitsFor::Storage),
    ("dm_", WaitsFor::Storage),
    ("__blockdev_direct_IO", WaitsFor::Storage),
];

/// Prefixes of the functions in which a task sleeps until it gets a lock.
const LOCKS: &[&str] =
    &["mutex_", "__mutex_", "rwsem_", "down_", "__down_", "rt_mutex_", "__rt_mutex_", "percpu_rwsem_", "__percpu_"];

/// Functions in which a writer waits for a frozen file system, at a per-CPU lock.
const WRITERS: &[&str] =
    &["vfs_write", "vfs_iter_write", "mnt_want_write", "sb_start_write", "vfs_fallocate", "do_truncate"];

/// Functions that are part of every sleep and tell nothing.
const PLUMBING: &[&str] =
    &["__schedule", "schedule", "io_schedule", "schedule_", "wait_for_completion", "__wait_for_common"];

/// The frames, innermost first; only the wait channel if the stack cannot be read.
fn frames(task: &BlockedTask) -> impl Iterator<Item = &str> {
    let channel = task.wait_channel.as_deref().filter(|_| task.stack.is_empty());
    channel.into_iter().chain(task.stack.iter().map(String::as_str))
}

fn is_plumbing(frame: &str) -> bool {
    PLUMBING.iter().any(|name| frame.starts_with(name))
}

/// The reason why a sleep is normal, if it is.
pub(crate) fn by_design(task: &BlockedTask) -> Option<&'static str> {
    let innermost = frames(task).find(|frame| !is_plumbing(frame));
    let channel = task.wait_channel.as_deref();
    if frames(task).any(|frame| DISCARDS.contains(&frame)) {
        return Some("the device discards blocks");
    }
    BY_DESIGN.iter().find(|(name, _)| channel == Some(*name) || innermost == Some(*name)).map(|(_, reason)| *reason)
}

/// What a task waits for.
pub(crate) fn waits_for(task: &BlockedTask) -> WaitsFor {
    let is_lock = |frame: &str| LOCKS.iter().any(|name| frame.starts_with(name));
    let locked = frames(task).find(|frame| !is_plumbing(frame)).is_some_and(is_lock);
    if locked {
        let counting =
            frames(task).any(|frame| frame.starts_with("percpu_rwsem_") || frame.starts_with("__percpu_down_read"));
        if counting && frames(task).any(|frame| WRITERS.contains(&frame) || frame.ends_with("_page_mkwrite")) {
            return WaitsFor::Thaw;
        }
        // Frames further out show what the task does, not what it waits for.
        return WaitsFor::Lock;
    }
    let meaning = |frame: &str| MEANINGS.iter().find(|(name, _)| frame.starts_with(name)).map(|(_, meaning)| *meaning);
    // Only the frames near the sleep count: most stacks have a file read further out.
    frames(task).filter(|frame| !is_plumbing(frame)).take(8).find_map(meaning).unwrap_or(WaitsFor::Unknown)
}

/// The innermost function that tells where the task sleeps.
pub(crate) fn place(task: &BlockedTask) -> Option<&str> {
    frames(task).find(|frame| !is_plumbing(frame)).or(task.wait_channel.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asleep(stack: &[&str]) -> BlockedTask {
        BlockedTask { stack: stack.iter().map(|frame| (*frame).to_owned()).collect(), ..BlockedTask::default() }
    }

    #[test]
    fn stacks_say_what_is_waited_for() {
        let cases: &[(&[&str], WaitsFor)] = &[
            (&["folio_wait_bit_common", "filemap_get_pages", "filemap_read", "vfs_read"], WaitsFor::Storage),
            (&["io_schedule", "folio_wait_bit_common", "folio_wait_writeback", "ext4_sync_file"], WaitsFor::Storage),
            (&["jbd2_log_wait_commit", "ext4_sync_file", "do_fsync"], WaitsFor::Storage),
            (&["submit_bio_wait", "blkdev_issue_flush"], WaitsFor::Storage),
            (&["request_wait_answer", "fuse_simple_request", "fuse_lookup", "vfs_statx"], WaitsFor::Fuse),
            (&["rpc_wait_bit_killable", "__rpc_execute", "nfs4_call_sync", "nfs_getattr"], WaitsFor::Nfs),
            (&["folio_wait_bit_common", "__folio_lock", "truncate_inode_pages_range"], WaitsFor::PageLock),
            (&["rwsem_down_write_slowpath", "down_write", "ext4_file_write_iter"], WaitsFor::Lock),
            (&["__mutex_lock.constprop.0", "fuse_lookup"], WaitsFor::Lock),
            (&["percpu_rwsem_wait", "__percpu_down_read", "vfs_write", "ksys_write"], WaitsFor::Thaw),
            (&["schedule_timeout", "reclaim_throttle", "do_try_to_free_pages"], WaitsFor::Memory),
            (&["some_driver_read", "vfs_read"], WaitsFor::Unknown),
            (&[], WaitsFor::Unknown),
        ];
        for (stack, expected) in cases {
            assert_eq!(waits_for(&asleep(stack)), *expected, "{stack:?}");
        }
        let channel = BlockedTask { wait_channel: Some("request_wait_answer".into()), ..BlockedTask::default() };
        assert_eq!(waits_for(&channel), WaitsFor::Fuse);
    }

    #[test]
    fn parents_of_vfork_sleep_by_design_and_other_forks_do_not() {
        assert!(by_design(&asleep(&["kernel_clone", "__do_sys_vfork", "do_syscall_64"])).is_some());
        assert!(by_design(&asleep(&["wait_for_completion_state", "wait_for_vfork_done", "kernel_clone"])).is_some());
        assert_eq!(by_design(&asleep(&["percpu_rwsem_wait", "copy_process", "kernel_clone"])), None);
        let channel = BlockedTask { wait_channel: Some("__refrigerator".into()), ..BlockedTask::default() };
        assert!(by_design(&channel).is_some());
    }

    #[test]
    fn a_sync_of_everything_and_a_trim_last_as_long_as_there_is_work() {
        assert!(
            by_design(&asleep(&["wb_wait_for_completion", "sync_inodes_sb", "iterate_supers", "ksys_sync"])).is_some()
        );
        assert!(by_design(&asleep(&["submit_bio_wait", "blkdev_issue_discard", "ext4_trim_fs"])).is_some());
        assert_eq!(by_design(&asleep(&["submit_bio_wait", "blkdev_issue_flush", "ext4_sync_file"])), None);
    }
}
