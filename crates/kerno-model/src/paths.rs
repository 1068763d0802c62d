//! Tree relations between the paths of cgroups or files.

/// Whether a path is `outer` or below it. Compares whole names: `/a/b` is within `/a`, `/ab` is not. Everything is within `/`.
pub fn is_within(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether a path is below `outer` but not `outer` itself.
pub fn is_below(path: &str, outer: &str) -> bool {
    path.strip_prefix(outer.trim_end_matches('/')).is_some_and(|rest| rest.len() > 1 && rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_names_count() {
        assert!(is_within("/a/b", "/a") && is_within("/a", "/a") && is_within("/a", "/") && is_within("/", "/"));
        assert!(!is_within("/ab", "/a") && !is_within("/a", "/a/b"));
        assert!(is_below("/a/b", "/a") && is_below("/a/b", "/a/") && is_below("/a", "/"));
        assert!(!is_below("/a", "/a") && !is_below("/ab", "/a") && !is_below("/", "/"));
    }
}
