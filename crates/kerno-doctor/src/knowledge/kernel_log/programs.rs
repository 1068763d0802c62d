//! Faults of programs, and what programs are refused.

use super::entry::Entry;
use super::entry::Step::{Change, Do, Look};

pub(super) const TABLE: &[Entry] = &[
    Entry {
        id: "segfault",
        title: "a program used memory that it does not have",
        patterns: &["{process}[{pid:n}]: segfault at {address:x} ip {ip:x} sp {sp:x} error {error:x}"],
        examples: &[
            "nginx[2214]: segfault at 0 ip 000055d2a4c3a1b2 sp 00007ffd3c5e0a10 error 4 in nginx[55d2a4c00000+e2000] likely on CPU 1 (core 1, socket 0)",
        ],
        meaning: "The program gets SIGSEGV, which ends it unless it handles the signal. Bits of `error`: 1 the page was there but not allowed, 2 a write, 4 from user space, \
                  16 (10 in hexadecimal) a fetch of an instruction. An address near 0 is a null pointer.",
        why: "A fault in the program or in a library (after `in` stands which file), a stack that overflowed, or, if many different programs do it, faulty memory.",
        steps: &[
            Look("coredumpctl info {pid}", "shows the stack, where systemd-coredump keeps core dumps"),
            Look("journalctl _PID={pid}", "shows what the program said before"),
        ],
        rules: &[],
        source: "arch/x86/mm/fault.c",
        since: None,
    },
    Entry {
        id: "trap",
        title: "a program did what the CPU does not allow",
        patterns: &[
            "traps: {process}[{pid:n}] general protection fault ip:{ip:x} sp:{sp:x} error:{error:x}",
            "traps: {process}[{pid:n}] trap {trap} ip:{ip:x} sp:{sp:x} error:{error:x}",
        ],
        examples: &[
            "traps: chrome[4411] trap int3 ip:55b1a6dfb3c5 sp:7ffe9d0d9a50 error:0 in chrome[55b1a2b7c000+a2d5000]",
            "traps: python3[900] general protection fault ip:7f1f5b7a3c1d sp:7ffc8e1b7e58 error:0 in libc.so.6[7f1f5b626000+155000]",
            "traps: app[77] trap invalid opcode ip:401136 sp:7ffd5c0f3a40 error:0 in app[401000+1000]",
        ],
        meaning: "The program gets a signal that ends it unless it handles it: SIGSEGV for a general protection fault, SIGILL for an invalid opcode, SIGFPE for a divide error, \
                  SIGTRAP for int3.",
        why: "Invalid opcode: built for a newer CPU than this, or abort() by way of an instruction (ud2). int3: an assertion of the program. General protection: a wild pointer.",
        steps: &[
            Look("coredumpctl info {pid}", "shows the stack, where systemd-coredump keeps core dumps"),
            Look("journalctl _PID={pid}", "shows what the program said before"),
            Look("lscpu", "shows what the CPU can, to compare with what an invalid opcode needs"),
        ],
        rules: &[],
        source: "arch/x86/kernel/traps.c",
        since: None,
    },
    Entry {
        id: "split_lock",
        title: "a program's atomic access crosses a cache line",
        patterns: &["x86/split lock detection: #AC: {process}/{pid:n} took a split_lock trap at address: {address:x}"],
        examples: &[
            "x86/split lock detection: #AC: CPU 0/KVM/88279 took a split_lock trap at address: 0xfffff80104613be8",
        ],
        meaning: "An atomic instruction works on data in two cache lines, which locks the bus for the whole machine. With kernel.split_lock_mitigate=1 the \
                  kernel makes the program slow, so that others are not.",
        why: "Data of the program, or of a virtual machine's guest, that is not aligned.",
        steps: &[
            Look("sysctl kernel.split_lock_mitigate", "1: programs that do this are slowed down"),
            Do(
                "Have the program fixed. Switching the mitigation off makes this program fast and everybody else slower.",
            ),
        ],
        rules: &[],
        source: "arch/x86/kernel/cpu/bus_lock.c, intel.c",
        since: None,
    },
    Entry {
        id: "pids_limit",
        title: "a cgroup has as many tasks as it may have",
        patterns: &["cgroup: fork rejected by pids controller in {cgroup:w}"],
        examples: &["cgroup: fork rejected by pids controller in /system.slice/docker-4b1d.scope"],
        meaning: "A fork or clone in this cgroup failed with EAGAIN, because pids.max is reached there or above. It is told once for each cgroup.",
        why: "The limit (TasksMax of a systemd unit, --pids-limit of a container) is low, or processes or threads are created and never end.",
        steps: &[
            Look(
                "grep -s . /sys/fs/cgroup{cgroup}/pids.* /sys/fs/cgroup/pids{cgroup}/pids.*",
                "shows the limit, how many tasks there are, and how often the limit was met (cgroup v2 or v1)",
            ),
            Do("If the number grows without end, look for the leak of threads; else raise TasksMax= or --pids-limit."),
        ],
        rules: &["limit_reached", "syscall_error_rate"],
        source: "kernel/cgroup/pids.c",
        since: None,
    },
    Entry {
        id: "file_max",
        title: "the machine has as many open files as it may have",
        patterns: &["VFS: file-max limit {limit:n} reached"],
        examples: &["VFS: file-max limit 100000 reached"],
        meaning: "Opening a file or a socket failed with ENFILE, for all but root.",
        why: "A process leaks descriptors, or fs.file-max is too low for this machine.",
        steps: &[
            Look("cat /proc/sys/fs/file-nr", "shows how many there are, and the limit"),
            Change("sysctl fs.file-max=1000000", "raises the limit until the next boot"),
        ],
        rules: &["fd_exhaustion", "limit_reached", "fd_leak"],
        source: "fs/file_table.c",
        since: None,
    },
    Entry {
        id: "core_pipe",
        title: "a core dump could not be written to the program that takes it",
        patterns: &["coredump: {pid:n}({process}): {what}"],
        examples: &["coredump: 412(worker): over core_pipe_limit, skipping core dump"],
        meaning: "A process crashed, and its core dump was left out or cut for the reason given.",
        why: "kernel.core_pattern names a program that is missing or busy, or more crash at once than kernel.core_pipe_limit allows.",
        steps: &[Look("sysctl kernel.core_pattern kernel.core_pipe_limit", "shows where core dumps go")],
        rules: &[],
        source: "fs/coredump.c",
        since: None,
    },
    Entry {
        id: "seccomp",
        title: "a program made a system call that its filter forbids",
        patterns: &[
            "audit: type=1326 audit({_}): {_} pid={pid:n} comm={process:w} exe={exe:w} sig={signal:n} arch={arch:x} syscall={call:n}",
        ],
        examples: &[
            "audit: type=1326 audit(1700000000.123:42): auid=1000 uid=1000 gid=1000 ses=2 subj=unconfined pid=4711 comm=\"app\" exe=\"/usr/bin/app\" sig=31 arch=c000003e syscall=165 compat=0 ip=0x7f code=0x80000000",
        ],
        meaning: "The seccomp filter of the process met this system call. With sig=31 (SIGSYS) it is killed; with sig=0 the call failed or was only logged.",
        why: "The filter of a container or a sandbox does not know a call that a newer library makes, or the program does what it should not.",
        steps: &[
            Look("ausyscall {call}", "names the system call (of this architecture)"),
            Look("grep Seccomp /proc/{pid}/status", "2: it has a filter"),
        ],
        rules: &["syscall_error_rate"],
        source: "kernel/auditsc.c",
        since: None,
    },
    Entry {
        id: "apparmor_denied",
        title: "AppArmor refused an access",
        patterns: &["audit: type=1400 audit({_}): apparmor=\"DENIED\" operation=\"{operation}\""],
        examples: &[
            "audit: type=1400 audit(1700000000.123:42): apparmor=\"DENIED\" operation=\"open\" class=\"file\" profile=\"mysqld\" name=\"/data/x\" pid=812 comm=\"mysqld\" requested_mask=\"r\" denied_mask=\"r\"",
        ],
        meaning: "The process has a profile, and the profile does not allow this. The call failed with EACCES or EPERM, whatever the file's permissions say.",
        why: "Data was moved to where the profile does not expect it, or the program does what it should not.",
        steps: &[
            Look("aa-status", "shows the profiles and which are enforced"),
            Do(
                "Add a rule for the path in /etc/apparmor.d/local/ and load it with apparmor_parser -r, if the access is right.",
            ),
        ],
        rules: &["syscall_error_rate"],
        source: "security/apparmor/audit.c",
        since: None,
    },
    Entry {
        id: "selinux_denied",
        title: "SELinux refused an access",
        patterns: &["audit: type=1400 audit({_}): avc:  denied"],
        examples: &[
            "audit: type=1400 audit(1700000000.123:42): avc:  denied  { read } for  pid=812 comm=\"httpd\" name=\"x\" dev=\"dm-0\" ino=131 scontext=system_u:system_r:httpd_t:s0 tcontext=system_u:object_r:default_t:s0 tclass=file permissive=0",
        ],
        meaning: "The policy does not allow the process's context this access to the target's context. With permissive=0 the call failed with EACCES.",
        why: "A file has the wrong label, often because it was moved, or a boolean of the policy is off.",
        steps: &[
            Look("ausearch -m avc -ts recent", "lists what was refused lately"),
            Do("Put labels right with restorecon, or set the boolean that audit2why names."),
        ],
        rules: &["syscall_error_rate"],
        source: "security/selinux/avc.c",
        since: None,
    },
    Entry {
        id: "audit_backlog",
        title: "records of the audit system wait, or are lost",
        patterns: &[
            "audit: backlog limit exceeded",
            "audit: audit_backlog={backlog:n} > audit_backlog_limit={limit:n}",
            "audit: kauditd hold queue overflow",
        ],
        examples: &[
            "audit: backlog limit exceeded",
            "audit: audit_backlog=65 > audit_backlog_limit=64",
            "audit: kauditd hold queue overflow",
        ],
        meaning: "More audit records wait for auditd than may wait. Processes that make records are held up for audit_backlog_wait_time, then records are lost.",
        why: "auditd does not read (stopped, or its disk is slow), or the rules match very much.",
        steps: &[
            Look("auditctl -s", "shows backlog, limit and how many were lost"),
            Change("auditctl -b 8192", "lets more wait, until the next boot"),
            Do("Look which rule matches most (aureport --key), and narrow it."),
        ],
        rules: &["blocked_tasks"],
        source: "kernel/audit.c",
        since: None,
    },
    Entry {
        id: "lockdown",
        title: "lockdown forbids something, also to root",
        patterns: &["Lockdown: {process}: {what} is restricted; see man kernel_lockdown.7"],
        examples: &["Lockdown: perf: use of bpf to read kernel RAM is restricted; see man kernel_lockdown.7"],
        meaning: "The kernel is locked down, usually because Secure Boot is on, and refused this with EPERM.",
        why: "In mode integrity what could change the kernel is refused; in mode confidentiality also what could read it, and with it much of eBPF tracing.",
        steps: &[Look("cat /sys/kernel/security/lockdown", "shows the mode in brackets")],
        rules: &["syscall_error_rate"],
        source: "security/lockdown/lockdown.c",
        since: None,
    },
];
