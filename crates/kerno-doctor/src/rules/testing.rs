//! What the tests of all rules have in common.

use kerno_model::{Finding, Subject};

use crate::{Words, words};

/// The words of a finding are made of it alone: they are the same after it was saved and read back, and still sensible when parts of it
/// are missing, as in one that another version saved.
pub(super) fn words_survive(finding: &Finding) {
    let json = serde_json::to_string(finding).unwrap();
    assert_eq!(words(&serde_json::from_str(&json).unwrap()), words(finding), "{json}");
    sensible(&words(finding));
    let without = |strip: fn(&mut Finding)| {
        let mut stripped = finding.clone();
        strip(&mut stripped);
        sensible(&words(&stripped));
    };
    without(|finding| finding.facts.clear());
    without(|finding| finding.evidence.clear());
    without(|finding| finding.subject = Subject::default());
    without(|finding| finding.variant = "of another version".into());
    without(|finding| *finding = Finding::new(finding.rule.clone(), finding.severity));
    for evidence in &finding.evidence {
        let known = crate::rule_by_id(finding.rule.as_str()).unwrap().evidence;
        assert!(known.iter().any(|(quantity, _)| evidence.quantity == *quantity), "{} has no label", evidence.quantity);
    }
}

fn sensible(words: &Words) {
    let Words { title, cause, impact, .. } = words;
    assert!(!title.is_empty() && !title.ends_with([':', ',', ' ', '.']), "{title:?}");
    assert!(cause.ends_with('.') && impact.ends_with('.'), "{cause:?} {impact:?}");
    for text in [title, cause, impact] {
        assert!(!["  ", "unknown", "NaN", " ,", " :", "()"].iter().any(|wrong| text.contains(wrong)), "{text:?}");
    }
}
