//! `[[objective]]`: what has to hold for most of the time.

use std::collections::BTreeMap;
use std::time::Duration;

use kerno::doctor::objective::{Bound, Measured, Objective, metrics};
use kerno::model::Unit;
use kerno::model::catalogue::{self, MAX_OBJECTIVES};
use kerno::model::metric::{Kind, Metric, Values};
use toml::Spanned;
use toml::de::DeValue;

use super::file::{Entries, Mistake, in_order, plain};
use super::{Config, Value, suggest, text};
use crate::values;

const KEYS: [&str; 8] = ["name", "metric", "labels", "measure", "below", "above", "share", "over"];

/// Endings of the series of a histogram in Prometheus, which people copy.
const ENDINGS: [&str; 3] = ["_bucket", "_sum", "_count"];

type Result<T> = std::result::Result<T, Mistake>;

/// The table of an objective while it is read.
struct Table<'a, 'i> {
    entries: Entries<'a, 'i>,
}

impl Config {
    pub(super) fn add_objectives(&mut self, value: &Spanned<DeValue<'_>>) -> Result<()> {
        let wrong = || Mistake(value.span().start, "objectives are written [[objective]], one table each".to_owned());
        for table in value.get_ref().as_array().ok_or_else(wrong)?.iter() {
            let start = table.span().start;
            let table = table.get_ref().as_table().ok_or_else(wrong)?;
            let table = Table { entries: Entries::of("objective", start, table) };
            let objective = table.objective()?;
            if self.objectives.iter().any(|other| other.name == objective.name) {
                let why = format!("there are two objectives named {:?}", objective.name);
                return Err(Mistake(table.entries.place("name"), why));
            }
            if self.objectives.len() == MAX_OBJECTIVES {
                return Err(Mistake(start, format!("there may be {MAX_OBJECTIVES} objectives")));
            }
            self.objectives.push(objective);
        }
        Ok(())
    }
}

impl Table<'_, '_> {
    fn objective(&self) -> Result<Objective> {
        for (key, _) in &self.entries.all {
            if !KEYS.contains(&key.get_ref().as_ref()) {
                let why = suggest::unknown("setting of an objective", key.get_ref(), &KEYS);
                return Err(Mistake(key.span().start, why));
            }
        }
        let name = self.required("name", "a name such as \"database-fsync\"")?;
        let metric = self.metric()?;
        let measured = self.measured(metric)?;
        let mut objective = Objective::new(name, metric, measured, Bound::Below(1.0));
        objective.labels = self.labels(metric)?;
        objective.bound = self.bound(&objective)?;
        objective.share = self.share()?;
        objective.over = self.over()?;
        objective.check().map_err(|error| {
            let key = if error.setting == "bound" { self.side() } else { error.setting };
            Mistake(self.entries.place(key), format!("objective.{key}: {}", error.problem))
        })?;
        Ok(objective)
    }

    fn text(&self, key: &str, allowed: &str) -> Result<Option<String>> {
        self.entries
            .value(key)
            .map(|value| text(&value).map_err(|what| self.entries.wrong(key, allowed, &what)))
            .transpose()
    }

    fn required(&self, key: &str, allowed: &str) -> Result<String> {
        let missing = || Mistake(self.entries.start, format!("an objective needs {key}: {allowed}"));
        self.text(key, allowed)?.ok_or_else(missing)
    }

