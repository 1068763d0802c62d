//! What the tests of each rule check about its words.

use kerno_model::{Fact, Finding, Subject};

/// Checks that the words of a finding are made of the finding alone: they are the same after it was saved and read back,
/// and there are words whatever of it is missing, as it may be in one that another version saved.
pub(crate) fn words_hold(finding: &Finding) {
    let words = crate::words(finding);
    let saved = serde_json::to_string(finding).unwrap();
    let read: Finding = serde_json::from_str(&saved).unwrap();
    assert_eq!(crate::words(&read), words, "read back");
    for text in [&words.title, &words.cause, &words.impact] {
        assert!(!text.is_empty() && !text.contains(['{', '}']), "{words:?}");
        assert!(!["  ", "NaN", " ,", " :", " ()"].iter().any(|wrong| text.contains(wrong)), "{text:?}");
    }
    assert_eq!(words.outlook.is_empty(), finding.eta.is_none(), "{words:?}");
    let rule = crate::rule_by_id(finding.rule.as_str()).expect("the rule is among all");
    for evidence in &finding.evidence {
        let known = rule.evidence.iter().find(|(quantity, _)| evidence.quantity == *quantity);
        let (quantity, label) = known.unwrap_or_else(|| panic!("{} has no label", evidence.quantity));
        assert_eq!(label.contains("{}"), evidence.of.is_some(), "{quantity}: {label}");
    }

    let no_details = |finding: &mut Finding| finding.facts.retain(|fact| !matches!(fact, Fact::Detail { .. }));
    let strip: &[&dyn Fn(&mut Finding)] = &[
        &no_details,
        &|finding| finding.facts.clear(),
        &|finding| finding.evidence.clear(),
        &|finding| finding.victims.clear(),
        &|finding| finding.subject = Subject::default(),
        &|finding| finding.eta = None,
        &|finding| finding.variant = "of another version".into(),
    ];
    let check = |stripped: &Finding| {
        let words = crate::words(stripped);
        assert!(!words.title.is_empty() && !words.title.ends_with([':', ',', ' ']), "{words:?}");
        assert!(!words.title.contains("unknown") && !words.title.contains("without limit"), "{words:?}");
        assert_eq!(words.outlook.is_empty(), stripped.eta.is_none(), "{words:?}");
    };
    let mut bare = finding.clone();
    for strip in strip {
        let mut stripped = finding.clone();
        strip(&mut stripped);
        check(&stripped);
        strip(&mut bare);
        check(&bare);
    }
    for index in 0..finding.facts.len() {
        let mut stripped = finding.clone();
        stripped.facts.remove(index);
        check(&stripped);
    }
    for index in 0..finding.evidence.len() {
        let mut stripped = finding.clone();
        stripped.evidence.remove(index);
        check(&stripped);
    }
}
