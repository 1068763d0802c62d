//! Values as JSON without secrets in any text of them, for whom they leave the machine to.

use std::borrow::Cow;
use std::collections::HashSet;

use kerno_doctor::redaction::Redaction;
use serde::Serialize;
use serde_json::Value;

/// Texts that are remembered to have no secret. Windows have the same names and command lines again and again.
const MAX_CLEAN: usize = 8192;

/// Hides secrets in values that are much alike.
#[derive(Debug)]
pub(crate) struct Hiding<'a> {
    redaction: &'a Redaction,
    clean: HashSet<String>,
}

impl<'a> Hiding<'a> {
    pub(crate) fn new(redaction: &'a Redaction) -> Self {
        Self { redaction, clean: HashSet::new() }
    }

    /// As JSON, without secrets in any text of it.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Value {
        let mut value = serde_json::to_value(value).unwrap_or_default();
        self.hide(&mut value);
        value
    }

    fn hide(&mut self, value: &mut Value) {
        match value {
            Value::String(text) => self.hide_in(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.hide(value)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.hide(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn hide_in(&mut self, text: &mut String) {
        if self.clean.contains(text) {
            return;
        }
        match self.redaction.hide(text) {
            Cow::Owned(hidden) => *text = hidden,
            Cow::Borrowed(_) => {
                if self.clean.len() >= MAX_CLEAN {
                    self.clean.clear();
                }
                self.clean.insert(text.clone());
            }
        }
    }
}

/// Writes as JSON, without secrets if they are to be hidden.
pub(crate) fn write(to: &mut Vec<u8>, value: &impl Serialize, hiding: Option<&mut Hiding<'_>>) {
    // What is kept can be written as JSON: it was read from less. A vector always has room.
    let _ = match hiding {
        Some(hiding) => serde_json::to_writer(to, &hiding.json(value)),
        None => serde_json::to_writer(to, value),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_text_is_looked_at_and_many_need_little_memory() {
        let redaction = Redaction::new(&["customer-[0-9]+"]).unwrap();
        let mut hiding = Hiding::new(&redaction);
        let value = json!({ "a": ["--password=x1", "plain", { "b": "customer-7" }], "c": 5, "d": null, "e": "plain" });
        let hidden =
            json!({ "a": ["--password=[hidden]", "plain", { "b": "[hidden]" }], "c": 5, "d": null, "e": "plain" });
        for _ in 0..2 {
            assert_eq!(hiding.json(&value), hidden);
        }
        (0..3 * MAX_CLEAN).for_each(|number| drop(hiding.json(&number.to_string())));
        assert!(hiding.clean.len() <= MAX_CLEAN);
        assert_eq!(hiding.json(&value), hidden);
        let off = Redaction::off();
        assert_eq!(Hiding::new(&off).json(&value), value);
    }
}