    fn metric(&self) -> Result<&'static Metric> {
        let name =
            self.required("metric", "a name from docs/metrics.md, such as \"kerno_syscall_duration_seconds\"")?;
        // Those of Prometheus and those of OpenTelemetry.
        let without = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(&name);
        if let Some(metric) = catalogue::find(&name) {
            return Ok(metric);
        }
        if let Some(metric) = catalogue::find(without).filter(|metric| matches!(metric.kind, Kind::Histogram(_))) {
            let why = format!("unknown metric {name:?}; the histogram is named {:?} here", metric.prometheus());
            return Err(Mistake(self.entries.place("metric"), why));
        }
        let names: Vec<_> = metrics().map(Metric::prometheus).collect();
        let meant = suggest::nearest(&name, names.iter().map(String::as_str));
        let meant = meant.map_or_else(|| ".".to_owned(), |nearest| format!("; did you mean {nearest:?}?"));
        let why = format!("unknown metric {name:?}{meant} docs/metrics.md lists them, and so does /metrics");
        Err(Mistake(self.entries.place("metric"), why))
    }

    fn measured(&self, metric: &Metric) -> Result<Measured> {
        let allowed = match metric.kind {
            Kind::Histogram(_) => "\"p99\" (any percentile), \"max\" or \"rate\"",
            Kind::Counter => "\"rate\"",
            _ => "\"value\"",
        };
        match (self.text("measure", allowed)?, metric.kind) {
            (Some(text), _) => text.parse().map_err(|_| self.entries.wrong("measure", allowed, &format!("{text:?}"))),
            (None, Kind::Histogram(_)) => {
                let why = format!("an objective of a histogram needs measure: {allowed}");
                Err(Mistake(self.entries.start, why))
            }
            (None, Kind::Counter) => Ok(Measured::Rate),
            (None, _) => Ok(Measured::Value),
        }
    }

    fn labels(&self, metric: &Metric) -> Result<BTreeMap<String, String>> {
        const ALLOWED: &str = "a table such as { syscall = \"fsync\" }";
        let Some(value) = self.entries.get("labels") else {
            return Ok(BTreeMap::new());
        };
        let table = value.get_ref().as_table();
        let table = table.ok_or_else(|| self.entries.wrong("labels", ALLOWED, &plain(value).kind()))?;
        let mut labels = BTreeMap::new();
        for (key, value) in in_order(table) {
            let (name, at) = (key.get_ref().as_ref(), value.span().start);
            let names: Vec<_> = metric.labels.iter().map(|label| label.name).collect();
            let Some(label) = metric.labels.iter().find(|label| label.name == name) else {
                let why = if names.is_empty() {
                    format!("{} has no labels", metric.prometheus())
                } else {
                    suggest::unknown(&format!("label of {}", metric.prometheus()), name, &names)
                };
                return Err(Mistake(key.span().start, why));
            };
            let chosen = text(&plain(value))
                .map_err(|what| Mistake(at, format!("objective.labels.{name} is a text; this is {what}")))?;
            if let Values::Of(values) = label.values
                && !values.contains(&chosen.as_str())
            {
                return Err(Mistake(at, suggest::unknown(&format!("value of {name}"), &chosen, values)));
            }
            labels.insert(name.to_owned(), chosen);
        }
        Ok(labels)
    }

    /// Which of the two there is.
    fn side(&self) -> &'static str {
        if self.entries.value("above").is_some() { "above" } else { "below" }
    }

    fn bound(&self, objective: &Objective) -> Result<Bound> {
        let (below, above) = (self.entries.value("below"), self.entries.value("above"));
        let (allowed, _) = expected(objective.unit());
        match (below, above) {
            (Some(value), None) => Ok(Bound::Below(self.number("below", &value, objective)?)),
            (None, Some(value)) => Ok(Bound::Above(self.number("above", &value, objective)?)),
            (None, None) => Err(Mistake(self.entries.start, format!("an objective needs below or above: {allowed}"))),
            (Some(_), Some(_)) => {
                Err(Mistake(self.entries.place("above"), "objective: either below or above".to_owned()))
            }
        }
    }

    /// A bound in the unit of the objective, as a number or as a text with the unit.
    fn number(&self, key: &str, value: &Value, objective: &Objective) -> Result<f64> {
        let unit = objective.unit();
        let (allowed, read) = expected(unit);
        let number = match value {
            // A gauge has no share above all. Time a second may be that of several CPUs.
            Value::Number(number) if unit == Unit::Ratio && *number > 1.0 && objective.measured == Measured::Value => {
                Err(format!("the number {number}; write \"{number} %\""))
            }
            // A time or a size without a unit may be meant in any.
            Value::Number(number) if !matches!(unit, Unit::Seconds | Unit::Bytes | Unit::BytesPerSecond) => Ok(*number),
            Value::Text(text) => read(text).ok_or_else(|| format!("{text:?}")),
            other => Err(other.kind()),
        };
        number.map_err(|what| self.entries.wrong(key, allowed, &what))
    }

    fn share(&self) -> Result<f64> {
        const ALLOWED: &str = "a share of the time such as \"99.9 %\" or 0.999";
        let value = self
            .entries
            .value("share")
            .ok_or_else(|| Mistake(self.entries.start, format!("an objective needs share: {ALLOWED}")))?;
        let share = match &value {
            Value::Number(number) if *number > 1.0 => Err(format!("the number {number}; write \"{number} %\"")),
            Value::Number(number) => Ok(*number),
            Value::Text(text) => percent(text).ok_or_else(|| format!("{text:?}")),
            other => Err(other.kind()),
        };
        share.map_err(|what| self.entries.wrong("share", ALLOWED, &what))
    }

    fn over(&self) -> Result<Duration> {
        const ALLOWED: &str = "a time of 1h to 90d, such as \"30d\"";
        let text = self.text("over", ALLOWED)?.unwrap_or_else(|| "30d".to_owned());
        let days = text.strip_suffix('d').or_else(|| text.strip_suffix(" days"));
        let days = days.and_then(|days| days.trim_end().parse::<u32>().ok());
        match days {
            Some(days) => Ok(Duration::from_secs(u64::from(days) * 86_400)),
            None => values::duration(&text).map_err(|_| self.entries.wrong("over", ALLOWED, &format!("{text:?}"))),
        }
    }
}

