//! Nothing that is rendered for people decides what explains what: with every such text blanked, or turned into something misleading,
//! the same findings get the same links, ranks and fixes.

use kerno_model::{Fact, Finding, Value, Window};

use super::{recorded, windows};
use crate::{Thresholds, relate, rules};

/// Puts a text in the place of each that is there for people to read.
fn say(finding: &mut Finding, text: &str) {
    let text = || text.to_owned();
    finding.exemplars.iter_mut().for_each(|exemplar| exemplar.what = text());
    for fix in &mut finding.fixes {
        (fix.command, fix.why) = (text(), text());
    }
    finding.evidence.iter_mut().filter_map(|evidence| evidence.of.as_mut()).for_each(|of| *of = text());
    for fact in &mut finding.facts {
        match fact {
            Fact::Detail { value: Value::Text(words), .. } => *words = text(),
            Fact::Detail { value: Value::Process(process), .. } => process.comm = text(),
            _ => {}
        }
    }
    finding.consequences.iter_mut().for_each(|consequence| say(consequence, &text()));
}

fn said(mut findings: Vec<Finding>, text: &str) -> Vec<Finding> {
    findings.iter_mut().for_each(|finding| say(finding, text));
    findings
}

fn judged(window: &Window) -> Vec<Finding> {
    rules().flat_map(|rule| (rule.judge)(window, &Thresholds::default())).collect()
}

/// Windows made by hand, and those of the corpus.
fn all() -> impl Iterator<Item = (String, Window)> {
    let recorded = std::iter::once_with(recorded::cases).flatten().map(|case| (case.name, case.window));
    windows::all().into_iter().map(|(name, window, _)| (name.to_owned(), window)).chain(recorded)
}

fn links(findings: &[Finding]) -> usize {
    findings.iter().map(|finding| finding.consequences.len() + links(&finding.consequences)).sum()
}

/// Whom each finding names, root causes first to last, each with those under it.
fn told(findings: &[Finding]) -> Vec<super::Outline> {
    findings.iter().map(super::Outline::of).collect()
}

/// What a finding's place is told by: rule, process, the effect that it came through, what its fixes act on.
type Placed = (String, Option<u32>, Option<kerno_model::Effect>, Vec<kerno_model::Entity>);

#[test]
fn words_decide_nothing() {
    for (name, window) in all() {
        let findings = judged(&window);
        let related = relate(findings.clone(), &window);
        for text in
            ["", "log-writer (4711) fails to write /var/log on sda1: ENOSPC, EMFILE, 127.0.0.1:5432 refused, fsync"]
        {
            let otherwise = relate(said(findings.clone(), text), &window);
            assert_eq!(told(&otherwise), told(&related), "{name}: with {text:?} in each text");
            // The whole findings, not only their outlines.
            assert_eq!(otherwise, said(related.clone(), text), "{name}: with {text:?} in each text");
        }
    }
}

#[test]
fn windows_made_by_hand_have_links_to_lose() {
    for (name, window, least) in windows::all() {
        let related = relate(judged(&window), &window);
        assert!(links(&related) >= least, "{name}: {:#?}", told(&related));
    }
}

#[test]
fn names_of_processes_decide_no_links() {
    /// What a finding is, without whom it is about by name.
    fn shape(finding: &Finding) -> Placed {
        let targets = finding.fixes.iter().map(|fix| fix.acts_on.clone()).collect();
        (format!("{} {}", finding.rule, finding.variant), finding.pid(), finding.through, targets)
    }
    fn shapes(findings: &[Finding]) -> Vec<(usize, Placed)> {
        findings
            .iter()
            .flat_map(|finding| {
                let below = shapes(&finding.consequences).into_iter().map(|(depth, shape)| (depth + 1, shape));
                std::iter::once((0, shape(finding))).chain(below).collect::<Vec<_>>()
            })
            .collect()
    }
    fn rename(subject: &mut kerno_model::Subject) {
        if let Some(process) = &mut subject.process {
            process.comm = "log-writer".to_owned();
        }
    }
    fn renamed(finding: &mut Finding) {
        rename(&mut finding.subject);
        finding.victims.iter_mut().for_each(rename);
    }
    for (name, window) in all() {
        let findings = judged(&window);
        let mut otherwise = findings.clone();
        otherwise.iter_mut().for_each(renamed);
        assert_eq!(shapes(&relate(otherwise, &window)), shapes(&relate(findings, &window)), "{name}");
    }
}

#[test]
fn the_order_in_which_findings_come_decides_nothing() {
    for (name, window) in all() {
        let findings = judged(&window);
        let related = relate(findings.clone(), &window);
        let mut order = findings;
        // Every rotation, forwards and backwards.
        for _ in 0..2 {
            for _ in 0..order.len() {
                order.rotate_left(1);
                assert_eq!(relate(order.clone(), &window), related, "{name}");
            }
            order.reverse();
        }
    }
}
