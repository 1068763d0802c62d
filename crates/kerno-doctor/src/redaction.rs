//! Hides secrets in text that leaves the machine: command lines, paths and titles may have passwords and tokens in them.
//!
//! What is hidden is what is known to be secret by its form (a token of GitHub, a private key) or by the name before it (`--password=`,
//! `API_KEY=`). No such list is ever complete; patterns of one's own can be added.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use regex::bytes::{Regex, RegexBuilder};

#[cfg(test)]
mod tests;

/// What stands where a secret was.
pub const HIDDEN: &str = "[hidden]";

/// No pattern may become larger than this when it is compiled, in bytes.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// The most patterns of one's own.
const MAX_PATTERNS: usize = 64;

/// Names whose value is secret, wherever a name ends with one.
macro_rules! secret_name {
    () => {
        r"(?:password|passwd|passphrase|passcode|secrets?|token|credentials?|api[_.-]?key|access[_.-]?key(?:[_.-]?id)?|secret[_.-]?key|secret[_.-]?access[_.-]?key|auth[_.-]?key|account[_.-]?key|encryption[_.-]?key|master[_.-]?key|requirepass|masterauth)"
    };
}

/// A value up to where it ends, with or without quotes.
macro_rules! value {
    ($group:literal, $end:literal) => {
        concat!(
            r#"(?:"(?P<"#,
            $group,
            r#"_a>[^"]+)"|'(?P<"#,
            $group,
            r#"_b>[^']+)'|(?P<"#,
            $group,
            r#"_c>[^\s'""#,
            $end,
            r#"][^\s"#,
            $end,
            r#"]*))"#
        )
    };
}

