//! Converts version 1 of the saved form to version 2.

use serde_json::{Map, Value, json};

use crate::{IoLimitKind, errno};

/// The version of kerno that saved windows of version 1.
const KERNO: &str = "0.1.0";

/// Leaves values of the wrong form as they are, since reading reports them.
pub(super) fn migrate(window: &mut Value) {
    let Some(window) = window.as_object_mut() else { return };
    if let Some(span) = window.remove("window") {
        window.insert("span".into(), span);
    }
    window.entry("kerno_version").or_insert_with(|| KERNO.into());
    let processes = window.get("processes").and_then(Value::as_object).cloned().unwrap_or_default();
    let name = |pid: &Value| processes.get(&pid.to_string()).and_then(|process| process.get("comm")).cloned();
    for_each(window, "sched_delay", "waiters", |waiter| {
        records(waiter, "held_by", |record| match record {
            [pid, comm, waits] => Some(json!({"pid": pid, "comm": comm, "waits": waits})),
            _ => None,
        });
    });
    for_each(window, "tcp_monitor", "peers", |peer| {
        records(peer, "owners", |record| match record {
            [pid, connections] => Some(json!({"pid": pid, "connections": connections})),
            _ => None,
        });
    });
    for_each(window, "oom_track", "kills", |kill| {
        records(kill, "largest", |record| match record {
            [pid, comm, bytes] => Some(json!({"pid": pid, "comm": comm, "bytes": bytes})),
            _ => None,
        });
    });
    for_each(window, "oom_track", "cgroups", |cgroup| {
        records(cgroup, "largest", |record| match record {
            [pid, bytes] => Some(json!({"pid": pid, "comm": name(pid).unwrap_or_else(|| "".into()), "bytes": bytes})),
            _ => None,
        });
    });
    for_each(window, "disk_io", "throttled", io_limits);
    for_each(window, "file_audit", "processes", |process| {
        let number = process.get("last_error").and_then(Value::as_str).and_then(errno::number);
        process.insert("last_errno".into(), number.unwrap_or(0).into());
    });
}

/// Calls `change` for each entry of a list in a part.
fn for_each(window: &mut Map<String, Value>, part: &str, list: &str, change: impl Fn(&mut Map<String, Value>)) {
    let list = window.get_mut(part).and_then(|part| part.get_mut(list)).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut).for_each(change);
}

/// Turns arrays that stood for records into objects.
fn records(entry: &mut Map<String, Value>, field: &str, named: impl Fn(&[Value]) -> Option<Value>) {
    for record in entry.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(object) = record.as_array().and_then(|record| named(record)) {
            *record = object;
        }
    }
}

/// `"rbps=1048576"` and `"rbps"`, as the kernel words them.
fn io_limits(cgroup: &mut Map<String, Value>) {
    for limit in cgroup.get_mut("limits").and_then(Value::as_array_mut).into_iter().flatten() {
        let pair = limit.as_str().and_then(|text| text.split_once('='));
        let named = pair.and_then(|(key, number)| Some((IoLimitKind::from_key(key), number.parse::<u64>().ok()?)));
        if let Some((kind, per_second)) = named {
            *limit = json!({"kind": kind.name(), "per_second": per_second});
        }
    }
    if let Some(tightest) = cgroup.get_mut("tightest")
        && let Some(key) = tightest.as_str()
    {
        *tightest = IoLimitKind::from_key(key).name().into();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::saved::read_window;
    use crate::{ConnectionOwner, CpuHolder, IoLimit, IoLimitKind, KillScope, MemoryHolder, SCHEMA_VERSION, errno};

    #[test]
    fn arrays_and_words_become_records() {
        let old = json!({
            "schema_version": 1,
            "window": {"started_unix": 1.0e9, "started_ns": 5, "seconds": 10.0, "samples": 3},
            "sched_delay": {"waiters": [{"pid": 1, "held_by": [[7, "hog", 12]]}]},
            "tcp_monitor": {"peers": [{"remote": "10.0.0.1", "owners": [[8, 3]]}]},
            "oom_track": {
                "kills": [{"pid": 9, "scope": "cgroup", "largest": [[9, "glutton", 4096]]}],
                "cgroups": [{"path": "/a", "largest": [[9, 4096], [10, 1]]}],
            },
            "disk_io": {"throttled": [{"limits": ["rbps=1048576", "wiops=120"], "tightest": "wiops"}]},
            "file_audit": {"processes": [{"pid": 1, "last_error": "EACCES"}, {"pid": 2, "last_error": ""}]},
            "processes": {"9": {"pid": 9, "comm": "glutton"}},
        });
        let window = read_window(old.to_string().as_bytes()).unwrap();
        assert_eq!((window.schema_version, window.kerno_version.as_str()), (SCHEMA_VERSION, "0.1.0"));
        assert_eq!((window.span.seconds, window.span.samples), (10.0, 3));
        let sched = window.sched_delay.unwrap();
        assert_eq!(sched.waiters[0].held_by, [CpuHolder { pid: 7, comm: "hog".into(), waits: 12 }]);
        let tcp = window.tcp_monitor.unwrap();
        assert_eq!(tcp.peers[0].owners, [ConnectionOwner { pid: 8, connections: 3, open: None }]);
        let oom = window.oom_track.unwrap();
        let holder = |pid, comm: &str, bytes| MemoryHolder { pid, comm: comm.into(), bytes };
        assert_eq!(
            (oom.kills[0].scope, &oom.kills[0].largest[..]),
            (KillScope::Cgroup, &[holder(9, "glutton", 4096)][..])
        );
        assert_eq!(oom.cgroups[0].largest, [holder(9, "glutton", 4096), holder(10, "", 1)]);
        let limited = &window.disk_io.unwrap().throttled[0];
        assert_eq!(limited.tightest, IoLimitKind::WriteRequests);
        let limit = |kind, per_second| IoLimit { kind, per_second };
        assert_eq!(limited.limits, [limit(IoLimitKind::ReadBytes, 1 << 20), limit(IoLimitKind::WriteRequests, 120)]);
        let files = window.file_audit.unwrap();
        assert_eq!((files.processes[0].last_errno, files.processes[1].last_errno), (errno::EACCES, 0));
    }
}
