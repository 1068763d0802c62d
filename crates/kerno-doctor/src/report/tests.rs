use super::*;
use kerno_model::{Container, Course, IncidentId, Safety, SummaryLoss, Unit, fill};

/// A machine on which one process floods a disk that a database waits for, and another process leaks sockets.
pub(super) fn report() -> Report {
    let mut dd = Culprit {
        pid: Some(4711),
        process: Some("dd".into()),
        cmdline: Some(
            "dd if=/dev/zero of=/var/lib/backup/nightly.img bs=1M count=100000 oflag=append conv=notrunc".into(),
        ),
        user: Some("backup".into()),
        cgroup: Some("/system.slice/nightly-backup.service".into()),
        unit: Some("nightly-backup.service".into()),
        ..Culprit::default()
    };
    dd.device = Some("nvme0n1".into());
    let postgres = Culprit {
        pid: Some(912),
        process: Some("postgres".into()),
        user: Some("postgres".into()),
        unit: Some("postgresql@15-main.service".into()),
        ..Culprit::default()
    };
    let title = "postgres (912): fdatasync takes 412 ms at the 99th percentile";
    let mut slow = Diagnosis::made("syscall_latency_high", "syscall_latency", Severity::Critical, title).measured(
        "fdatasync took (p99)",
        412.0,
        Unit::Milliseconds,
        Some(100.0),
    );
    slow.culprit = postgres.clone();
    let title = "dd (4711) floods nvme0n1: 1.2 GiB written in 30 s, writes wait 380 ms for the device";
    let mut disk = Diagnosis::made("disk_io_bottleneck", "disk_io", Severity::Critical, title)
        .measured("write requests waited for the device and in its queue (p99)", 380.0, Unit::Milliseconds, Some(50.0))
        .measured("share of the time that the device was busy", 0.998, Unit::Ratio, Some(0.9))
        .measured("written by dd", 1_288_490_188.8, Unit::Bytes, None)
        .measured("share of all data written", 0.973, Unit::Ratio, None)
        .fix(Safety::ReadOnly, "pidstat -d -p 4711 1 5", "shows what dd writes, second by second")
        .fix(Safety::ReadOnly, "iostat -x nvme0n1 1 5", "shows how busy the device is")
        .fix(Safety::Changing, "ionice -c 3 -p 4711", "lets dd write only when nothing else does (bfq scheduler)")
        .fix(Safety::Changing, "systemctl stop nightly-backup.service", "ends the backup");
    disk.culprit = dd;
    disk.cause =
        "dd makes pages dirty faster than the device can write them. A program that syncs its own data waits behind them."
            .into();
    disk.impact = "Everyone who reads from or syncs to nvme0n1 waits.".into();
    disk.since = Some(4.2);
    disk.excess = 7.6;
    disk.exemplars = vec![Exemplar { seconds: 9.312, what: "a write of 512 KiB took 1.1 s".into() }];
    disk.victims = vec![postgres];
    disk.chain = vec![
        Step { seconds: 4.2, what: disk.title.clone() },
        Step { seconds: 5.9, what: "postgres (912): its file and sync calls wait for the device".into() },
    ];
    disk.consequences = vec![slow];

    let title = "api\x1b[31m-server (2202) leaks sockets: 12/s, limit of 1,024 reached in 40 s";
    let mut leak = Diagnosis::made("fd_leak", "fd_track", Severity::Warning, title)
        .measured("growth of open file descriptors", 12.0, Unit::PerSecond, Some(1.0))
        .fix(
            Safety::ReadOnly,
            "ls -l /proc/2202/fd | awk '{print $NF}' | sort | uniq -c | sort -n",
            "shows what is open",
        )
        .fix(Safety::Changing, "systemctl restart 'api`server`'", "frees them, until it leaks again");
    leak.culprit = Culprit {
        pid: Some(2202),
        process: Some("api\x1b[31m-server".into()),
        container: Some(Container {
            runtime: "containerd".into(),
            id: "5f2d1a8c0b9e7d6f4a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f".into(),
            pod_uid: Some("2b8d9f10-6c1e-4a2f-9a53-0d5c1f7e8b42".into()),
            ..Container::default()
        }),
        ..Culprit::default()
    };
    leak.eta = Some(Eta { seconds: 40.0, at_unix_ns: None, what: "any open fails with EMFILE".into(), fit: 0.997 });
    let window = fill!(Window {
        host: fill!(HostFacts {
            hostname: "db-3".into(),
            boot_id: String::new(),
            kernel: "6.18.44".into(),
            machine: "x86_64".into(),
            os: "Debian GNU/Linux 12 (bookworm)".into(),
            cpus: 8,
            memory_bytes: 33_500_000_000,
            virtualization: Some("kvm".into()),
            cloud: Some("Amazon EC2".into()),
            container: None,
            kubernetes: true,
            uptime_seconds: 1_051_200.0,
        }),
        span: fill!(Span { started_unix: 1_795_362_894.5, started_ns: 1, seconds: 30.01, samples: 25 }),
        missing: vec![fill!(Missing {
            signal: "sched_delay".into(),
            what: "pressure".into(),
            reason: "the kernel keeps no pressure figures (CONFIG_PSI is off, or psi=0)".into(),
        })],
        cost: fill!(CostOfObserving {
            cpu_seconds: 0.11,
            resident_bytes: 22 << 20,
            loss: [("disk_io".to_owned(), SummaryLoss { overflow: 1_203, ..SummaryLoss::default() })].into(),
        }),
        disk_io: Some(kerno_model::DiskSummary::default()),
        fd_track: Some(kerno_model::FdSummary::default()),
    });
    Report::with(&window, vec![disk, leak])
}