/// In each, the groups whose names begin with `secret` are hidden, or else everything that matches.
const KNOWN: &[&str] = &[
    // Keys, before what else might look like a part of them.
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|$)",
    r"\bAGE-SECRET-KEY-1[A-Z0-9]+",
    // URLs.
    r#"://[^\s/:@'"]*:(?P<secret>[^\s/'"]+)@"#,
    r"://(?P<secret>[A-Za-z0-9_-]{20,})@",
    r"(?i)\bhooks\.slack(?:-gov)?\.com/(?:services|workflows|triggers)/(?P<secret>[^\s'\x22]+)",
    r"(?i)\bdiscord(?:app)?\.com/api/(?:v\d+/)?webhooks/\d+/(?P<secret>[\w-]+)",
    r#"(?i)[?&](?:key|sig|signature|code|auth|pass|pwd|sas|x-amz-signature|x-amz-credential|x-amz-security-token|x-goog-signature)=(?P<secret>[^\s&#'"]+)"#,
    // Headers.
    r#"(?i)\b(?:proxy-)?authorization['"]?\s*[:=]\s*['"]?(?:(?:basic|bearer|digest|token|negotiate|apikey|aws4-hmac-sha256)\s+)?(?P<secret>[^\s'"][^'"\r\n]*)"#,
    r"(?i)\bbearer\s+(?P<secret>[A-Za-z0-9._~+/=-]{16,})",
    r#"(?i)\b(?:x-[a-z0-9-]*(?:key|token|secret|auth|password)|private-token|job-token|deploy-token|api-key)\s*:\s*(?P<secret>[^\s'"]+)"#,
    r#"(?i)\b(?:set-)?cookie\s*:\s*(?P<secret>[^'"\r\n]+)"#,
    // Options: --db-password=x, --password x, -Dkey.password=x.
    concat!(r#"(?i)(?:^|[\s'"=])-{1,2}[a-z0-9_.-]*"#, secret_name!(), "=", value!("secret", "")),
    concat!(
        r#"(?i)(?:^|[\s'"])--?(?:[a-z0-9_.-]*[_.-])?(?:"#,
        secret_name!(),
        r#"|pass|pwd)\s+(?:"(?P<secret_a>[^"]+)"|'(?P<secret_b>[^']+)'|(?P<secret_c>[^\s'"-]\S*))"#
    ),
    concat!(r#"(?i)(?:^|[\s'"])--?(?:[a-z0-9_.-]*[_.-])?(?:pass|pwd)="#, value!("secret", "")),
    // Assignments: in the environment, in queries, in connection strings.
    concat!(r"(?i)\b[a-z0-9_.-]*", secret_name!(), "=", value!("secret", "&;,#")),
    concat!(r#"(?i)(?:^|[\s;,"'])(?:[a-z0-9_]*_)?pass="#, value!("secret", "&;,")),
    concat!(r"(?i);\s*pwd\s*=\s*", value!("secret", "&;,")),
    r#"(?i)\b(?:sharedaccess|account)key=(?P<secret>[^\s;'"]+)"#,
    // JSON and the like: "password": "x".
    concat!(r#"(?i)["'][a-z0-9_.-]*(?:"#, secret_name!(), r#"|pass|pwd)["']\s*[:=]\s*["'](?P<secret>[^"']+)["']"#),
    r#"(?i)\b(?:[a-z0-9_.-]*[_.-])?(?:password|passwd|passphrase|secret|api[_-]?key)\s*:\s*(?P<secret>[^\s'",;]+)"#,
    // Programs whose short options are secrets.
    r"\b(?:mysql|mariadb)[a-z_-]*\s(?:[^|;\n]*?\s)??-p(?P<secret>[^\s=]\S*)",
    r"\bsshpass\s(?:[^|;\n]*?\s)??-p\s*(?P<secret>[^\s-]\S*)",
    r#"\bcurl\s(?:[^|;\n]*?\s)??(?:-u\s*|-U\s*|--user[\s=]+|--proxy-user[\s=]+)['"]?[^\s:'"]+:(?P<secret>[^\s'"]+)"#,
    r#"\bwget\s(?:[^|;\n]*?\s)??--(?:http-|ftp-|proxy-)?passw(?:or)?d[\s=]+(?P<secret>[^\s'"]+)"#,
    r"\bredis-cli\s(?:[^|;\n]*?\s)??-a\s+(?P<secret>\S+)",
    r"\bmongo(?:sh|dump|restore|export|import|stat|top)?\s(?:[^|;\n]*?\s)??-p\s*(?P<secret>[^\s-]\S*)",
    r"\bldap[a-z]+\s(?:[^|;\n]*?\s)??-w\s*(?P<secret>\S+)",
    r"\bsmbclient\s(?:[^|;\n]*?\s)??-U\s*[^\s%]+%(?P<secret>\S+)",
    r"\b(?:sqlcmd|bcp|isql|zip|unzip|mosquitto_[a-z]+|ipmitool)\s(?:[^|;\n]*?\s)??-P\s*(?P<secret>[^\s-]\S*)",
    r"\b(?:7z[ar]?|7zz|rar|unrar)\s(?:[^|;\n]*?\s)??-h?p(?P<secret>[^\s-]\S*)",
    r"\bsnmp[a-z]+\s(?:[^|;\n]*?\s)??-[cAX]\s*(?P<secret>[^\s-]\S*)",
    r"\bopenssl\s(?:[^|;\n]*?\s)??-k\s+(?P<secret>\S+)",
    r"\b(?:htpasswd|mkpasswd)\s(?:-\w+\s+)*-\w*b\w*\s+\S+\s+\S+\s+(?P<secret>\S+)",
    r"(?:^|\s)-pass(?:in|out)?\s+pass:(?P<secret>\S+)",
    // Tokens that are known by their form.
    r"\b(?:AKIA|ASIA|AGPA|AIDA|AROA|ANPA|ANVA|ABIA|ACCA)[A-Z0-9]{16}\b",
    r"\bgh[pousr]_[A-Za-z0-9]{16,}",
    r"\bgithub_pat_[A-Za-z0-9_]{22,}",
    r"\bgl(?:pat|ptt|dt|rt|soat|cbt|agent|ffct|imt)-[A-Za-z0-9_-]{16,}",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{8,}",
    r"\bxapp-[A-Za-z0-9-]{8,}",
    r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*)?",
    r"\bAIza[A-Za-z0-9_-]{35}",
    r"\bya29\.[A-Za-z0-9_-]{20,}",
    r"\b(?:[sr]k|whsec)_(?:live_|test_)?[A-Za-z0-9]{16,}",
    r"\bnpm_[A-Za-z0-9]{30,}",
    r"\bpypi-[A-Za-z0-9_-]{20,}",
    r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    r"\bsk-[A-Za-z0-9_-]{20,}",
    r"\bhf_[A-Za-z0-9]{20,}",
    r"\bdo[opr]_v1_[a-f0-9]{40,}",
    r"\bhv[sbr]\.[A-Za-z0-9_-]{20,}",
    r"\bdckr_pat_[A-Za-z0-9_-]{20,}",
    r"\bATATT3[A-Za-z0-9_=-]{20,}",
    r"\bSK[0-9a-f]{32}\b",
    r"\bkey-[0-9a-f]{32}\b",
    r"\d{8,10}:AA[A-Za-z0-9_-]{33}\b",
    r"\btskey-[a-z]+-[A-Za-z0-9-]{10,}",
    r"\bglc_[A-Za-z0-9+/=]{32,}|\bglsa_[A-Za-z0-9_]{32,}",
];

/// Why a pattern cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PatternError {
    /// It is no regular expression, or too large a one.
    #[error("{pattern:?} is no regular expression: {why}")]
    Syntax {
        /// The pattern.
        pattern: String,
        /// What is wrong with it, in one line.
        why: String,
    },
    /// It matches the empty text, so it would hide nothing, everywhere.
    #[error("{0:?} matches the empty text")]
    Empty(String),
    /// There are too many.
    #[error("{0} patterns are too many; there may be 64")]
    TooMany(usize),
}

/// Hides secrets in text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Redaction {
    patterns: Arc<[Regex]>,
    on: bool,
}

