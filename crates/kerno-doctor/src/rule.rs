use std::collections::BTreeMap;

use kerno_model::{Effect, Evidence, Finding, Series, Unit, Window};

use crate::causes::{Tie, Ties};

/// A rule: what it looks for, from where on, and why.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its id, which its findings have. Stable.
    pub id: &'static str,
    /// The signal that it needs.
    pub signal: &'static str,
    /// What it finds, in a few words.
    pub title: &'static str,
    /// How it decides, and why so.
    pub about: &'static str,
    /// Its thresholds.
    pub thresholds: &'static [ThresholdInfo],
    /// What it measures: the name in [`Evidence::quantity`], and in words; `{}` stands for [`Evidence::of`].
    pub evidence: &'static [(&'static str, &'static str)],
    /// What its findings do to others.
    pub causes: &'static [Effect],
    pub(crate) suffers: &'static [Suffers],
    /// Of a rule that looks for growth: the quantity that grows, whose past tells whether that is new.
    pub(crate) trend: Option<Trend>,
    pub(crate) judge: fn(&Window, &Thresholds) -> Vec<Finding>,
    pub(crate) words: fn(&Finding) -> Words,
}

/// What a finding says to be growing, as it was over a window.
pub(crate) type Trend = fn(&Window, &Finding) -> Option<Series>;

impl Rule {
    /// What was measured, in words.
    pub fn label(&self, evidence: &Evidence) -> String {
        let label = self.evidence.iter().find(|(quantity, _)| evidence.quantity == *quantity).map(|(_, label)| *label);
        let label = label.map_or_else(|| evidence.quantity.replace('_', " "), str::to_owned);
        match &evidence.of {
            Some(of) if label.contains("{}") => label.replace("{}", of),
            Some(of) => format!("{label}, {of}"),
            None => label,
        }
    }
}

/// What a rule's findings suffer from, and by what such a finding is tied to its cause.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suffers {
    pub(crate) from: Effect,
    /// What ties a cause (first) and its consequence together; `None` when nothing does.
    pub(crate) tie: fn(&Ties<'_>, &Finding, &Finding) -> Option<Tie>,
    /// What the cause does to the one whom the consequence names; reads after "NAME: ".
    pub(crate) how: &'static str,
}

/// One line of a rule's `suffers`.
pub(crate) const fn suffers(
    from: Effect,
    tie: fn(&Ties<'_>, &Finding, &Finding) -> Option<Tie>,
    how: &'static str,
) -> Suffers {
    Suffers { from, tie, how }
}

/// What a finding says in words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// What is wrong, in one line that names the culprit: `CULPRIT does WHAT: NUMBER`.
    pub title: String,
    /// Why it is so. Whole sentences.
    pub cause: String,
    /// What it does to those who suffer. Whole sentences.
    pub impact: String,
    /// What will happen at [`Finding::eta`], as a clause: "nginx (12) reaches its limit of 1,024 file descriptors". Empty without an eta.
    pub outlook: String,
}

/// A threshold of a rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ThresholdInfo {
    /// Its name, within the rule.
    pub name: &'static str,
    /// What it is unless set otherwise.
    pub default: f64,
    /// Of what.
    pub unit: Unit,
    /// The lowest value allowed.
    pub min: f64,
    /// The highest value allowed.
    pub max: f64,
    /// What it decides.
    pub about: &'static str,
}

/// Why a threshold cannot be set so.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ThresholdError {
    /// There is no such rule.
    #[error("no rule {rule:?}; there are: {rules}")]
    NoRule {
        /// What was asked for.
        rule: String,
        /// What there is.
        rules: String,
    },
    /// The rule has no such threshold.
    #[error("rule {rule} has no threshold {name:?}; it has: {names}")]
    NoThreshold {
        /// The rule.
        rule: String,
        /// What was asked for.
        name: String,
        /// What there is.
        names: String,
    },
    /// The value makes no sense.
    #[error("{rule}.{name} cannot be {value}: {min} to {max} is allowed")]
    OutOfRange {
        /// The rule.
        rule: String,
        /// The threshold.
        name: String,
        /// What was asked for.
        value: f64,
        /// The lowest value allowed.
        min: f64,
        /// The highest value allowed.
        max: f64,
    },
}

