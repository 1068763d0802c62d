//! Limits of a process.

use kerno_model::{LimitHolder, LimitScope, LimitUse, Resource};

use super::status::{field, limit, real_uid};
use super::{View, number};

pub(super) fn read(view: &View, wants: &dyn Fn(&[Resource]) -> bool, found: &mut Vec<LimitUse>) {
    use Resource as R;
    if !view.stands_in {
        let status = view.text("status").unwrap_or_default();
        let kilobytes = |name: &str| Some(field(&status, name)?.parse::<u64>().ok()? << 10);
        let mut of_process = |resource, used: Option<u64>, name, bytes: bool| {
            if wants(&[resource])
                && let (Some(used), Some(limit)) = (used, limit(view, name))
            {
                let entry = LimitUse::new(resource, LimitScope::Process, used, limit);
                found.push(with_itself(view, if bytes { entry.bytes() } else { entry }));
            }
        };
        of_process(R::AddressSpace, kilobytes("VmSize:"), "Max address space", true);
        of_process(R::Data, kilobytes("VmData:"), "Max data size", true);
        of_process(R::Stack, kilobytes("VmStk:"), "Max stack size", true);
        of_process(R::LockedMemory, locked(&status), "Max locked memory", true);
        if wants(&[R::Descriptors]) {
            let open = std::fs::read_dir(format!("/proc/{}/fd", view.pid)).ok().map(|entries| entries.count() as u64);
            of_process(R::Descriptors, open, "Max open files", false);
        }
        if wants(&[R::FileSize]) {
            of_process(R::FileSize, largest_written(view), "Max file size", true);
        }
        if wants(&[R::CpuTime])
            && let (Some(used), Some(limit)) = (cpu_seconds(view), limit(view, "Max cpu time"))
        {
            let mut entry = LimitUse::new(R::CpuTime, LimitScope::Process, used, limit);
            entry.unit = kerno_model::LimitUnit::Seconds;
            found.push(with_itself(view, entry));
        }
        if wants(&[R::Mappings]) {
            found.extend(mappings(view).map(|entry| with_itself(view, entry)));
        }
    }
    if wants(&[R::PendingSignals]) {
        found.extend(signals(view));
    }
}

fn with_itself(view: &View, mut entry: LimitUse) -> LimitUse {
    let comm = view.text("comm").unwrap_or_default().trim_end().to_owned();
    entry.holders = vec![LimitHolder { pid: view.pid, comm, amount: entry.used, ..LimitHolder::default() }];
    entry
}

/// Pinned memory counts for the same limit, on its own.
fn locked(status: &str) -> Option<u64> {
    let kilobytes = |name: &str| Some(field(status, name)?.parse::<u64>().ok()? << 10);
    Some(kilobytes("VmLck:")?.max(kilobytes("VmPin:").unwrap_or(0)))
}

fn mappings(view: &View) -> Option<LimitUse> {
    let limit = number("/proc/sys/vm/max_map_count")?;
    // The last one, vsyscall, is none of its own.
    let used = view.text("maps")?.lines().filter(|line| !line.ends_with("[vsyscall]")).count() as u64;
    Some(LimitUse::new(Resource::Mappings, LimitScope::Process, used, limit))
}

/// How far the furthest of its descriptors for writing files is.
fn largest_written(view: &View) -> Option<u64> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", view.pid)).ok()?;
    let furthest = entries.flatten().filter_map(|entry| {
        let link = std::fs::read_link(entry.path()).ok()?;
        if !link.is_absolute() || link.starts_with("/dev") || link.starts_with("/proc") || link.starts_with("/sys") {
            return None;
        }
        let info = view.text(&format!("fdinfo/{}", entry.file_name().to_str()?))?;
        let flags = u32::from_str_radix(field(&info, "flags:")?, 8).ok()?;
        // O_WRONLY or O_RDWR
        (flags & 3 != 0).then(|| field(&info, "pos:")?.parse::<u64>().ok())?
    });
    furthest.max()
}

fn cpu_seconds(view: &View) -> Option<u64> {
    let stat = view.text("stat")?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks / rustix::param::clock_ticks_per_second().max(1))
}

/// `SigQ: queued/limit`: the queue is the user's, the limit the process's.
fn signals(view: &View) -> Option<LimitUse> {
    let status = view.text("status")?;
    let (used, limit) = field(&status, "SigQ:")?.split_once('/')?;
    let entry = LimitUse::new(Resource::PendingSignals, LimitScope::User, used.parse().ok()?, limit.parse().ok()?);
    Some(entry.at(real_uid(&status)?.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_those_that_the_kernel_tells() {
        let view = View::new(std::process::id(), false, true);
        let now = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        assert_eq!(limit(&view, "Max open files"), now.current);
        let mut found = Vec::new();
        read(&view, &|_| true, &mut found);
        let descriptors = found.iter().find(|entry| entry.resource == Resource::Descriptors).unwrap();
        assert!(descriptors.used >= 3 && descriptors.limit == now.current.unwrap());
        let mappings = found.iter().find(|entry| entry.resource == Resource::Mappings).unwrap();
        assert!(mappings.used > 10 && mappings.limit > 1000, "{mappings:?}");
        assert!(found.iter().any(|entry| entry.resource == Resource::PendingSignals));
    }
}