fn healthy() -> Report {
    let mut report = report();
    report.findings.clear();
    report.healthy = true;
    report
}

fn plain(width: usize) -> TextStyle {
    TextStyle { width, color: false }
}

#[test]
fn time_that_was_not_watched_is_told_of() {
    let mut report = report();
    assert!(text(&report, &plain(100)).contains("watched 30 s\n"));
    report.window.unwatched_seconds = 70.0;
    assert!(text(&report, &plain(100)).contains("watched 30 s of 1 min 40 s\n"));
    assert!(markdown(&report).contains("UTC, 30 s of 1 min 40 s\n"));
}

#[test]
fn text_fits_the_width_but_for_what_is_to_be_copied() {
    for width in [60, 80, 120] {
        for line in text(&report(), &plain(width)).lines() {
            let command = line.trim_start().starts_with(['$', '!']);
            assert!(command || textwrap::core::display_width(line) <= width, "{width}: {line}");
        }
    }
}

#[test]
fn text_tells_all_that_matters() {
    let shown = text(&report(), &plain(80));
    for needed in [
        "kerno 0.1.0 on db-3",
        "2026-11-22 15:54:54 UTC",
        "Linux 6.18.44 x86_64",
        "8 CPUs, 31.2 GiB memory, virtual (kvm, Amazon EC2), Kubernetes node",
        "0.367 % of one CPU, 22 MiB memory",
        "1,203 values did not fit",
        "CONFIG_PSI",
        "2 root causes in 30 s: 1 critical, 1 warning.",
        "CRITICAL",
        "dd (4711)",
        "nightly-backup.service",
        "15:54:58 UTC, 26 s before the end",
        "380 ms      50 ms",
        "1.2 GiB",
        "15:55:03.812",
        "postgres (912), user postgres, unit postgresql@15-main.service",
        "fdatasync took (p99): 412 ms (threshold 100 ms)",
        "$ iostat -x nvme0n1 1 5",
        "! ionice -c 3 -p 4711",
        "CHANGES the system",
        "in 40 s, at 15:56:04 UTC (trend fit\n           99.7 %)",
        "15:54:58.700  this began",
        "5f2d1a8c0b9e (containerd, pod",
    ] {
        assert!(shown.contains(needed), "{needed}\n{shown}");
    }
}

