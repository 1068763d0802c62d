//! Several signals in one object, with one program a hook for all of them: each further program on a hook costs 70 to 100 ns an event.

use std::sync::Arc;

use super::btf::Btf;
use super::error::LoadError;
use super::object::Object;
use super::plan::{Hook, PER_SIGNAL, Plan, RING};
use super::programs::{Programs, Share};

/// Signals that have hooks in common, and the object that has all their programs.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) object: Object,
    /// In the order of their numbers in the object (signal.h), and of their handlers' names for a hook: where two signals would have
    /// programs of different names on a hook, that of the first is loaded.
    pub(crate) signals: &'static [&'static str],
}

/// The rings of an object with several signals, by number.
const RINGS: [&str; 6] = ["events_0", "events_1", "events_2", "events_3", "events_4", "events_5"];

/// The knob that tells which signals of an object are asked for.
const ASKED_FOR: &str = "cfg_signals";

/// A signal of a group, and what it would load if it were alone.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) number: usize,
    pub(crate) plan: Plan,
}

impl Group {
    /// The number of a signal of the group.
    pub(crate) fn number(&self, signal: &str) -> Option<usize> {
        self.signals.iter().position(|name| *name == signal)
    }

    /// One plan for several of the signals: a program for each hook that any of them needs, in an order that is each one's.
    pub(crate) fn plan(&self, members: &[Member]) -> Plan {
        let mut merged = Plan::default();
        let mut asked_for = vec![0u8; self.signals.len()];
        let mut members: Vec<_> = members.iter().collect();
        members.sort_by_key(|member| member.number);
        for Member { number, plan } in members {
            if let Some(asked) = asked_for.get_mut(*number) {
                *asked = 1;
            }
            self.merge_knobs(&mut merged, *number, plan);
            for (map, entries) in &plan.map_entries {
                let map = if *map == RING { RINGS.get(*number).copied().unwrap_or(RING) } else { *map };
                merged.map_entries.push((map, *entries));
            }
            merge_programs(&mut merged, plan);
        }
        merged.globals.push((ASKED_FOR, asked_for, true));
        merged
    }

    /// What the shared headers declare is an array with an element a signal; the rest has the signal's own name.
    fn merge_knobs(&self, merged: &mut Plan, number: usize, plan: &Plan) {
        for (name, value, must_exist) in &plan.globals {
            if !PER_SIGNAL.contains(name) {
                merged.globals.push((name, value.clone(), *must_exist));
                continue;
            }
            let all = match merged.globals.iter_mut().find(|(known, ..)| known == name) {
                Some((_, all, _)) => all,
                None => {
                    merged.globals.push((name, vec![0; value.len() * self.signals.len()], *must_exist));
                    let Some((_, all, _)) = merged.globals.last_mut() else { continue };
                    all
                }
            };
            if let Some(place) = all.chunks_exact_mut(value.len()).nth(number) {
                place.copy_from_slice(value);
            }
        }
    }

    /// Loads what is [planned](Self::plan) for these signals and gives each its share.
    pub(super) fn load(&self, plan: &mut Plan, members: &[Member], btf: &Btf) -> Result<Vec<Share>, LoadError> {
        let programs = Programs::load(self.object, plan, btf)?;
        let mut shares = Vec::new();
        for member in members {
            let used = member.used(plan);
            for (map, _) in member.plan.switches.iter().filter(|(_, hook)| used.iter().any(|(_, used)| used == hook)) {
                programs.tell(map, 0, 1)?;
            }
            #[allow(clippy::cast_possible_truncation, reason = "a handful")]
            shares.push(Share::new(Arc::clone(&programs), member.number as u32, used));
        }
        Ok(shares)
    }

    /// The ring of a signal.
    pub(super) fn ring(number: usize) -> &'static str {
        RINGS.get(number).copied().unwrap_or(RING)
    }
}

impl Member {
    /// The programs that work for it, of those that were loaded for all.
    fn used(&self, loaded: &Plan) -> Vec<(&'static str, Hook)> {
        let on = |hook: &Hook| loaded.programs.iter().find(|(_, other)| other == hook).copied();
        let substitute = |name: &str| self.plan.substitutes.iter().find(|(refused, _)| *refused == name);
        let used = |(name, hook): &(&'static str, Hook)| on(hook).or_else(|| on(&substitute(name)?.1.1));
        self.plan.programs.iter().filter_map(used).collect()
    }
}

/// Adds the programs of a plan for hooks that have none yet, each before those that come after it in its own plan.
fn merge_programs(merged: &mut Plan, plan: &Plan) {
    let mut before = merged.programs.len();
    for (name, hook) in plan.programs.iter().rev() {
        match merged.programs.iter().position(|(_, other)| other == hook) {
            // Plans that disagree on an order would have to be told apart here: a test says that none do.
            Some(at) => before = before.min(at),
            None => merged.programs.insert(before, (name, *hook)),
        }
        // It may come to serve this plan, too.
        if let Some((_, (_, hook))) = plan.substitutes.iter().find(|(refused, _)| refused == name) {
            let at = merged.programs.iter().position(|(_, other)| other == hook);
            before = before.min(at.unwrap_or(before));
        }
    }
    merged.substitutes.extend(plan.substitutes.iter().copied());
}
