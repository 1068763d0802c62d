//! How full limits are, and when they will be full: from two readings.

use kerno_model::{LimitLine, LimitUse, LimitsReport, fill};

use crate::knowledge::limits::{entry, filled_in, name};

/// A report on limits as they are `now`, the fullest first. With an `earlier` reading, so many seconds before, it says how each grows and how much
/// time is left. `process`: whose they are.
pub fn report(process: Option<(u32, &str)>, now: Vec<LimitUse>, earlier: Option<(&[LimitUse], f64)>) -> LimitsReport {
    let pid = process.map_or(0, |(pid, _)| pid);
    let mut limits: Vec<LimitLine> = now.into_iter().map(|limit| line(pid, limit, earlier)).collect();
    limits.sort_by(|a, b| {
        b.limit
            .share()
            .total_cmp(&a.limit.share())
            .then_with(|| (&a.name, &a.limit.place).cmp(&(&b.name, &b.limit.place)))
    });
    fill!(LimitsReport {
        pid: process.map(|(pid, _)| pid),
        comm: process.map(|(_, comm)| comm.to_owned()).unwrap_or_default(),
        seconds: earlier.map_or(0.0, |(_, seconds)| seconds),
        limits,
    })
}

#[allow(clippy::cast_precision_loss, reason = "shown")]
fn line(pid: u32, limit: LimitUse, earlier: Option<(&[LimitUse], f64)>) -> LimitLine {
    let headroom = limit.limit.saturating_sub(limit.used);
    let before = earlier.and_then(|(all, seconds)| {
        let same = all.iter().find(|known| known.is_same(&limit))?;
        (seconds > 0.0).then(|| (limit.used as f64 - same.used as f64) / seconds)
    });
    let seconds_left = before.filter(|growth| *growth > 0.0 && headroom > 0).map(|growth| headroom as f64 / growth);
    let known = entry(limit.resource);
    let command = |text: Option<&str>| {
        text.map(|text| filled_in(text, &limit, if pid == 0 { 1 } else { pid })).unwrap_or_default()
    };
    fill!(LimitLine {
        name: name(&limit).to_owned(),
        headroom,
        growth_per_second: before,
        seconds_left,
        look: command(known.map(|entry| entry.look)),
        raise: command(known.map(|entry| entry.raise)),
        limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerno_model::{LimitScope, Resource};

    fn files(used: u64) -> LimitUse {
        LimitUse::new(Resource::OpenFiles, LimitScope::Machine, used, 1000)
    }

    #[test]
    fn time_that_is_left_follows_from_two_readings() {
        let threads = LimitUse::new(Resource::Threads, LimitScope::Machine, 900, 1000);
        let report = report(Some((7, "a")), vec![files(120), threads.clone()], Some((&[files(100), threads], 2.0)));
        assert_eq!((report.pid, report.limits[0].name.as_str()), (Some(7), "kernel.threads-max"));
        assert_eq!((report.limits[0].growth_per_second, report.limits[0].seconds_left), (Some(0.0), None));
        let files = &report.limits[1];
        assert_eq!((files.headroom, files.growth_per_second, files.seconds_left), (880, Some(10.0), Some(88.0)));
        assert_eq!(files.raise, "sysctl -w fs.file-max=2000");
    }

    #[test]
    fn one_reading_has_no_trend() {
        let report = report(None, vec![files(1200)], None);
        assert_eq!((report.limits[0].headroom, report.limits[0].growth_per_second, report.seconds), (0, None, 0.0));
    }
}