impl Default for Redaction {
    /// What is known to be secret.
    fn default() -> Self {
        Self { patterns: Arc::from([]), on: true }
    }
}

impl PartialEq for Redaction {
    fn eq(&self, other: &Self) -> bool {
        let texts = |patterns: &[Regex]| patterns.iter().map(|one| one.as_str().to_owned()).collect::<Vec<_>>();
        self.on == other.on && texts(&self.patterns) == texts(&other.patterns)
    }
}

impl Redaction {
    /// Also hides what these regular expressions match; if one has groups whose names begin with `secret`, only those.
    ///
    /// # Errors
    /// For the first pattern that cannot be used.
    pub fn new<S: AsRef<str>>(patterns: &[S]) -> Result<Self, PatternError> {
        if patterns.len() > MAX_PATTERNS {
            return Err(PatternError::TooMany(patterns.len()));
        }
        let patterns = patterns.iter().map(|pattern| compiled(pattern.as_ref())).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { patterns: patterns.into(), on: true })
    }

    /// Hides nothing.
    pub fn off() -> Self {
        Self { patterns: Arc::from([]), on: false }
    }

    /// The text with [`HIDDEN`] where a secret was.
    pub fn hide<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if !self.on {
            return Cow::Borrowed(text);
        }
        let mut found = Vec::new();
        for pattern in known().iter().chain(&*self.patterns) {
            secrets(pattern, text, &mut found);
        }
        if found.is_empty() {
            return Cow::Borrowed(text);
        }
        found.sort_by_key(|range| (range.start, range.end));
        let (mut out, mut end) = (String::with_capacity(text.len()), 0);
        for range in found {
            if range.start >= end {
                out.push_str(text.get(end..range.start).unwrap_or_default());
                out.push_str(HIDDEN);
            }
            end = end.max(range.end);
        }
        out.push_str(text.get(end..).unwrap_or_default());
        Cow::Owned(out)
    }

    /// Whether there is a secret in it.
    pub fn finds(&self, text: &str) -> bool {
        matches!(self.hide(text), Cow::Owned(_))
    }
}

fn compiled(pattern: &str) -> Result<Regex, PatternError> {
    let regex = RegexBuilder::new(pattern).size_limit(MAX_COMPILED_BYTES).build().map_err(|error| {
        let text = error.to_string();
        let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        PatternError::Syntax { pattern: pattern.to_owned(), why }
    })?;
    if regex.is_match(b"") {
        return Err(PatternError::Empty(pattern.to_owned()));
    }
    Ok(regex)
}

/// Compiled once, by whoever needs them first.
fn known() -> &'static [Regex] {
    static PATTERNS: OnceLock<Vec<Regex>> = OnceLock::new();
    // That all of them compile is tested.
    PATTERNS.get_or_init(|| KNOWN.iter().filter_map(|pattern| known_one(pattern).ok()).collect())
}

/// Names and ends of secrets are ASCII. Patterns that know no other characters take a fraction of the memory.
fn known_one(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(pattern).unicode(false).build()
}

/// Whole characters, whatever the pattern matched.
fn widened(text: &str, mut range: Range<usize>) -> Range<usize> {
    while !text.is_char_boundary(range.start) {
        range.start -= 1;
    }
    while !text.is_char_boundary(range.end) {
        range.end += 1;
    }
    range
}

fn secrets(pattern: &Regex, text: &str, found: &mut Vec<Range<usize>>) {
    for captures in pattern.captures_iter(text.as_bytes()) {
        let is_secret = |name: &Option<&str>| name.is_some_and(|name| name.starts_with("secret"));
        let mut groups = pattern.capture_names().enumerate().filter(|(_, name)| is_secret(name)).peekable();
        let ranges: Vec<_> = if groups.peek().is_none() {
            captures.get(0).map(|whole| whole.range()).into_iter().collect()
        } else {
            groups.filter_map(|(index, _)| captures.get(index)).map(|group| group.range()).collect()
        };
        // What is hidden already is no secret.
        let ranges = ranges.into_iter().map(|range| widened(text, range));
        found.extend(ranges.filter(|range| text.get(range.clone()).is_some_and(|secret| secret != HIDDEN)));
    }
}
