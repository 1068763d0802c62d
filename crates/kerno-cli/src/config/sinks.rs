//! `[[sink]]`: where alerts go.

use std::path::PathBuf;
use std::time::Duration;

use kerno::doctor;
use kerno::report::IncidentFilter;
use kerno_daemon::{
    JOURNAL_SOCKET, MAX_SINKS, Outbound, Place, SYSLOG_FACILITIES, Secret, SinkKind, SinkSettings, is_name,
};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::file::{Entries, Mistake, plain};
use super::{Config, list, severity, suggest, text};
use crate::values;

/// Keys that every kind has.
const COMMON: [&str; 9] =
    ["name", "kind", "severity", "rules", "units", "symptoms", "timeout", "group_wait", "per_minute"];

/// Keys of kinds over HTTP.
const HTTP: [&str; 2] = ["ca_file", "headers_file"];

/// The kinds with the keys that only they have.
const KINDS: [(&str, &[&str]); 9] = [
    ("alertmanager", &["url", "url_file", "url_env", "token_file", "token_env", "resend"]),
    ("webhook", &["url", "url_file", "url_env", "token_file", "token_env", "secret_file", "secret_env"]),
    ("slack", &["url_file", "url_env", "token_file", "token_env", "channel", "url"]),
    ("discord", &["url_file", "url_env"]),
    ("teams", &["url_file", "url_env"]),
    ("pagerduty", &["key_file", "key_env", "url"]),
    ("ntfy", &["url", "url_file", "url_env", "topic", "token_file", "token_env"]),
    ("syslog", &["address", "facility"]),
    ("journald", &["address"]),
];

/// What people may write who want to write a secret.
const SECRETS: [(&str, &str); 12] = [
    ("token", "token"),
    ("secret", "secret"),
    ("key", "key"),
    ("routing_key", "key"),
    ("integration_key", "key"),
    ("service_key", "key"),
    ("api_key", "token"),
    ("password", "headers"),
    ("headers", "headers"),
    ("authorization", "headers"),
    ("webhook_url", "url"),
    ("api_url", "url"),
];

const SLACK_API: &str = "https://slack.com/api/chat.postMessage";
const PAGERDUTY_API: &str = "https://events.pagerduty.com/v2/enqueue";
const NTFY: &str = "https://ntfy.sh";
const DEV_LOG: &str = "/dev/log";

/// The table of a sink while it is read.
struct Table<'a, 'i> {
    name: String,
    kind: &'static str,
    entries: Entries<'a, 'i>,
}

type Result<T> = std::result::Result<T, Mistake>;

impl Config {
    pub(super) fn add_sinks(&mut self, value: &Spanned<DeValue<'_>>, origin: &dyn Fn(usize) -> String) -> Result<()> {
        let wrong = || Mistake(value.span().start, "sinks are written [[sink]], one table each".to_owned());
        let tables = value.get_ref().as_array().ok_or_else(wrong)?;
        for table in tables.iter() {
            let entries = table.get_ref().as_table().ok_or_else(wrong)?;
            let sink = sink(table.span().start, entries)?;
            if self.sinks.iter().any(|(_, other)| other.name == sink.name) {
                return Err(Mistake(table.span().start, format!("there are two sinks named {:?}", sink.name)));
            }
            if self.sinks.len() == MAX_SINKS {
                return Err(Mistake(table.span().start, format!("there may be {MAX_SINKS} sinks")));
            }
            self.sinks.push((origin(table.span().start), sink));
        }
        Ok(())
    }
}