/// What a number of this unit looks like, and how it is read.
fn expected(unit: Unit) -> (&'static str, fn(&str) -> Option<f64>) {
    match unit {
        Unit::Seconds => ("a time such as \"20ms\"", |text| values::duration(text).ok().map(|time| time.as_secs_f64())),
        Unit::Bytes => ("a size such as \"512MiB\"", size),
        Unit::BytesPerSecond => {
            ("a size a second such as \"50MiB/s\"", |text| size(text.trim_end().strip_suffix("/s").unwrap_or(text)))
        }
        Unit::Ratio => ("a share such as \"80 %\" or 0.8", percent),
        Unit::PerSecond => {
            ("a number a second such as 100 or \"100/s\"", |text| plain_number(text.trim_end().strip_suffix("/s")?))
        }
        _ => ("a number", plain_number),
    }
}

#[allow(clippy::cast_precision_loss, reason = "a size")]
fn size(text: &str) -> Option<f64> {
    values::bytes(text.trim()).ok().map(|bytes| bytes as f64)
}

/// `99.9 %`
fn percent(text: &str) -> Option<f64> {
    let number = text.trim_end().strip_suffix('%')?.trim();
    plain_number(number)?;
    // The nearest number, which a division does not give.
    format!("{number}e-2").parse().ok().or_else(|| plain_number(number).map(|percent| percent / 100.0))
}

