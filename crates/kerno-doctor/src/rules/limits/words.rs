//! What a finding about a limit says.

use kerno_model::amount::{number, quantity};
use kerno_model::{ErrnoCount, Finding, Resource, Unit};

use crate::Words;
use crate::title::title;

pub(super) fn words(finding: &Finding) -> Words {
    let name = finding.text("limit_name").unwrap_or("a limit");
    let place = place(finding);
    let of_place = place.as_ref().map(|place| format!(" of {place}")).unwrap_or_default();
    let amounts = of_limit(finding);
    let who = finding.subject.process.as_ref().map(ToString::to_string);
    let resource = Resource::from_name(&finding.variant);
    let is_file_system = matches!(resource, Resource::FileSystemBytes | Resource::FileSystemInodes);
    let zombies = finding.number("own_zombies").filter(|_| finding.flag("zombies"));
    let what = match (who, zombies) {
        (Some(who), Some(zombies)) => format!("{who} keeps {} zombies and fills {name}{of_place}", number(zombies)),
        (Some(who), None) if resource == Resource::EphemeralPorts => {
            format!("{who} uses up the local ports{}", towards(finding))
        }
        (Some(who), None) if resource == Resource::UdpPorts => {
            format!("{who} uses up the local ports of UDP{of_place}")
        }
        (Some(who), None) if is_file_system => format!("{who} fills {}", name_of_file_system(finding)),
        (Some(who), None) => format!("{who} fills {name}{of_place}"),
        (None, _) if is_file_system => format!("{} is full", name_of_file_system(finding)),
        (None, _) => match place {
            Some(place) => format!("{place} has reached {name}"),
            None => format!("the machine has reached {name}"),
        },
    };
    Words { title: title(&what, [amounts]), cause: cause(finding), impact: impact(finding), ..Words::default() }
}

/// One that only processes of its mount namespace see: others have another file system at that place, or none.
fn name_of_file_system(finding: &Finding) -> String {
    let place = finding.text("place").filter(|place| !place.is_empty()).unwrap_or("a file system");
    let what = if finding.variant == Resource::FileSystemInodes.name() { "the inodes of " } else { "" };
    format!("{what}{place} of its mount namespace")
}

fn towards(finding: &Finding) -> String {
    finding.subject.remote.map(|remote| format!(" towards {remote}")).unwrap_or_default()
}

/// `60 of 60`.
fn of_limit(finding: &Finding) -> Option<String> {
    let amount = |count: &str, bytes: &str| {
        finding.number(count).map(number).or_else(|| finding.number(bytes).map(|bytes| quantity(bytes, Unit::Bytes)))
    };
    match (amount("used", "bytes_used"), amount("limit", "bytes_limit")) {
        (Some(used), Some(limit)) => Some(format!("{used} of {limit}")),
        _ => None,
    }
}

/// For whom the limit is, in words; `None` for the machine, and where the culprit says it.
fn place(finding: &Finding) -> Option<String> {
    let place = finding.text("place").unwrap_or_default();
    if place.is_empty() {
        return None;
    }
    Some(match finding.text("scope")? {
        "user" => format!("user {place}"),
        "cgroup" => format!("cgroup {place}"),
        "net_namespace" => format!("network namespace {place}"),
        "pid_namespace" => format!("pid namespace {place}"),
        "user_namespace" => format!("user namespace {place}"),
        "ipc_namespace" => format!("IPC namespace {place}"),
        "file_system" | "mount_namespace" => place.to_owned(),
        "destination" => place.to_owned(),
        _ => return None,
    })
}

fn cause(finding: &Finding) -> String {
    let amounts = of_limit(finding).map(|amounts| format!(": {amounts}")).unwrap_or_default();
    let what = finding.text("what").unwrap_or("things");
    let name = finding.text("limit_name").unwrap_or("a limit");
    let mut text = format!("The limit {name} of {what} is reached{amounts}.");
    if finding.number("limit") == Some(0.0) {
        text = format!("The limit {name} is 0: {what} are switched off here.");
    }
    let idle = finding.number("idle").map(number);
    match (Resource::from_name(&finding.variant), idle) {
        (Resource::EphemeralPorts, Some(idle)) => {
            text = format!("All local ports of {name}{} are taken{amounts}.", towards(finding));
            text += &format!(
                " {idle} of them are in TIME_WAIT: connections that were closed here first, whose ports stay taken for a minute. A connection \
                 for each request needs a port for each."
            );
        }
        (Resource::EphemeralPorts, None) => {
            text = format!(
                "All local ports of {name}{} are taken{amounts}. Each connection to the same address needs a port of its own.",
                towards(finding)
            );
        }
        (Resource::TrackedConnections, _) => {
            text += " The kernel drops packets of new connections without a word. Neither the other host nor a firewall rule is at fault.";
        }
        (_, Some(idle)) if finding.flag("zombies") => {
            let init = if finding.flag("namespace_init") {
                "It is the first process of its pid namespace, which all orphans there are given to, and does not wait for them."
            } else {
                "Their parent does not wait for them."
            };
            text += &format!(" {idle} are zombies: they have ended, and kill does nothing to them. {init}");
        }
        (_, Some(idle)) => text += &format!(" {idle} of them are zombies."),
        (Resource::FileSystemBytes | Resource::FileSystemInodes, _) => {
            text = format!(
                "The file system at {} is full{amounts}. It is one of the mount namespace of the process that fails, such as a container: others \
                 have another file system at that place, or none.",
                finding.text("place").filter(|place| !place.is_empty()).unwrap_or("that place")
            );
        }
        (Resource::ProcessIds, _) => text += " Threads have ids, too.",
        _ => {}
    }
    text
}

fn impact(finding: &Finding) -> String {
    let who = finding.process("failing").map_or_else(|| "Whoever asks for more".to_owned(), ToString::to_string);
    let call = finding.calls().next().unwrap_or("calls");
    let error =
        finding.errnos().next().map(|errno| format!(" with {}", ErrnoCount::new(errno, 0).name)).unwrap_or_default();
    let times = finding.number("failed").map(|failed| {
        let rate = finding
            .number("failed_per_second")
            .map(|rate| format!(" ({})", quantity(rate, Unit::PerSecond)))
            .unwrap_or_default();
        if failed > 1.0 { format!(", {} times{rate}", number(failed)) } else { ", once".to_owned() }
    });
    format!("{who} fails in {call}{error}{}.", times.unwrap_or_default())
}
