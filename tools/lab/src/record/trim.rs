//! Leaving out what a case is not about. It goes by the form of what is saved, not by its types: a list of a signal that is new is cut as well.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::{Map, Value};

use super::Ours;

/// One thing to leave out.
pub(super) struct Step {
    pub(super) what: &'static str,
    pub(super) only_if_too_large: bool,
    pub(super) cut: fn(&mut Value, &Ours),
}

/// In their order.
pub(super) const STEPS: &[Step] = &[
    Step { what: "what others did", only_if_too_large: false, cut: others },
    Step { what: "file systems, devices and addresses of others", only_if_too_large: false, cut: places },
    Step { what: "processes that nothing names", only_if_too_large: false, cut: unnamed },
    Step { what: "system calls of others", only_if_too_large: true, cut: |value, ours| calls(value, ours, 8) },
    Step { what: "system calls that nothing names", only_if_too_large: true, cut: |value, ours| calls(value, ours, 0) },
    Step { what: "waits by CPU", only_if_too_large: true, cut: |value, _| waits_by_cpu(value) },
];

/// A process's id.
fn pid(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|pid| u32::try_from(pid).ok())
}

fn pids_in(list: Option<&Value>) -> Option<Vec<u32>> {
    Some(list?.as_array()?.iter().filter_map(pid).collect())
}

/// Calls `visit` for each object, with the key that it, or the list it is in, has.
fn objects(value: &Value, key: &str, visit: &mut impl FnMut(&str, &Map<String, Value>)) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| objects(value, key, visit)),
        Value::Object(map) => {
            visit(key, map);
            map.iter().for_each(|(key, value)| objects(value, key, visit));
        }
        _ => {}
    }
}

/// The processes that it names, other than in the table of processes.
pub(super) fn pids(window: &Value) -> BTreeSet<u32> {
    let mut named = BTreeSet::new();
    for (part, value) in window.as_object().into_iter().flatten().filter(|(part, _)| *part != "processes") {
        objects(value, part, &mut |_, map| {
            for (key, value) in map {
                if key == "pid" || key.ends_with("_pid") {
                    named.extend(pid(value));
                } else if key == "pids" {
                    named.extend(pids_in(Some(value)).unwrap_or_default());
                }
            }
        });
    }
    named
}

/// The names that these processes have anywhere.
pub(super) fn comms(window: &Value, of: &BTreeSet<u32>, into: &mut BTreeSet<String>) {
    objects(window, "", &mut |_, map| {
        let is_of = who(map).is_some_and(|pids| pids.iter().any(|pid| of.contains(pid)));
        if let Some(comm) = map.get("comm").and_then(Value::as_str).filter(|_| is_of) {
            into.insert(comm.to_owned());
        }
    });
}

/// The processes that a thing in a list is about: it has a name, and an id or several. A program is its starter's.
pub(super) fn who(map: &Map<String, Value>) -> Option<Vec<u32>> {
    if map.contains_key("starter_comm") {
        return map.get("starter_pid").and_then(pid).map(|pid| vec![pid]);
    }
    map.get("comm")?;
    map.get("pid").and_then(pid).map(|pid| vec![pid]).or_else(|| pids_in(map.get("pids")))
}

/// Keeps of all lists what `keep` says of the objects in them.
fn retain(value: &mut Value, key: &str, keep: &impl Fn(&str, &Map<String, Value>) -> bool) {
    match value {
        Value::Array(list) => {
            list.retain(|value| value.as_object().is_none_or(|map| keep(key, map)));
            list.iter_mut().for_each(|value| retain(value, key, keep));
        }
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| retain(value, key, keep)),
        _ => {}
    }
}

fn others(window: &mut Value, ours: &Ours) {
    retain(window, "", &|_, map| who(map).is_none_or(|pids| pids.iter().any(|pid| ours.matters(*pid))));
}

/// Whether an address is one that the lab uses: of a loopback, or of its networks.
pub(super) fn is_of_the_lab(address: &str) -> bool {
    let ip = address.parse::<IpAddr>().map(|ip| ip.to_canonical());
    ip.is_ok_and(|ip| ip.is_loopback() || ip.to_string().starts_with("10.213."))
}

fn places(window: &mut Value, ours: &Ours) {
    let text = |map: &Map<String, Value>, key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
    retain(window, "", &|key, map| match key {
        "filesystems" => text(map, "mount").is_none_or(|mount| mount == "/" || ours.is_named(&mount)),
        "peers" => {
            let owners = map.get("owners").and_then(Value::as_array).into_iter().flatten();
            let mut owners = owners.filter_map(|owner| owner.get("pid").and_then(pid));
            let address = text(map, "remote").unwrap_or_default();
            ours.is_named(&address) || is_of_the_lab(&address) || owners.any(|pid| ours.is_own(pid))
        }
        // Limits of cgroups, of memory, I/O and CPUs.
        "cgroups" | "throttled" => text(map, "path").is_none_or(|path| ours.is_named(&path)),
        _ => true,
    });
    let devices = window.pointer_mut("/disk_io/devices").and_then(Value::as_array_mut);
    for mounts in devices.into_iter().flatten().filter_map(|device| device.get_mut("mounts")?.as_array_mut()) {
        mounts.retain(|mount| mount.as_str().is_some_and(|mount| mount == "/" || ours.is_named(mount)));
    }
}

fn unnamed(window: &mut Value, ours: &Ours) {
    let named = pids(window);
    if let Some(processes) = window.get_mut("processes").and_then(Value::as_object_mut) {
        processes.retain(|_, process| {
            let pid = process.get("pid").and_then(pid);
            pid.is_none_or(|pid| ours.found.contains(&pid) || (named.contains(&pid) && ours.is_own(pid)))
        });
    }
}

/// Keeps the calls that something else names, and so many of the most frequent others.
fn calls(window: &mut Value, ours: &Ours, others: usize) {
    let offenders = window.pointer("/syscall_latency/offenders").and_then(Value::as_array);
    let mut named: BTreeSet<String> =
        offenders.into_iter().flatten().filter_map(|call| call.get("name")?.as_str().map(str::to_owned)).collect();
    named.extend(ours.names.iter().cloned());
    let Some(list) = window.pointer_mut("/syscall_latency/syscalls").and_then(Value::as_array_mut) else { return };
    let count = |call: &Value| call.get("calls").and_then(Value::as_u64).unwrap_or(0);
    let is_named = |call: &Value| call.get("name").and_then(Value::as_str).is_some_and(|name| named.contains(name));
    let mut frequent: Vec<u64> = list.iter().filter(|call| !is_named(call)).map(count).collect();
    frequent.sort_unstable_by(|a, b| b.cmp(a));
    let least = others.checked_sub(1).and_then(|last| frequent.get(last).or(frequent.last())).copied();
    list.retain(|call| is_named(call) || least.is_some_and(|least| count(call) >= least));
}

/// The same waits are in the histograms of all CPUs together.
fn waits_by_cpu(window: &mut Value) {
    let cpus = window.pointer_mut("/sched_delay/cpus").and_then(Value::as_array_mut);
    for histogram in cpus.into_iter().flatten().filter_map(|cpu| cpu.get_mut("delay_ns")?.as_array_mut()) {
        histogram.clear();
    }
}
