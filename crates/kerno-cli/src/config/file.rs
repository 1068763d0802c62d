//! The configuration file.

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context as _, anyhow, bail};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Config, Problem, SECTIONS, Value, suggest};

/// No configuration is longer, and a device is endless.
const MAX_BYTES: u64 = 1 << 20;

/// The file's text; `None` when it need not exist and does not.
pub(super) fn read(path: &Path, must_exist: bool) -> anyhow::Result<Option<String>> {
    let name = path.display();
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && !must_exist => return Ok(None),
        opened => opened.with_context(|| format!("cannot read the configuration {name}"))?,
    };
    let mut bytes = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read the configuration {name}"))?;
    if bytes.len() as u64 > MAX_BYTES {
        bail!("{name} is longer than {MAX_BYTES} bytes: that is no configuration");
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let text = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
        anyhow!("{}: is not UTF-8", position(path, &text, valid))
    })
}

/// `/etc/kerno/config.toml:3:1`
fn position(path: &Path, text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.matches('\n').count() + 1;
    format!("{}:{line}:{}", path.display(), before[line_start..].chars().count() + 1)
}

/// A mistake and where it is.
pub(super) struct Mistake(pub(super) usize, pub(super) String);

impl Mistake {
    fn at(span: &Range<usize>, text: String) -> Self {
        Self(span.start, text)
    }
}

impl Config {
    pub(super) fn apply_file(&mut self, path: &Path, text: &str) -> anyhow::Result<()> {
        let located = |Mistake(offset, what)| anyhow!("{}: {what}", position(path, text, offset));
        let root = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            located(Mistake(offset, error.message().to_owned()))
        })?;
        // Only lines are remembered of where something was set.
        let origin = |offset| position(path, text, offset).rsplit_once(':').map_or_else(String::new, |(l, _)| l.into());
        self.apply_root(root.get_ref(), &origin).map_err(located)
    }

    fn apply_root(&mut self, root: &DeTable<'_>, origin: &dyn Fn(usize) -> String) -> Result<(), Mistake> {
        for (section, value) in in_order(root) {
            let name = section.get_ref().as_ref();
            match name {
                "rules" => {
                    for (rule, value) in in_order(table(name, value)?) {
                        let thresholds = table(&format!("rules.{}", rule.get_ref()), value)?;
                        if thresholds.is_empty() {
                            self.check_rule(rule)?;
                        }
                        for (threshold, value) in in_order(thresholds) {
                            let names = [rule.get_ref().as_ref(), threshold.get_ref().as_ref()];
                            self.set_threshold(names[0], names[1], &plain(value), &origin(threshold.span().start))
                                .map_err(|problem| {
                                    // An unknown rule is a mistake in its own name, not in its thresholds'.
                                    let known = kerno::doctor::rules().any(|known| known.id == names[0]);
                                    located(problem, if known { threshold } else { rule }, value)
                                })?;
                        }
                    }
                }
                "sink" => self.add_sinks(value, origin)?,
                "objective" => self.add_objectives(value)?,
                _ if SECTIONS.iter().any(|(section, _)| *section == name) => {
                    for (key, value) in in_order(table(name, value)?) {
                        self.set(name, key.get_ref(), &plain(value)).map_err(|p| located(p, key, value))?;
                    }
                }
                _ => {
                    let sections: Vec<_> = ["rules"]
                        .into_iter()
                        .chain(SECTIONS.map(|(section, _)| section))
                        .chain(["sink", "objective"])
                        .collect();
                    return Err(Mistake::at(&section.span(), suggest::unknown("section", name, &sections)));
                }
            }
        }
        Ok(())
    }

    /// An empty table of a rule that does not exist is a mistake too.
    fn check_rule(&mut self, rule: &Key<'_>) -> Result<(), Mistake> {
        let ids: Vec<_> = kerno::doctor::rules().map(|rule| rule.id).collect();
        if ids.contains(&rule.get_ref().as_ref()) {
            return Ok(());
        }
        Err(Mistake::at(&rule.span(), suggest::unknown("rule", rule.get_ref(), &ids)))
    }
}

pub(super) type Key<'i> = Spanned<std::borrow::Cow<'i, str>>;

/// In the order of the file, so that the first mistake in it is told.
pub(super) fn in_order<'a, 'i>(table: &'a DeTable<'i>) -> Vec<(&'a Key<'i>, &'a Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    entries
}

/// One table of an array of tables, such as `[[sink]]`, while it is read.
pub(super) struct Entries<'a, 'i> {
    /// What the array is called.
    section: &'static str,
    /// Where the table begins.
    pub(super) start: usize,
    /// In the order of the file.
    pub(super) all: Vec<(&'a Key<'i>, &'a Spanned<DeValue<'i>>)>,
}

impl<'a, 'i> Entries<'a, 'i> {
    pub(super) fn of(section: &'static str, start: usize, table: &'a DeTable<'i>) -> Self {
        Self { section, start, all: in_order(table) }
    }

    pub(super) fn get(&self, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
        self.all.iter().find(|(known, _)| known.get_ref() == key).map(|(_, value)| *value)
    }

    pub(super) fn value(&self, key: &str) -> Option<Value> {
        self.get(key).map(plain)
    }

    /// Where the value of a key is, or else where the table begins.
    pub(super) fn place(&self, key: &str) -> usize {
        self.get(key).map_or(self.start, |value| value.span().start)
    }

    pub(super) fn wrong(&self, key: &str, allowed: &str, what: &str) -> Mistake {
        Mistake(self.place(key), format!("{}.{key} is {allowed}; this is {what}", self.section))
    }
}

fn located(problem: Problem, key: &Key<'_>, value: &Spanned<DeValue<'_>>) -> Mistake {
    match problem {
        Problem::Key(text) => Mistake::at(&key.span(), text),
        Problem::Value(text) => Mistake::at(&value.span(), text),
    }
}

fn table<'a, 'i>(name: &str, value: &'a Spanned<DeValue<'i>>) -> Result<&'a DeTable<'i>, Mistake> {
    value.get_ref().as_table().ok_or_else(|| {
        let kind = value.get_ref().type_str();
        Mistake::at(&value.span(), format!("{name:?} is a table, written [{name}]; this is of type {kind}"))
    })
}

pub(super) fn plain(value: &Spanned<DeValue<'_>>) -> Value {
    match value.get_ref() {
        DeValue::String(text) => Value::Text(text.clone().into_owned()),
        #[allow(clippy::cast_precision_loss, reason = "no threshold is beyond what f64 holds")]
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or(Value::Other("a number beyond all bounds"), |number| Value::Number(number as f64)),
        DeValue::Float(number) => {
            number.as_str().parse().map_or(Value::Other("a number beyond all bounds"), Value::Number)
        }
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Array(items) => {
            let texts = items.iter().map(|item| item.get_ref().as_str().map(str::to_owned));
            texts.collect::<Option<_>>().map_or(Value::Other("a list of other things than texts"), Value::List)
        }
        DeValue::Datetime(_) => Value::Other("a date"),
        DeValue::Table(_) => Value::Other("a table"),
    }
}