fn plain_number(text: &str) -> Option<f64> {
    let text = text.trim();
    let is_number = text.starts_with(|c: char| c.is_ascii_digit());
    text.parse::<f64>().ok().filter(|number| is_number && number.is_finite())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn from_file(text: &str) -> std::result::Result<Config, String> {
        let mut config = Config::default();
        config.apply_file(Path::new("/x/config.toml"), text).map(|()| config).map_err(|error| format!("{error:#}"))
    }

    const FSYNC: &str = "[[objective]]\nname = 'fsync'\nmetric = 'kerno_syscall_duration_seconds'\n\
                         labels = { syscall = 'fsync' }\nmeasure = 'p99'\nbelow = '20ms'\nshare = '99.9 %'\nover = '30d'\n";

    #[test]
    fn an_objective_is_as_it_is_written() {
        let objective = from_file(FSYNC).unwrap().objectives.remove(0);
        assert_eq!(objective.condition(), "kerno_syscall_duration_seconds (syscall=\"fsync\"): p99 below 20 ms");
        assert_eq!((objective.share, objective.over.as_secs()), (0.999, 30 * 86_400));
        for (metric, measure, bound, condition) in [
            ("kerno_unit_sync_max_seconds", "", "below = '1s'", "kerno_unit_sync_max_seconds: value below 1 s"),
            (
                "kerno.syscall.duration",
                "measure = 'rate'",
                "above = '5/s'",
                "kerno_syscall_duration_seconds: rate above 5/s",
            ),
            ("kerno_disk_io_bytes_total", "", "below = '50 MiB/s'", "kerno_disk_io_bytes_total: rate below 50 MiB/s"),
            ("kerno_memory_available_bytes", "", "above = '1GiB'", "kerno_memory_available_bytes: value above 1 GiB"),
            (
                "kerno_filesystem_utilization_ratio",
                "",
                "below = '80 %'",
                "kerno_filesystem_utilization_ratio: value below 80 %",
            ),
            (
                "kerno_unit_cpu_time_seconds_total",
                "",
                "below = 1.5",
                "kerno_unit_cpu_time_seconds_total: rate below 150 %",
            ),
            ("kerno_file_in_use", "measure = 'value'", "below = 10000", "kerno_file_in_use: value below 10,000"),
        ] {
            let text = format!("[[objective]]\nname = 'a'\nmetric = '{metric}'\n{measure}\n{bound}\nshare = 0.99\n");
            assert_eq!(from_file(&text).unwrap().objectives[0].condition(), condition);
        }
    }

    #[test]
    fn mistakes_name_the_place_and_what_is_allowed() {
        let with = |from: &str, to: &str| {
            assert!(FSYNC.contains(from), "{from}");
            FSYNC.replacen(from, to, 1)
        };
        let cases = [
            ("objective = 1".to_owned(), ":1:13: objectives are written [[objective]]"),
            (format!("{FSYNC}{FSYNC}"), ":10:8: there are two objectives named \"fsync\""),
            (with("name = 'fsync'", ""), ":1:1: an objective needs name"),
            (with("'fsync'\n", "'No'\n"), ":2:8: objective.name: \"No\" is not 1 to 32 of a-z"),
            (with("duration_seconds'", "duratoin_seconds'"), ":3:10: unknown metric \"kerno_syscall_duratoin_seconds\"; did you mean \"kerno_syscall_duration_seconds\"?"),
            (with("duration_seconds'", "duration_seconds_bucket'"), "the histogram is named \"kerno_syscall_duration_seconds\" here"),
            (with("'kerno_syscall_duration_seconds'", "'kerno_incidents_open'"), ":4:12: unknown label of kerno_incidents_open"),
            (with("syscall = 'fsync'", "sycall = 'fsync'"), ":4:12: unknown label of kerno_syscall_duration_seconds \"sycall\"; did you mean \"syscall\"?"),
            (with("syscall = 'fsync'", "syscall = 1"), ":4:22: objective.labels.syscall is a text; this is the number 1"),
            (with("{ syscall = 'fsync' }", "'fsync'"), ":4:10: objective.labels is a table such as"),
            (with("'p99'", "'p100'"), ":5:11: objective.measure is \"p99\" (any percentile), \"max\" or \"rate\"; this is \"p100\""),
            (with("'p99'", "'value'"), ":5:11: objective.measure: kerno_syscall_duration_seconds is a histogram"),
            (with("measure = 'p99'", ""), ":1:1: an objective of a histogram needs measure"),
            (with("'20ms'", "20"), ":6:9: objective.below is a time such as \"20ms\"; this is the number 20"),
            (with("'20ms'", "'20'"), ":6:9: objective.below is a time such as"),
            (with("below = '20ms'", "below = '20ms'\nabove = '1ms'"), ":7:9: objective: either below or above"),
            (with("below = '20ms'", ""), ":1:1: an objective needs below or above: a time such as"),
            (with("below", "bellow"), ":6:1: unknown setting of an objective \"bellow\"; did you mean \"below\"?"),
            (with("'20ms'", "'0s'"), ":6:9: objective.below: nothing is below 0"),
            (with("'99.9 %'", "99.9"), ":7:9: objective.share is a share of the time such as \"99.9 %\" or 0.999; this is the number 99.9; write \"99.9 %\""),
            (with("'99.9 %'", "'100 %'"), ":7:9: objective.share: a share is 50 % to 99.999 %; this is 100 %; all of the time leaves no error budget"),
            (with("'99.9 %'", "'most'"), "this is \"most\""),
            (with("share = '99.9 %'", ""), ":1:1: an objective needs share"),
            (with("'30d'", "'30'"), ":8:8: objective.over is a time of 1h to 90d"),
            (with("'30d'", "'91d'"), ":8:8: objective.over: a period is 1 h to 90 d"),
            (with("'30d'", "'10m'"), ":8:8: objective.over: a period is 1 h to 90 d"),
            (with("objective", "objectives"), "did you mean \"objective\"?"),
            (
                "[[objective]]\nname = 'a'\nmetric = 'kerno_disk_stalled_time_seconds_total'\nlabels = { stalled = 'none' }".to_owned(),
                ":4:22: unknown value of stalled \"none\". There are: some, all",
            ),
            (
                "[[objective]]\nname = 'a'\nmetric = 'kerno_filesystem_utilization_ratio'\nbelow = 80".to_owned(),
                ":4:9: objective.below is a share such as \"80 %\" or 0.8; this is the number 80; write \"80 %\"",
            ),
            (
                "[[objective]]\nname = 'a'\nmetric = 'kerno_incidents_open'\nbelow = 1\nshare = 0.9".to_owned(),
                ":3:10: objective.metric: there can be no objective of kerno_incidents_open: windows do not have it",
            ),
            (
                (0..=MAX_OBJECTIVES).map(|n| with("'fsync'\n", &format!("'a{n}'\n"))).collect::<String>(),
                ":257:1: there may be 32 objectives",
            ),
        ];
        for (text, expected) in cases {
            let error = from_file(&text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(error.starts_with("/x/config.toml:") && error.contains(expected), "{text}\n{error}\n{expected}");
        }
    }
}
