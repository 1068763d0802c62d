use anyhow::bail;
use kerno::signals::{self, SignalInfo};
use kerno::{Filter, FilterKind, Loader, Options};

use crate::args::{ALL, TraceArgs, default_ring_bytes};
use crate::error::note;

/// The signals that were asked for.
pub(super) struct Selection {
    signals: Vec<&'static SignalInfo>,
    /// Whether it is enough if some of them can be loaded.
    pub(super) lenient: bool,
}

impl Selection {
    pub(super) fn new(args: &TraceArgs) -> Self {
        let all = args.signals.iter().any(|name| name == ALL);
        let chosen: Vec<_> =
            args.signals.iter().filter_map(|name| signals::by_name(name)).map(|signal| signal.name).collect();
        let signals = signals::ALL.iter().filter(|signal| all || chosen.contains(&signal.name)).collect();
        Self { signals, lenient: all && !args.all_or_nothing }
    }

    /// A loader for each, with the filters that fit it.
    ///
    /// # Errors
    /// If a filter fits none of them, or has an impossible value.
    pub(super) fn loaders(&self, args: &TraceArgs) -> anyhow::Result<Vec<Box<dyn Loader>>> {
        let filter = args.filter.filter()?;
        for kind in filter.kinds() {
            self.check_fit(kind)?;
        }
        let mut loaders = Vec::new();
        for signal in &self.signals {
            let loader = (signal.loader)(Options {
                filter: only_fitting(&filter, signal),
                ring_bytes: args.ring_size.unwrap_or_else(|| default_ring_bytes(self.signals.len())),
                exclude_self: !args.include_self,
                ..Options::default()
            });
            loader.validate()?;
            loaders.push(loader);
        }
        Ok(loaders)
    }

    fn check_fit(&self, kind: FilterKind) -> anyhow::Result<()> {
        let (fitting, others): (Vec<_>, Vec<_>) = self.signals.iter().copied().partition(|signal| fits(signal, kind));
        if fitting.is_empty() {
            let possible: Vec<_> = signals::ALL.iter().filter(|signal| fits(signal, kind)).collect();
            let possible = if possible.is_empty() { "no signal".to_owned() } else { names(&possible) };
            bail!("--{kind} does not fit {}; it fits {possible}", names(&others));
        }
        if !others.is_empty() {
            note(&format!("note: --{kind} filters {} only; it does not fit {}", names(&fitting), names(&others)));
        }
        Ok(())
    }
}

fn fits(signal: &SignalInfo, kind: FilterKind) -> bool {
    (signal.loader)(Options::default()).filters().contains(&kind)
}

fn only_fitting(filter: &Filter, signal: &SignalInfo) -> Filter {
    filter.only((signal.loader)(Options::default()).filters())
}

fn names(signals: &[&SignalInfo]) -> String {
    signals.iter().map(|signal| signal.alias).collect::<Vec<_>>().join(", ")
}