fn sink(start: usize, table: &DeTable<'_>) -> Result<SinkSettings> {
    let entries = Entries::of("sink", start, table);
    // Its kind decides which keys there are, wherever it stands.
    let kinds: Vec<_> = KINDS.iter().map(|(name, _)| *name).collect();
    let kind = entries
        .get("kind")
        .ok_or_else(|| Mistake(start, format!("a sink needs a kind; there are: {}", kinds.join(", "))))?;
    let at = kind.span().start;
    let named = text(&plain(kind))
        .map_err(|what| Mistake(at, format!("sink.kind is one of: {}; this is {what}", kinds.join(", "))))?;
    let Some((kind, own)) = KINDS.iter().find(|(name, _)| *name == named) else {
        return Err(Mistake(at, suggest::unknown("kind of sink", &named, &kinds)));
    };
    let http = !matches!(*kind, "syslog" | "journald");
    let known: Vec<_> = COMMON.iter().chain(*own).chain(HTTP.iter().filter(|_| http)).copied().collect();
    for (key, value) in &entries.all {
        let (word, at) = (key.get_ref().as_ref(), key.span().start);
        let instead = SECRETS.iter().find(|(secret, _)| *secret == word).map(|(_, instead)| *instead);
        if let Some(instead) = instead {
            let file = format!("{instead}_file");
            let environment = known.contains(&format!("{instead}_env").as_str());
            let environment = if environment { format!(", or {instead}_env") } else { String::new() };
            let why = format!(
                "secrets are not written into the configuration: put it in a file and name that with {file}{environment}"
            );
            return Err(Mistake(at, format!("sink.{word}: {why}")));
        }
        if word == "url" && matches!(*kind, "discord" | "teams") {
            let why = format!(
                "the URL of a webhook of {kind} is a secret: put it in a file and name that with url_file, or use url_env"
            );
            return Err(Mistake(value.span().start, format!("sink.url: {why}")));
        }
        if !known.contains(&word) {
            return Err(Mistake(at, suggest::unknown(&format!("setting of a {kind} sink"), word, &known)));
        }
    }
    let mut table = Table { name: String::new(), kind, entries };
    table.name = table.required("name", "a name such as \"team-chat\"")?;
    if !is_name(&table.name) {
        return Err(table.entries.wrong("name", "1 to 32 of a-z, 0-9, - and _", &format!("{:?}", table.name)));
    }
    let kind = table.kind()?;
    let timeout = table.time("timeout")?.unwrap_or(Duration::from_secs(10));
    if timeout > Duration::from_secs(300) {
        return Err(table.entries.wrong("timeout", "at most 5m", &format!("{timeout:?}")));
    }
    let group_wait = table.time("group_wait")?.unwrap_or(Duration::from_secs(5));
    if group_wait > Duration::from_secs(600) {
        return Err(table.entries.wrong("group_wait", "at most 10m", &format!("{group_wait:?}")));
    }
    Ok(SinkSettings {
        filters: table.filters()?,
        symptoms: table.flag("symptoms")?,
        outbound: Outbound {
            timeout,
            ca_file: table.text("ca_file", "a file")?.map(PathBuf::from),
            headers_file: table.text("headers_file", "a file")?.map(PathBuf::from),
            ..Outbound::default()
        },
        group_wait,
        per_minute: table.per_minute()?,
        kind,
        name: table.name.clone(),
    })
}

impl Table<'_, '_> {
    fn text(&self, key: &str, allowed: &str) -> Result<Option<String>> {
        let value =
            self.entries.value(key).map(|value| text(&value).map_err(|what| self.entries.wrong(key, allowed, &what)));
        let value = value.transpose()?;
        match value.as_deref().map(str::trim) {
            Some("") => Err(self.entries.wrong(key, allowed, "empty")),
            _ => Ok(value),
        }
    }

    fn required(&self, key: &str, allowed: &str) -> Result<String> {
        self.text(key, allowed)?
            .ok_or_else(|| Mistake(self.entries.start, format!("a {} sink needs {key}: {allowed}", self.kind)))
    }

    fn time(&self, key: &str) -> Result<Option<Duration>> {
        let Some(text) = self.text(key, "a time such as \"10s\"")? else { return Ok(None) };
        values::duration(&text).map(Some).map_err(|why| Mistake(self.entries.place(key), format!("sink.{key}: {why}")))
    }