#[test]
fn nothing_from_the_machine_reaches_the_terminal_unescaped() {
    let shown = text(&report(), &plain(80));
    assert!(!shown.contains('\x1b') && shown.contains("api\\x1b[31m-server"));
    let coloured = text(&report(), &TextStyle { width: 80, color: true });
    assert!(coloured.contains("\x1b[1;31mCRITICAL\x1b[0m") && !coloured.contains("\x1b[31m"));
    let mut stripped = coloured;
    for sequence in ["[0m", "[1m", "[2m", "[1;31m", "[1;32m", "[1;33m", "[1;36m"] {
        stripped = stripped.replace(&format!("\x1b{sequence}"), "");
    }
    assert_eq!(stripped, shown, "colours change nothing else");
}

#[test]
fn a_healthy_machine_is_told_what_was_looked_at() {
    let shown = text(&healthy(), &plain(80));
    assert!(shown.contains("Healthy: nothing wrong found in 30 s.") && shown.contains("disk_io"), "{shown}");
    assert!(markdown(&healthy()).contains("Healthy"));
}

#[test]
fn markdown_keeps_untrusted_text_as_text() {
    let shown = markdown(&report());
    assert!(!shown.contains('\x1b'));
    assert!(shown.contains("``systemctl restart 'api`server`'``"), "{shown}");
    assert!(shown.contains("| written by dd | 1.2 GiB |  |"), "{shown}");
    assert!(shown.contains("### 1. CRITICAL: dd (4711) floods nvme0n1"), "{shown}");
}

#[test]
fn a_report_survives_json() {
    let report = report();
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}

#[test]
fn what_json_cannot_hold_does_not_get_in() {
    let mut finding = Finding::new(kerno_model::RuleId::new("fd_leak"), Severity::Info)
        .measured("a", f64::NAN, Unit::Count, None)
        .measured("b", 1.0, Unit::Count, Some(f64::INFINITY));
    finding.excess = f64::INFINITY;
    finding.eta = Some(kerno_model::Eta::new(kerno_model::Moment::default(), f64::INFINITY, 1.0));
    finding.consequences.push(finding.clone());
    let report = Report::new(&Window::default(), &[finding]);
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    assert_eq!(report.findings[0].evidence.len(), 1);
}

#[test]
fn the_worst_counts_wherever_it_is() {
    let mut report = report();
    assert_eq!((report.worst(), report.healthy), (Some(Severity::Critical), false));
    report.findings.clear();
    assert_eq!(report.worst(), None);
}

#[test]
fn what_changed_is_told() {
    let report = report();
    let change = |course, finding: &Diagnosis, before| Change {
        course,
        incident: IncidentId::default(),
        finding: finding.clone(),
        before,
    };
    let [disk, leak] = &report.findings[..] else { panic!("{report:?}") };
    let before = Before { severity: Severity::Critical, excess: 3.8 };
    let changes = [
        change(Course::Closed, leak, Some(before)),
        change(Course::Worse, disk, Some(before)),
        change(Course::Opened, &disk.consequences[0], None),
    ];
    let shown = changes_text(&changes, &plain(80));
    assert!(shown.starts_with("NEW") && shown.contains("RESOLVED") && !shown.contains('\x1b'), "{shown}");
    let words = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(words.contains("[was critical, 3.8x its threshold; now 7.6x]"), "{shown}");
}

/// Prints reports to look at: `cargo test -p kerno-doctor --lib report::tests::look -- --ignored --nocapture`.
#[test]
#[ignore = "prints, checks nothing"]
fn look() {
    for width in [60, 80, 120] {
        println!("{}\n{}\n", "=".repeat(width), text(&report(), &plain(width)));
    }
    println!(
        "{}\n{}",
        text(&healthy(), &TextStyle { width: 80, color: true }),
        text(&report(), &TextStyle { width: 80, color: true })
    );
    println!("{}", markdown(&report()));
}
