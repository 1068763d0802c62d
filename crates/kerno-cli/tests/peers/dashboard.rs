//! The dashboard for Grafana, with what a real Prometheus has of a real `kerno start`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::component::component;
use crate::daemon::{Daemon, Leak, config, directory, until};
use crate::prometheus::{asked, prometheus};
use crate::support::alone;

/// Numbers that a machine may not have: of limits of cgroups, faults, and what was not set up.
const MAY_BE_ABSENT: [&str; 10] = [
    "kerno_cgroup_",
    "kerno_unit_",
    "kerno_alert_",
    "kerno_otlp_",
    "kerno_signal_missing",
    "kerno_signal_lost_total",
    "kerno_disk_",
    "kerno_tcp_",
    "kerno_cost_kernel_utilization_ratio",
    "kerno_syscall_errors_total",
];

/// Each expression with the panel that it is of.
fn expressions() -> Vec<(String, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/grafana/kerno.json");
    let dashboard: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let mut expressions = Vec::new();
    let mut add = |title: &Value, expression: &Value| {
        expressions.push((title.as_str().unwrap().to_owned(), expression.as_str().unwrap().to_owned()));
    };
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap_or(&Vec::new()) {
            add(&panel["title"], &target["expr"]);
        }
    }
    for annotation in dashboard["annotations"]["list"].as_array().unwrap() {
        add(&annotation["name"], &annotation["expr"]);
    }
    expressions
}

/// The series of an expression, as Grafana asks for them.
fn series(port: u16, expression: &str) -> usize {
    let filled = expression.replace("$instance", ".*").replace("$__rate_interval", "10s");
    assert!(!filled.contains('$'), "{filled}");
    let escaped: String = filled.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let data = asked(port, &format!("/api/v1/query?query={escaped}"));
    data["result"].as_array().unwrap_or_else(|| panic!("Prometheus refuses: {filled}")).len()
}

fn is_shown(program: &str) {
    let _alone = alone();
    let directory = directory();
    let file = config(
        &directory,
        "[[objective]]\nname = 'room'\nmetric = 'kerno_memory_available_bytes'\nabove = '1MiB'\nshare = '99 %'\n",
    );
    let daemon = Daemon::start(&directory, &["--config", &file]);
    let data = tempfile::tempdir().unwrap();
    let (_server, port) = prometheus(&component(program), &daemon, data.path());
    // For the panels of incidents and descriptors.
    let _leak = Leak::start();
    let all = expressions();
    let must_be: Vec<_> =
        all.iter().filter(|(_, expr)| !MAY_BE_ABSENT.iter().any(|absent| expr.contains(absent))).collect();
    assert!(must_be.len() > 30, "{}", must_be.len());
    for (panel, expression) in must_be {
        until(&format!("{panel}: no data for {expression}"), || (series(port, expression) > 0).then_some(()));
    }
    // The others are understood, and most have data too.
    let empty: BTreeSet<_> = all
        .iter()
        .filter(|(_, expr)| series(port, expr) == 0)
        .map(|(panel, expr)| format!("{panel}: {expr}"))
        .collect();
    println!("without data here: {empty:#?}");
    assert!(empty.len() < all.len() / 3, "{empty:#?}");
    daemon.stop();
}

#[test]
fn prometheus_2_has_what_the_dashboard_shows() {
    is_shown("prometheus/usr/bin/prometheus");
}

#[test]
fn prometheus_3_has_what_the_dashboard_shows() {
    is_shown("prometheus-sid/usr/bin/prometheus");
}