    fn flag(&self, key: &str) -> Result<bool> {
        let value = self.entries.value(key).map(|value| super::boolean(&value));
        value.transpose().map(Option::unwrap_or_default).map_err(|what| self.entries.wrong(key, "true or false", &what))
    }

    fn names(&self, key: &str, allowed: &str) -> Result<Vec<String>> {
        let names =
            self.entries.value(key).map(|value| list(&value).map_err(|what| self.entries.wrong(key, allowed, &what)));
        Ok(names.transpose()?.unwrap_or_default())
    }

    fn per_minute(&self) -> Result<u32> {
        const ALLOWED: &str = "a number of messages, 1 to 600";
        let Some(value) = self.entries.value("per_minute") else { return Ok(20) };
        let number = super::number(&value).map_err(|what| self.entries.wrong("per_minute", ALLOWED, &what))?;
        if number.fract() != 0.0 || !(1.0..=600.0).contains(&number) {
            return Err(self.entries.wrong("per_minute", ALLOWED, &number.to_string()));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number within bounds")]
        Ok(number as u32)
    }

    /// One for each rule and unit; an incident has to pass one of them.
    fn filters(&self) -> Result<Vec<IncidentFilter>> {
        const ALLOWED: &str = "\"critical\", \"warning\" or \"info\"";
        let least = match self.text("severity", ALLOWED)? {
            Some(text) => {
                Some(severity(&text).ok_or_else(|| self.entries.wrong("severity", ALLOWED, &format!("{text:?}")))?)
            }
            None => None,
        };
        let rules = self.names("rules", "a list of rules such as [\"fd_leak\"]")?;
        let ids: Vec<_> = doctor::rules().map(|rule| rule.id).collect();
        if let Some(unknown) = rules.iter().find(|rule| !ids.contains(&rule.as_str())) {
            return Err(Mistake(self.entries.place("rules"), suggest::unknown("rule", unknown, &ids)));
        }
        let units = self.names("units", "a list of services such as [\"nginx.service\"]")?;
        let some = |names: Vec<String>| -> Vec<Option<String>> {
            if names.is_empty() { vec![None] } else { names.into_iter().map(Some).collect() }
        };
        let (rules, units) = (some(rules), some(units));
        let each = rules.iter().flat_map(|rule| units.iter().map(move |unit| (rule.clone(), unit.clone())));
        Ok(each
            .map(|(rule, unit)| IncidentFilter { severity: least, rule, unit, ..IncidentFilter::default() })
            .collect())
    }

    /// `NAME_file` or `NAME_env`.
    fn secret(&self, name: &str) -> Result<Option<Secret>> {
        let (file, environment) = (format!("{name}_file"), format!("{name}_env"));
        match (self.text(&file, "a file")?, self.text(&environment, "the name of a variable of the environment")?) {
            (Some(_), Some(_)) => {
                Err(Mistake(self.entries.place(&environment), format!("sink: either {file} or {environment}")))
            }
            (Some(path), None) => Ok(Some(Secret::File(path.into()))),
            (None, Some(variable)) => Ok(Some(Secret::Environment(variable))),
            (None, None) => Ok(None),
        }
    }

    fn url(&self, default: Option<&str>) -> Result<Place> {
        match (self.secret("url")?, self.text("url", "a URL")?) {
            (Some(_), Some(_)) => {
                Err(Mistake(self.entries.place("url"), "sink: either url, or url_file or url_env".to_owned()))
            }
            (Some(secret), None) => Ok(Place::Secret(secret)),
            (None, Some(url)) => {
                let place = Place::Plain(url);
                place.url().map_err(|error| Mistake(self.entries.place("url"), format!("sink.url: {error}")))?;
                Ok(place)
            }
            (None, None) => default.map(|url| Place::Plain(url.to_owned())).ok_or_else(|| {
                let keys = ["url", "url_file", "url_env"];
                let own = KINDS.iter().find(|(kind, _)| *kind == self.kind).map_or(&[][..], |(_, own)| own);
                let keys: Vec<_> = keys.into_iter().filter(|key| own.contains(key)).collect();
                Mistake(self.entries.start, format!("a {} sink needs {}", self.kind, keys.join(" or ")))
            }),
        }
    }

    fn kind(&self) -> Result<SinkKind> {
        Ok(match self.kind {
            "alertmanager" => {
                let resend = self.time("resend")?.unwrap_or(Duration::from_secs(60));
                if !(Duration::from_secs(1)..=Duration::from_secs(3600)).contains(&resend) {
                    return Err(self.entries.wrong("resend", "a time, 1s to 1h", &format!("{resend:?}")));
                }
                SinkKind::Alertmanager { url: self.url(None)?, token: self.secret("token")?, resend }
            }
            "webhook" => {
                SinkKind::Webhook { url: self.url(None)?, token: self.secret("token")?, secret: self.secret("secret")? }
            }
            "slack" => self.slack()?,
            "discord" => SinkKind::Discord { url: self.url(None)? },
            "teams" => SinkKind::Teams { url: self.url(None)? },
            "pagerduty" => {
                let key = self.secret("key")?;
                let key = key.ok_or_else(|| {
                    Mistake(self.entries.start, "a pagerduty sink needs key_file or key_env".to_owned())
                })?;
                SinkKind::PagerDuty { url: self.url(Some(PAGERDUTY_API))?, key }
            }
            "ntfy" => SinkKind::Ntfy {
                url: self.url(Some(NTFY))?,
                topic: self.required("topic", "the topic")?,
                token: self.secret("token")?,
            },
            "syslog" => {
                let address = self.text("address", "an address")?.unwrap_or_else(|| DEV_LOG.to_owned());
                let address = address
                    .parse()
                    .map_err(|why| Mistake(self.entries.place("address"), format!("sink.address: {why}")))?;
                let facility =
                    self.text("facility", "a facility such as \"daemon\"")?.unwrap_or_else(|| "daemon".to_owned());
                let number = SYSLOG_FACILITIES.iter().position(|name| *name == facility);
                let number = number.and_then(|number| u8::try_from(number).ok());
                let unknown = || {
                    Mistake(self.entries.place("facility"), suggest::unknown("facility", &facility, &SYSLOG_FACILITIES))
                };
                SinkKind::Syslog { address, facility: number.ok_or_else(unknown)? }
            }
            _ => SinkKind::Journald {
                socket: self.text("address", "a path")?.unwrap_or_else(|| JOURNAL_SOCKET.to_owned()).into(),
            },
        })
    }

    /// A webhook of a channel, or a bot with a token.
    fn slack(&self) -> Result<SinkKind> {
        let (token, channel) = (self.secret("token")?, self.text("channel", "a channel")?);
        match (&token, &channel) {
            (Some(_), Some(_)) => Ok(SinkKind::Slack { url: self.url(Some(SLACK_API))?, token, channel }),
            (Some(_), None) => Err(Mistake(self.entries.start, "a slack sink with a token needs channel".to_owned())),
            (None, Some(_)) => {
                let why =
                    "a slack sink with a channel needs token_file or token_env; a webhook has a channel of its own";
                Err(Mistake(self.entries.place("channel"), why.to_owned()))
            }
            (None, None) if self.entries.value("url").is_some() => {
                let why = "sink.url: the URL of a webhook of slack is a secret: put it in a file and name that with url_file, or use url_env";
                Err(Mistake(self.entries.place("url"), why.to_owned()))
            }
            (None, None) => {
                let missing =
                    "a slack sink needs url_file or url_env (a webhook), or token_file or token_env and channel";
                let url = self.secret("url")?.ok_or_else(|| Mistake(self.entries.start, missing.to_owned()))?;
                Ok(SinkKind::Slack { url: Place::Secret(url), token, channel })
            }
        }
    }
}
