//! Tasks and CPUs that stand still.

use super::entry::Entry;
use super::entry::Step::{Change, Do, Look};

pub(super) const TABLE: &[Entry] = &[
    Entry {
        id: "hung_task",
        title: "a task has slept uninterruptibly for long",
        patterns: &[
            "INFO: task {process}:{pid:n} blocked for more than {seconds:n} seconds",
            "INFO: task {process}:{pid:n} blocked in I/O wait for more than {seconds:n} seconds",
        ],
        examples: &[
            "INFO: task jbd2/sda1-8:312 blocked for more than 120 seconds.",
            "INFO: task dd:456 blocked in I/O wait for more than 122 seconds.",
        ],
        meaning: "The thread was in uninterruptible sleep (state D) for the whole time and was not scheduled once. The kernel's stack of the thread \
                  follows. The thread is not ended, and goes on if what it waits for happens; signals, also SIGKILL, do not reach it until then.",
        why: "Storage or a network file system does not answer, a lock of the kernel is held by a task that waits itself, or memory is so short \
              that reclaim does not end.",
        steps: &[
            Look("cat /proc/{pid}/stack", "shows what it waits for now, if it still does"),
            Look(
                "ps -eo pid,stat,wchan:30,comm | awk '$2 ~ /^D/'",
                "lists all tasks in this state: many with one function have one cause",
            ),
            Do(
                "Look for messages of storage, NFS or memory just before it; they are the cause, this is the consequence.",
            ),
        ],
        rules: &["blocked_tasks", "disk_io_bottleneck", "lock_held"],
        source: "kernel/hung_task.c",
        since: None,
    },
    Entry {
        id: "hung_task_owner",
        title: "who holds the lock that a hung task waits for",
        patterns: &["INFO: task {process}:{pid:n} is blocked on {lock} likely owned by task {owner}:{owner_pid:n}"],
        examples: &["INFO: task (udev-worker):374 is blocked on a mutex likely owned by task virtme-ng-init:1."],
        meaning: "The thread waits for a lock of the kernel, and the second thread had it when the kernel looked.",
        why: "It comes after the report of a hung task. The owner is what to look at: it waits itself, or works for long with the lock held.",
        steps: &[
            Look("cat /proc/{owner_pid}/stack", "shows what the owner of the lock does or waits for"),
            Look("cat /proc/{pid}/stack", "shows where the waiting thread is"),
        ],
        rules: &["blocked_tasks", "lock_held"],
        source: "kernel/hung_task.c",
        since: Some("6.15"),
    },
    Entry {
        id: "hung_task_hint",
        title: "how to turn reports of hung tasks off",
        patterns: &["\"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message"],
        examples: &["\"echo 0 > /proc/sys/kernel/hung_task_timeout_secs\" disables this message."],
        meaning: "A part of the report of a hung task. It says how to be told no more, not how to solve it.",
        why: "The line before it names the task.",
        steps: &[Do("Leave the report on. Explain the line before this one, which names the task.")],
        rules: &["blocked_tasks"],
        source: "kernel/hung_task.c",
        since: None,
    },
    Entry {
        id: "hung_task_last",
        title: "no more hung tasks are reported",
        patterns: &["Future hung task reports are suppressed, see sysctl kernel.hung_task_warnings"],
        examples: &["Future hung task reports are suppressed, see sysctl kernel.hung_task_warnings"],
        meaning: "The number of reports in kernel.hung_task_warnings (10 at first) is used up. Tasks that hang from now on are not told.",
        why: "Many tasks were blocked for long since boot.",
        steps: &[
            Look("ps -eo pid,stat,wchan:30,comm | awk '$2 ~ /^D/'", "lists the tasks in uninterruptible sleep now"),
            Change("sysctl kernel.hung_task_warnings=10", "reports the next ten again"),
        ],
        rules: &["blocked_tasks"],
        source: "kernel/hung_task.c",
        since: None,
    },
    Entry {
        id: "soft_lockup",
        title: "a CPU has run kernel code for long without letting others run",
        patterns: &[
            "watchdog: BUG: soft lockup - CPU#{cpu:n} stuck for {seconds:n}s! [{process}:{pid:n}]",
            "NMI watchdog: BUG: soft lockup - CPU#{cpu:n} stuck for {seconds:n}s! [{process}:{pid:n}]",
        ],
        examples: &["watchdog: BUG: soft lockup - CPU#3 stuck for 26s! [kworker/3:1:1187]"],
        meaning: "The watchdog thread of this CPU could not run for more than twice kernel.watchdog_thresh (10 s), because the task named ran in the \
                  kernel without giving the CPU up. Interrupts still worked.",
        why: "A long loop in the kernel or a driver, a spin lock that many want, or, in a virtual machine, a host that did not run the virtual CPU: then \
              several CPUs are told at once, and nothing is wrong in the guest.",
        steps: &[
            Look("grep -E '^cpu{cpu} ' /proc/stat", "the eighth number is time stolen by the hypervisor"),
            Look("ps -o pid,stat,psr,comm -p {pid}", "shows whether it runs still"),
            Do(
                "Read the call trace after it: the topmost functions are those that ran. In a virtual machine ask for the host's load first.",
            ),
        ],
        rules: &["cpu_steal", "scheduler_contention"],
        source: "kernel/watchdog.c",
        since: None,
    },
    Entry {
        id: "hard_lockup",
        title: "a CPU does not even take interrupts",
        patterns: &[
            "watchdog: CPU{_:n}: Watchdog detected hard LOCKUP on cpu {cpu:n}",
            "watchdog: Watchdog detected hard LOCKUP on cpu {cpu:n}",
            "NMI watchdog: Watchdog detected hard LOCKUP on cpu {cpu:n}",
        ],
        examples: &[
            "watchdog: CPU3: Watchdog detected hard LOCKUP on cpu 3",
            "NMI watchdog: Watchdog detected hard LOCKUP on cpu 0",
        ],
        meaning: "The timer interrupt of this CPU did not come for longer than kernel.watchdog_thresh (10 s): it ran with interrupts disabled all the time.",
        why: "A spin lock taken with interrupts off that is never released, a driver, firmware that holds the CPU (SMI), or a fault of the hardware.",
        steps: &[
            Do(
                "Keep the call trace after it: it shows where the CPU stood. Look for updates of the kernel, the driver in it, and the firmware.",
            ),
            Look("sysctl kernel.hardlockup_panic", "1 makes such a machine panic, so that kdump and a restart follow"),
        ],
        rules: &[],
        source: "kernel/watchdog.c",
        since: None,
    },
    Entry {
        id: "nmi_watchdog",
        title: "how the detector of hard lockups is set up",
        patterns: &[
            "NMI watchdog: Enabled. Permanently consumes one hw-PMU counter",
            "NMI watchdog: Perf NMI watchdog permanently disabled",
        ],
        examples: &["NMI watchdog: Enabled. Permanently consumes one hw-PMU counter."],
        meaning: "The detector uses a counter of the CPU's performance unit, or has none to use. It is no error.",
        why: "Virtual machines often have no such counter.",
        steps: &[Look("sysctl kernel.nmi_watchdog", "shows whether the detector is on")],
        rules: &[],
        source: "kernel/watchdog_perf.c",
        since: None,
    },
    Entry {
        id: "rcu_stall",
        title: "an RCU grace period does not end",
        patterns: &[
            "rcu: INFO: {flavour:w} self-detected stall on CPU",
            "rcu: INFO: {flavour:w} detected stalls on CPUs/tasks",
            "rcu: INFO: {flavour:w} detected expedited stalls on CPUs/tasks",
            "INFO: {flavour:w} detected stalls on tasks",
        ],
        examples: &[
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
            "rcu: INFO: rcu_preempt detected expedited stalls on CPUs/tasks: { 1-.... } 21 jiffies s: 193 root: 0x2/.",
        ],
        meaning: "A CPU or a task has not passed a quiescent state for long (21 s for normal grace periods as kernels come). What waits for RCU stands still, \
                  and memory that is to be freed after it piles up.",
        why: "A CPU loops in the kernel, a real-time task takes a CPU for itself, or the host of a virtual machine does not run the virtual CPU.",
        steps: &[
            Do("Read the stack traces after it. Lines with `(detected by` name who found it, not who causes it."),
            Look(
                "ps -eLo pid,cls,rtprio,psr,comm | awk '$2 ~ /FF|RR/'",
                "lists real-time tasks, which may starve all others on a CPU",
            ),
        ],
        rules: &["cpu_steal", "scheduler_contention"],
        source: "kernel/rcu/tree_stall.h",
        since: None,
    },
    Entry {
        id: "rcu_starved",
        title: "the thread that drives RCU does not get a CPU",
        patterns: &["rcu: {thread:w} kthread starved for {jiffies:n} jiffies!"],
        examples: &[
            "rcu: rcu_preempt kthread starved for 5002 jiffies! g8441 f0x0 RCU_GP_WAIT_FQS(5) ->state=0x0 ->cpu=1",
        ],
        meaning: "The stall of RCU is because its own thread was not run, not because a reader did not end.",
        why: "Real-time tasks use the CPU fully, or a timer did not fire (virtual machines that were paused).",
        steps: &[Look("ps -eLo pid,cls,rtprio,psr,comm | awk '$2 ~ /FF|RR/'", "lists real-time tasks")],
        rules: &["scheduler_contention", "cpu_steal"],
        source: "kernel/rcu/tree_stall.h",
        since: None,
    },
    Entry {
        id: "workqueue_lockup",
        title: "a pool of kernel workers makes no progress",
        patterns: &["BUG: workqueue lockup - pool cpus={cpus:w} node={node:n} {_} stuck for {seconds:n}s!"],
        examples: &["BUG: workqueue lockup - pool cpus=1 node=0 flags=0x0 nice=0 stuck for 48s!"],
        meaning: "Work that is due on these CPUs was not begun for so long. What follows names the work items that are pending and in flight.",
        why: "A work item runs without sleeping, a real-time task keeps workers from running, or memory is too short to create workers.",
        steps: &[
            Do(
                "In `Showing busy workqueues` after it, `in-flight` names the function that runs and `pending` those that wait.",
            ),
            Look("ps -eLo pid,cls,rtprio,psr,comm | awk '$2 ~ /FF|RR/'", "lists real-time tasks"),
        ],
        rules: &["scheduler_contention"],
        source: "kernel/workqueue.c",
        since: None,
    },
    Entry {
        id: "workqueue_hogged",
        title: "a work item of the kernel used a CPU for long",
        patterns: &["workqueue: {function:w} hogged CPU for >{us:n}us {times:n} times"],
        examples: &[
            "workqueue: drm_fb_helper_damage_work hogged CPU for >10000us 4 times, consider switching to WQ_UNBOUND",
        ],
        meaning: "The function ran longer than workqueue.cpu_intensive_thresh_us in one go, that often. It is advice for developers, no failure.",
        why: "The function does much work, or its hardware is slow; other work on this CPU waits meanwhile.",
        steps: &[Do(
            "If the machine is well, ignore it. If latency matters, tell whoever maintains the driver that has the function.",
        )],
        rules: &[],
        source: "kernel/workqueue.c",
        since: Some("6.5"),
    },
    Entry {
        id: "rt_throttling",
        title: "real-time tasks were held back",
        patterns: &["sched: RT throttling activated"],
        examples: &["sched: RT throttling activated"],
        meaning: "Real-time tasks used all that kernel.sched_rt_runtime_us allows (95 % of each second), so that others could run. It is told once since boot.",
        why: "A task with policy FIFO or RR loops without sleeping.",
        steps: &[
            Look(
                "ps -eLo pid,cls,rtprio,pcpu,psr,comm | awk '$2 ~ /FF|RR/'",
                "lists real-time tasks and what they use",
            ),
            Look("sysctl kernel.sched_rt_runtime_us kernel.sched_rt_period_us", "shows the limit"),
        ],
        rules: &["scheduler_contention"],
        source: "kernel/sched/rt.c",
        since: None,
    },
];
