//! Guesses what a misspelt name means.

/// The candidate most like this word, if one is close.
pub(super) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Words that differ more are no suggestion.
    const ALIKE: f64 = 0.6;
    // Its cost grows with the square of the length.
    if word.len() > 100 {
        return None;
    }
    let alike = |candidate: &&str| strsim::normalized_damerau_levenshtein(word, candidate);
    let best = candidates.into_iter().max_by(|a, b| alike(a).total_cmp(&alike(b)))?;
    (alike(&best) >= ALIKE || (word.len() >= 4 && best.contains(word))).then_some(best)
}

/// `unknown section "rulez"; did you mean "rules"? There are: rules, doctor`
pub(super) fn unknown(what: &str, word: &str, candidates: &[&str]) -> String {
    let meant = nearest(word, candidates.iter().copied());
    let meant = meant.map_or_else(|| ".".to_owned(), |nearest| format!("; did you mean {nearest:?}?"));
    format!("unknown {what} {word:?}{meant} There are: {}", candidates.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_found_and_others_are_not() {
        let rules = ["fd_leak", "fd_exhaustion", "disk_full"];
        assert_eq!(nearest("fd_lek", rules), Some("fd_leak"));
        assert_eq!(nearest("fdleak", rules), Some("fd_leak"));
        assert_eq!(nearest("dsik_full", rules), Some("disk_full"));
        assert_eq!(nearest("exhaustion", rules), Some("fd_exhaustion"));
        assert_eq!(nearest("weather", rules), None);
        assert_eq!(nearest("", rules), None);
        assert_eq!(nearest("x", []), None);
        assert_eq!(nearest(&"fd_leak".repeat(100_000), rules), None);
    }
}