/// Where each rule begins to find something: defaults, and what was set otherwise.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Thresholds {
    set: BTreeMap<(&'static str, &'static str), f64>,
}

impl Thresholds {
    /// Sets one.
    ///
    /// # Errors
    /// [`ThresholdError`], with what is possible.
    pub fn set(&mut self, rule: &str, name: &str, value: f64) -> Result<(), ThresholdError> {
        let list = |names: Vec<&str>| names.join(", ");
        let found = super::rules().find(|candidate| candidate.id == rule).ok_or_else(|| ThresholdError::NoRule {
            rule: rule.to_owned(),
            rules: list(super::rules().map(|rule| rule.id).collect()),
        })?;
        let info =
            found.thresholds.iter().find(|info| info.name == name).ok_or_else(|| ThresholdError::NoThreshold {
                rule: rule.to_owned(),
                name: name.to_owned(),
                names: list(found.thresholds.iter().map(|info| info.name).collect()),
            })?;
        if !(info.min..=info.max).contains(&value) {
            let (rule, name) = (rule.to_owned(), name.to_owned());
            return Err(ThresholdError::OutOfRange { rule, name, value, min: info.min, max: info.max });
        }
        self.set.insert((found.id, info.name), value);
        Ok(())
    }

    /// The value in force.
    pub fn get(&self, rule: &'static str, info: &ThresholdInfo) -> f64 {
        self.set.get(&(rule, info.name)).copied().unwrap_or(info.default)
    }
}

/// Defines a rule with its thresholds as the fields of a struct: `RuleStruct::RULE` is the [`Rule`].
///
/// The first of the two functions, `fn(&Window, &RuleStruct) -> Vec<Finding>`, finds; the second, `fn(&Finding) -> Words`, makes words of
/// a finding and of nothing else, so that it can be told in other words, and elsewhere. A rule that looks for growth names the quantity that
/// grows with `trend`, and is then judged over hours too.
macro_rules! rule {
    (
        $(#[$meta:meta])*
        $name:ident = $id:literal, $signal:literal, $title:literal, $about:literal, $judge:path, $words:path;
        causes: [$($effect:ident),* $(,)?];
        suffers: [$($suffers:expr),* $(,)?];
        $(trend: $trend:path;)?
        thresholds: { $($field:ident: $default:literal $unit:ident, $min:literal ..= $max:literal, $text:literal;)* }
        evidence: { $($quantity:ident: $label:literal;)* }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug)]
        pub(crate) struct $name {
            $(pub(crate) $field: f64,)*
        }

        impl $name {
            pub(crate) const RULE: $crate::Rule = $crate::Rule {
                id: $id,
                signal: $signal,
                title: $title,
                about: $about,
                thresholds: &[$($crate::ThresholdInfo {
                    name: stringify!($field),
                    default: $default,
                    unit: kerno_model::Unit::$unit,
                    min: $min,
                    max: $max,
                    about: $text,
                },)*],
                evidence: &[$((stringify!($quantity), $label),)*],
                causes: &[$(kerno_model::Effect::$effect,)*],
                suffers: &[$($suffers,)*],
                trend: {
                    #[allow(unused_mut, unused_assignments, reason = "most rules have none")]
                    let mut trend: Option<$crate::Trend> = None;
                    $(trend = Some($trend);)?
                    trend
                },
                judge: |window, thresholds| $judge(window, &Self::with(thresholds)),
                words: $words,
            };

            /// With the values in force.
            #[allow(unused_variables, unused_mut, unused_assignments, reason = "a rule may have no threshold")]
            pub(crate) fn with(thresholds: &$crate::Thresholds) -> Self {
                let mut infos = Self::RULE.thresholds.iter();
                let mut next = || infos.next().map_or(f64::NAN, |info| thresholds.get($id, info));
                // Fields are initialised in the order written, which is that of the table.
                Self { $($field: next(),)* }
            }

            /// A finding of this rule.
            pub(crate) fn finding(severity: kerno_model::Severity) -> kerno_model::Finding {
                kerno_model::Finding::new(kerno_model::RuleId::new($id), severity)
            }
        }
    };
}
pub(crate) use rule;
