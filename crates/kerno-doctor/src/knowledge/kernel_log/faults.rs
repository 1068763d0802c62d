//! Faults of the kernel itself.

use super::entry::Entry;
use super::entry::Step::{Do, Look};

/// What holds for each fault of the kernel.
const KEEP: super::entry::Step = Do(
    "Keep the whole trace, with `Modules linked in` and the lines before it: the first fault counts, later ones may be consequences.",
);
const UPDATE: super::entry::Step = Do(
    "Search for the function named at RIP or pc in reports about this kernel version; try a newer kernel of the same series.",
);
const TAINT: super::entry::Step =
    Look("cat /proc/sys/kernel/tainted", "says what was loaded or has happened: 0 is an untainted kernel");

pub(super) const TABLE: &[Entry] = &[
    Entry {
        id: "null_dereference",
        title: "the kernel followed a null pointer",
        patterns: &[
            "BUG: kernel NULL pointer dereference, address: {address:x}",
            "Unable to handle kernel NULL pointer dereference at virtual address {address:x}",
        ],
        examples: &[
            "BUG: kernel NULL pointer dereference, address: 0000000000000018",
            "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008",
        ],
        meaning: "Code of the kernel used a pointer that is null, plus a small offset. The task that ran is killed; locks that it held are never released.",
        why: "A fault in the kernel or in a module.",
        steps: &[
            KEEP,
            UPDATE,
            TAINT,
            Do("Plan a restart: a kernel that has had such a fault may hang later, on a lock that nobody releases."),
        ],
        rules: &[],
        source: "arch/x86/mm/fault.c, arch/arm64/mm/fault.c",
        since: None,
    },
    Entry {
        id: "page_fault_kernel",
        title: "the kernel used an address that is not valid",
        patterns: &[
            "BUG: unable to handle page fault for address: {address:x}",
            "Unable to handle kernel paging request at virtual address {address:x}",
        ],
        examples: &["BUG: unable to handle page fault for address: ffffb0f1c0a3d000"],
        meaning: "Code of the kernel read, wrote or jumped to memory that is not mapped or not allowed. The task that ran is killed.",
        why: "Use of memory after it was freed, an overwritten pointer, or faulty memory.",
        steps: &[KEEP, UPDATE, TAINT, Do("Faults in places that differ each time speak for the memory: test it.")],
        rules: &[],
        source: "arch/x86/mm/fault.c, arch/arm64/mm/fault.c",
        since: None,
    },
    Entry {
        id: "oops",
        title: "the header of an oops",
        patterns: &[
            "Oops: {code:x} [#{number:n}]",
            "Oops: Oops: {code:x} [#{number:n}]",
            "Internal error: Oops: {code:x} [#{number:n}]",
        ],
        examples: &[
            "Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "Oops: Oops: 0000 [#1] SMP NOPTI",
            "Internal error: Oops: 0000000096000004 [#1] SMP",
        ],
        meaning: "The kernel has met a fault in itself and kills the task that ran. The number in brackets counts oopses since boot.",
        why: "The line before it says which fault; registers and a call trace follow.",
        steps: &[KEEP, UPDATE, TAINT],
        rules: &[],
        source: "arch/x86/kernel/dumpstack.c, arch/arm64/kernel/traps.c",
        since: None,
    },
    Entry {
        id: "general_protection_kernel",
        title: "the kernel met a general protection fault",
        patterns: &["general protection fault, {what}", "Oops: general protection fault, {what}"],
        examples: &[
            "general protection fault, probably for non-canonical address 0xdead000000000122: 0000 [#1] SMP",
            "Oops: general protection fault, probably for non-canonical address 0xdffffc0000000000: 0000 [#1] SMP",
        ],
        meaning: "Code of the kernel used an address that no x86-64 address can be, or did what the CPU does not allow. The task that ran is killed.",
        why: "Mostly use of memory after it was freed: addresses such as 0xdead000000000122 are what freed lists are filled with.",
        steps: &[KEEP, UPDATE, TAINT],
        rules: &[],
        source: "arch/x86/kernel/traps.c",
        since: None,
    },
    Entry {
        id: "kernel_bug",
        title: "the kernel found itself in a state that must not be",
        patterns: &["kernel BUG at {place:w}!", "------------[ cut here ]------------"],
        examples: &["kernel BUG at fs/ext4/inode.c:2731!", "------------[ cut here ]------------"],
        meaning: "An assertion (BUG) in the kernel failed at this file and line and the task that ran is killed; or, of the line `cut here`, a warning or such a failure \
                  begins with the next line.",
        why: "A fault in the kernel or a module, or data on disk or in memory that is damaged.",
        steps: &[KEEP, UPDATE, TAINT],
        rules: &[],
        source: "lib/bug.c",
        since: None,
    },
    Entry {
        id: "kernel_warning",
        title: "the kernel warns of a state that should not be",
        patterns: &[
            "WARNING: CPU: {cpu:n} PID: {pid:n} at {place:w}",
            "WARNING: {place:w} at {function:w}, CPU#{cpu:n}: {process}/{pid:n}",
        ],
        examples: &["WARNING: CPU: 2 PID: 1873 at net/core/dev.c:4181 skb_warn_bad_offload+0xc4/0xd0"],
        meaning: "A check (WARN) in the kernel failed. The kernel goes on, and nothing is killed.",
        why: "A fault in the kernel or a driver, or input that nobody thought of. Many are harmless; each is worth a report.",
        steps: &[KEEP, UPDATE, TAINT],
        rules: &[],
        source: "kernel/panic.c",
        since: None,
    },
    Entry {
        id: "panic",
        title: "the kernel stops",
        patterns: &["Kernel panic - not syncing: {reason}"],
        examples: &[
            "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
            "Kernel panic - not syncing: VFS: Unable to mount root fs on unknown-block(0,0)",
        ],
        meaning: "The kernel cannot or may not go on. It restarts after kernel.panic seconds, or stands still if that is 0.",
        why: "The reason after the colon. Often a setting made a lesser fault fatal: panic_on_oops, hung_task_panic, softlockup_panic, panic_on_oom.",
        steps: &[
            KEEP,
            Look("ls /sys/fs/pstore /var/lib/systemd/pstore /var/crash", "shows what was kept of it"),
            Look(
                "sysctl kernel.panic kernel.panic_on_oops kernel.hung_task_panic kernel.softlockup_panic",
                "shows what makes it stop",
            ),
        ],
        rules: &[],
        source: "kernel/panic.c",
        since: None,
    },
    Entry {
        id: "scheduling_while_atomic",
        title: "kernel code slept where it may not",
        patterns: &[
            "BUG: scheduling while atomic: {process}/{pid:n}/",
            "BUG: sleeping function called from invalid context at {place:w}",
        ],
        examples: &[
            "BUG: scheduling while atomic: swapper/0/0/0x00000002",
            "BUG: sleeping function called from invalid context at kernel/locking/mutex.c:580",
        ],
        meaning: "Code that holds a spin lock or has preemption disabled called a function that sleeps. It can deadlock.",
        why: "A fault in the kernel or in a driver, often one from outside the kernel.",
        steps: &[KEEP, UPDATE, TAINT],
        rules: &[],
        source: "kernel/sched/core.c",
        since: None,
    },
    Entry {
        id: "lockdep",
        title: "locks are taken in an order that can deadlock",
        patterns: &[
            "WARNING: possible circular locking dependency detected",
            "WARNING: possible recursive locking detected",
            "WARNING: inconsistent lock state",
        ],
        examples: &["WARNING: possible circular locking dependency detected"],
        meaning: "The lock checker of a debugging kernel has seen an order of locks that can deadlock. It need not have happened.",
        why: "A fault in the kernel. Kernels for production have no lock checker.",
        steps: &[
            KEEP,
            Do(
                "Report it, with the whole text. Do not run production on a kernel with CONFIG_PROVE_LOCKING: it is slow.",
            ),
        ],
        rules: &[],
        source: "kernel/locking/lockdep.c",
        since: None,
    },
    Entry {
        id: "kasan",
        title: "the kernel used memory that it may not",
        patterns: &[
            "BUG: KASAN: {kind:w} in {function:w}",
            "BUG: KFENCE: {kind} in {function:w}",
            "BUG: KMSAN: {kind:w} in {function:w}",
        ],
        examples: &[
            "BUG: KASAN: slab-use-after-free in ext4_find_extent+0x9c/0x2b0",
            "BUG: KFENCE: use-after-free read in test_use_after_free_read+0xb3/0x143",
        ],
        meaning: "A checker of memory accesses caught code of the kernel that used memory after it was freed, past its end, or before it was set.",
        why: "A fault in the kernel or a module. KFENCE is made for production and catches a sample; KASAN and KMSAN are for tests.",
        steps: &[KEEP, UPDATE, Do("Report it with the stacks of use, allocation and free that follow.")],
        rules: &[],
        source: "mm/kasan/report.c, mm/kfence/report.c, mm/kmsan/report.c",
        since: None,
    },
    Entry {
        id: "ubsan",
        title: "the kernel did what C does not define",
        patterns: &["UBSAN: {kind:w} in {place:w}"],
        examples: &["UBSAN: array-index-out-of-bounds in drivers/net/wireless/ath/ath9k/htc_hst.c:26:24"],
        meaning: "A checker found an index past the end of an array, a shift that is too far, or the like. The kernel goes on.",
        why: "A fault in the source, often an old way to declare arrays of variable length, which does no harm.",
        steps: &[Do("Report it if a newer kernel still has it. It matters most where the index comes from outside.")],
        rules: &[],
        source: "lib/ubsan.c",
        since: None,
    },
    Entry {
        id: "list_corruption",
        title: "a list in the kernel is damaged",
        patterns: &["list_add corruption.", "list_del corruption"],
        examples: &[
            "list_add corruption. prev->next should be next (ffff8881003b4c80), but was 0000000000000000. (prev=ffff88810a1c5e08).",
            "list_del corruption. prev->next should be ffff8881, but was ffff8882",
        ],
        meaning: "The neighbours of an entry do not point back to it. The kernel warns or stops, by configuration, before worse is done.",
        why: "Memory was used after it was freed or overwritten, or a lock is missing.",
        steps: &[KEEP, UPDATE, TAINT],
        rules: &[],
        source: "lib/list_debug.c",
        since: None,
    },
    Entry {
        id: "refcount",
        title: "a counter of references ran over or under",
        patterns: &["refcount_t: {what}"],
        examples: &["refcount_t: underflow; use-after-free.", "refcount_t: addition on 0; use-after-free."],
        meaning: "An object is released more often than it was taken, or is taken after it was freed. The counter is pinned, so memory may leak.",
        why: "A fault in the kernel or a module.",
        steps: &[KEEP, UPDATE, TAINT],
        rules: &[],
        source: "lib/refcount.c",
        since: None,
    },
];
