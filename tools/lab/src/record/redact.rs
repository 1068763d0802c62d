//! Replacing what tells of the machine on which something was recorded, and of whoever uses it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use kerno_doctor::corpus::{BOOT_ID, HOSTNAME};
use serde_json::{Map, Value};

use super::{Ours, trim};
use crate::scene::PREFIX;

/// Folders below which everything is the same on all machines, or has no names.
const PUBLIC: [&str; 9] = ["bin", "dev", "etc", "lib", "lib64", "proc", "sbin", "usr", "nbd"];
/// Names that paths of any machine have.
const USUAL: [&str; 15] = [
    "",
    ".",
    "..",
    "sys",
    "fs",
    "cgroup",
    "memory",
    "blkio",
    "cpu",
    "cpu,cpuacct",
    "cpuacct",
    "unified",
    "var",
    "tmp",
    "run",
];

/// Other names for names, the same for the same.
#[derive(Default)]
struct Aliases(BTreeMap<String, String>);

impl Aliases {
    fn of(&mut self, name: &str, alias: impl FnOnce(usize) -> String) -> String {
        let next = self.0.len() + 1;
        self.0.entry(name.to_owned()).or_insert_with(|| alias(next)).clone()
    }
}

struct Redactor<'a> {
    ours: &'a Ours,
    programs: Aliases,
    names: Aliases,
    addresses: Aliases,
}

/// The window with other names. Fails when something is left that tells.
pub(super) fn redacted(mut window: Value, ours: &Ours) -> Result<Value> {
    let telling = telling(&window);
    let mut redactor =
        Redactor { ours, programs: Aliases::default(), names: Aliases::default(), addresses: Aliases::default() };
    host(&mut window);
    redactor.value("", &mut window);
    let text = window.to_string();
    for (what, words) in telling {
        ensure!(!text.contains(&words), "{what} {words:?} is still in the window");
    }
    Ok(window)
}

/// What must not be there any more.
fn telling(window: &Value) -> Vec<(&'static str, String)> {
    let of_host =
        |key: &str| window.pointer(&format!("/host/{key}")).and_then(Value::as_str).unwrap_or_default().to_owned();
    let home = std::env::var("HOME").unwrap_or_default();
    let checkout = kerno_kit::workspace::root().display().to_string();
    let all = [("the boot's id", of_host("boot_id")), ("the home folder", home), ("the checkout", checkout)];
    // A name such as "vm" is in many words.
    all.into_iter().chain([("the host's name", of_host("hostname"))]).filter(|(_, words)| words.len() > 3).collect()
}

/// The machine itself: what rules may go by stays.
fn host(window: &mut Value) {
    let Some(host) = window.get_mut("host").and_then(Value::as_object_mut) else { return };
    host.insert("hostname".into(), HOSTNAME.into());
    host.insert("boot_id".into(), BOOT_ID.into());
    let kernel = host.get("kernel").and_then(Value::as_str).unwrap_or_default();
    let numbers: String = kernel.chars().take_while(|c| c.is_ascii_digit() || *c == '.').collect();
    host.insert("kernel".into(), numbers.into());
    for key in ["virtualization", "cloud", "container"] {
        host.insert(key.into(), Value::Null);
    }
}

impl Redactor<'_> {
    fn value(&mut self, key: &str, value: &mut Value) {
        match value {
            Value::Array(list) => list.iter_mut().for_each(|value| self.value(key, value)),
            Value::Object(map) => self.object(map),
            Value::String(text) => *text = self.text(key, text),
            _ => {}
        }
    }

    fn object(&mut self, map: &mut Map<String, Value>) {
        if let Some(pids) = trim::who(map)
            && let Some(Value::String(comm)) = map.get_mut("comm")
        {
            *comm = self.program(comm, &pids);
        }
        // The one who asked for memory, and the like.
        let pairs: Vec<_> = map.keys().filter_map(|key| key.strip_suffix("_comm").map(str::to_owned)).collect();
        for pair in pairs {
            let pid = map.get(&format!("{pair}_pid")).and_then(Value::as_u64).and_then(|pid| u32::try_from(pid).ok());
            if let Some(Value::String(comm)) = map.get_mut(&format!("{pair}_comm")) {
                *comm = self.program(comm, &[pid.unwrap_or(u32::MAX)]);
            }
        }
        // Of a process; that of the host is no object.
        if map.contains_key("kernel_thread") && map.contains_key("container") {
            map.insert("container".into(), Value::Null);
        }
        map.iter_mut().for_each(|(key, value)| self.value(key, value));
    }

    /// A program's name: only those that the lab started are told.
    fn program(&mut self, comm: &str, pids: &[u32]) -> String {
        let ours = self.ours;
        if comm.is_empty() || ours.comms.contains(comm) || pids.iter().any(|pid| ours.is_own(*pid)) {
            return comm.to_owned();
        }
        self.programs.of(comm, |number| format!("other{number}"))
    }

    fn text(&mut self, key: &str, text: &str) -> String {
        match key {
            "cmdline" | "args" => String::new(),
            "user" if text == "root" => text.to_owned(),
            "user" => "user".to_owned(),
            "unit" => self.component(text),
            "remote" | "local" => self.address(text),
            _ if text.starts_with('/') => self.path(text),
            _ => text.to_owned(),
        }
    }

    fn path(&mut self, path: &str) -> String {
        let mut components = path.split('/').skip(1).peekable();
        if components.peek().is_some_and(|first| PUBLIC.contains(first)) {
            return path.to_owned();
        }
        let mut redacted = String::new();
        let mut is_ours = false;
        for component in components {
            is_ours |= component.starts_with(PREFIX);
            redacted.push('/');
            redacted.push_str(&if is_ours { component.to_owned() } else { self.component(component) });
        }
        redacted
    }

    /// A name in a path. What says that it is a service stays.
    fn component(&mut self, name: &str) -> String {
        if USUAL.contains(&name) || name.starts_with(PREFIX) {
            return name.to_owned();
        }
        let kind =
            name.rsplit_once('.').map(|(_, kind)| kind).filter(|kind| ["service", "scope", "slice"].contains(kind));
        // Files that cgroups have.
        if ["cpu.", "memory.", "blkio.", "io."].iter().any(|start| name.starts_with(start)) && kind.is_none() {
            return name.to_owned();
        }
        let kind = kind.map(|kind| format!(".{kind}")).unwrap_or_default();
        self.names.of(name, |number| format!("name{number}{kind}"))
    }

    /// Of addresses only those are told that every machine has, and the lab's own.
    fn address(&mut self, text: &str) -> String {
        match text.parse::<IpAddr>() {
            Ok(ip) if trim::is_of_the_lab(text) || ip.is_unspecified() => text.to_owned(),
            Ok(IpAddr::V4(_)) => self.addresses.of(text, |number| format!("198.51.100.{}", number % 255)),
            Ok(IpAddr::V6(_)) => self.addresses.of(text, |number| format!("2001:db8::{number:x}")),
            Err(_) => text.to_owned(),
        }
    }
}
