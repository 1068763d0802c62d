use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use super::*;

fn from_file(text: &str) -> Result<Config, String> {
    let mut config = Config::default();
    config.apply_file(Path::new("/x/config.toml"), text).map(|()| config).map_err(|error| format!("{error:#}"))
}

fn from_environment(variables: &[(&str, &str)]) -> Result<Config, String> {
    let variables: Vec<_> = variables.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let mut config = Config::default();
    config.apply_environment(&variables).map(|()| config).map_err(|error| format!("{error:#}"))
}

/// A rule with a threshold, whichever there is.
fn some_threshold() -> (&'static Rule, &'static ThresholdInfo) {
    let rule = doctor::rules().find(|rule| !rule.thresholds.is_empty()).unwrap();
    (rule, &rule.thresholds[0])
}

#[test]
fn a_file_sets_what_it_names() {
    let (rule, info) = some_threshold();
    let text = format!(
        "# ours\n[rules.{}]\n{} = {:?}\n\n[doctor]\nduration = '10s'\ninterval = '1m'\nfail_on = 'warning'\n\
         signals = ['tcp', 'disk_io']\nredact = true\n",
        rule.id, info.name, info.max
    );
    let config = from_file(&text).unwrap();
    assert_eq!(config.threshold(rule, info), (info.max, Some("/x/config.toml:3")));
    assert_eq!(config.doctor.duration, Some(Duration::from_secs(10)));
    assert_eq!(config.doctor.interval, Some(Duration::from_secs(60)));
    assert_eq!(config.doctor.fail_on, Some(Severity::Warning));
    assert_eq!(config.doctor.signals, Some(vec!["tcp".to_owned(), "disk_io".to_owned()]));
    assert_eq!(config.doctor.redact, Some(true));
    for nothing in ["", "[rules]\n", "[doctor]\n", "# only words", "\u{feff}"] {
        let config = from_file(nothing).unwrap();
        assert_eq!(config.threshold(rule, info), (info.default, None));
    }
}

#[test]
fn the_environment_sets_what_it_names_over_the_file() {
    let (rule, info) = some_threshold();
    let name = format!("KERNO_{}__{}", rule.id.to_uppercase(), info.name.to_uppercase());
    let config = from_environment(&[
        (&name, &info.min.to_string()),
        ("KERNO_DOCTOR__SIGNALS", "tcp, fd"),
        ("KERNO_DOCTOR__REDACT", "false"),
        ("KERNO_CONFIG", "/x"),
        ("PATH", "/bin"),
        ("KERNO_SERVICE_HOST", "10.0.0.1"),
        ("KERNO_API_PORT_9090_TCP_ADDR", "10.0.0.1"),
    ])
    .unwrap();
    assert_eq!(config.threshold(rule, info), (info.min, Some(name.as_str())));
    assert_eq!(config.doctor.signals, Some(vec!["tcp".to_owned(), "fd".to_owned()]));
    assert_eq!(config.doctor.redact, Some(false));
}

#[test]
fn mistakes_in_a_file_name_the_place_and_what_is_allowed() {
    let (rule, info) = some_threshold();
    let (id, name) = (rule.id, info.name);
    let cases = [
        ("x = 1", ":1:1: unknown section \"x\"."),
        ("[rulez.a]\nb = 1", ":1:2: unknown section \"rulez\"; did you mean \"rules\"? There are: rules, doctor"),
        ("rules = 3", ":1:9: \"rules\" is a table, written [rules]; this is of type integer"),
        ("[rules]\nno_such_rule = {}", ":2:1: unknown rule \"no_such_rule\""),
        ("[rules.no_such_rule]\na = 1", ":1:8: no rule \"no_such_rule\"; there are: "),
        (&format!("[rules]\n{id} = 7"), ":2:"),
        (&format!("[rules.{id}]\n\n  {name}x = 1"), &format!(":3:3: rule {id} has no threshold \"{name}x\"; it has: ")),
        (&format!("[rules.{id}]\n{name}x = 1"), &format!("did you mean \"{name}\"?")),
        (&format!("[rules.{id}x]\n{name} = 1"), &format!("did you mean \"{id}\"?")),
        (&format!("[rules.{id}]\n{name} = '20'"), "is a number, "),
        (&format!("[rules.{id}]\n{name} = '20'"), "this is the text \"20\""),
        (&format!("[rules.{id}]\n{name} = true"), "this is true"),
        (&format!("[rules.{id}]\n{name} = 1979-05-27"), "this is a date"),
        (&format!("[rules.{id}]\n{name} = {{ a = 1 }}"), "this is a table"),
        (&format!("[rules.{id}]\n{name} = [1]"), "this is a list"),
        (&format!("[rules.{id}]\n{name} = nan"), "is allowed"),
        (&format!("[rules.{id}]\n{name} = -inf"), "is allowed"),
        (&format!("[rules.{id}]\n{name} = -1e300"), "is allowed"),
        (&format!("[rules.{id}]\n{name} = {}", "9".repeat(500)), "beyond all bounds"),
        (&format!("[rules.{id}]\n{name} = 1\n{name} = 2"), ":3:"),
        ("[doctor]\nduraton = '3s'", ":2:1: unknown setting of doctor \"duraton\"; did you mean \"duration\"?"),
        ("[doctor]\nduration = 30", ":2:12: doctor.duration is a time such as \"30s\"; this is the number 30"),
        ("[doctor]\nduration = '30'", "such as 500us, 20ms"),
        ("[doctor]\nduration = '0s'", "longer than zero"),
        ("[doctor]\nfail_on = 'fatal'", "\"critical\", \"warning\" or \"info\"; this is \"fatal\""),
        ("[doctor]\nsignals = 'tcp'", "is a list such as"),
        ("[doctor]\nsignals = ['tpc']", "unknown signal \"tpc\"; did you mean \"tcp\"?"),
        ("[doctor]\nsignals = [1]", "a list of other things"),
        ("[doctor]\nsignals = []", "an empty one"),
        ("[doctor]\nredact = 'yes'", "true or false"),
        ("[redaction]\npatterns = ['(']", ":2:12: redaction.patterns: \"(\" is no regular expression"),
        ("[redaction]\npattern = ['x']", "unknown setting of redaction \"pattern\"; did you mean \"patterns\"?"),
        ("[redaction]\nenabled = 'no'", "true or false"),
        ("[otlp]\nendpont = 'x'", ":2:1: unknown setting of otlp \"endpont\"; did you mean \"endpoint\"?"),
        ("[otlp]\nprotocol = 'http/json'", ":2:12: otlp.protocol: expected \"grpc\" or \"http/protobuf\""),
        ("[otlp]\ninterval = 60", ":2:12: otlp.interval is a time such as \"10s\"; this is the number 60"),
        ("[otlp]\ncompression = 'zstd'", "otlp.compression is \"gzip\" or \"none\"; this is \"zstd\""),
        ("[otlp]\nqueue = 1.5", "otlp.queue is a whole number"),
        ("[otlp]\nresource_attributes = ['x']", "such as [\"deployment.environment.name=prod\"]; this is \"x\""),
        (
            "[otlp]\nheaders = ['authorization=Bearer x']",
            ":2:11: otlp.headers: the value of \"authorization\" does not",
        ),
        (
            "[otlp]\nheaders = { authorization = 'x' }",
            "such as [\"authorization=file:/etc/kerno/token\"]; this is a table",
        ),
        ("sink = 1", "sinks are written [[sink]]"),
        ("[sink]\nname = 'a'", "sinks are written [[sink]]"),
        ("[[sink]]\nname = 'a'", ":1:1: a sink needs a kind"),
        ("[[sink]]\nkind = 'slak'", ":2:8: unknown kind of sink \"slak\"; did you mean \"slack\"?"),
        ("[[sink]]\nkind = 'journald'", ":1:1: a journald sink needs name"),
        ("[[sink]]\nkind = 'journald'\nname = 'A'", ":3:8: sink.name is 1 to 32 of a-z"),
        ("[[sink]]\nkind = 'journald'\nname = 'a'\nurl = 'x'", ":4:1: unknown setting of a journald sink \"url\""),
        ("[[sink]]\nkind = 'webhook'\nname = 'a'", "a webhook sink needs url or url_file or url_env"),
        ("[[sink]]\nkind = 'webhook'\nname = 'a'\nurl = 'x'", ":4:7: sink.url: \"x\" is no URL"),
        (
            "[[sink]]\nkind = 'webhook'\nname = 'a'\nurl = 'http://u:p@x'",
            "put the whole URL, or an Authorization header",
        ),
        (
            "[[sink]]\nkind = 'webhook'\nname = 'a'\nurl = 'http://x/?token=p'",
            ":4:7: sink.url: the URL has a secret in it",
        ),
        ("[[sink]]\nkind = 'webhook'\nname = 'a'\nsecret = 'x'", ":4:1: sink.secret: secrets are not written"),
        ("[[sink]]\nkind = 'webhook'\nname = 'a'\npassword = 'x'", "name that with headers_file"),
        ("[[sink]]\nkind = 'pagerduty'\nname = 'a'\nrouting_key = 'x'", "name that with key_file, or key_env"),
        ("[[sink]]\nkind = 'slack'\nname = 'a'\nurl = 'https://x'", "webhook of slack is a secret"),
        ("[[sink]]\nkind = 'discord'\nname = 'a'\nurl = 'https://x'", "webhook of discord is a secret"),
        ("[[sink]]\nkind = 'slack'\nname = 'a'\ntoken_env = 'X'", "needs channel"),
        ("[[sink]]\nkind = 'ntfy'\nname = 'a'", "a ntfy sink needs topic"),
        ("[[sink]]\nkind = 'syslog'\nname = 'a'\naddress = 'x:1'", "such as /dev/log"),
        ("[[sink]]\nkind = 'syslog'\nname = 'a'\nfacility = 'x'", "unknown facility"),
        (
            "[[sink]]\nkind = 'journald'\nname = 'a'\nper_minute = 0",
            ":4:14: sink.per_minute is a number of messages, 1 to 600",
        ),
        ("[[sink]]\nkind = 'journald'\nname = 'a'\nrules = ['fd_lek']", ":4:9: unknown rule \"fd_lek\""),
        ("[[sink]]\nkind = 'journald'\nname = 'a'\nseverity = 'bad'", ":4:12: sink.severity is \"critical\""),
        ("[[sink]]\nkind = 'journald'\nname = 'a'\ntimeout = '1h'", "at most 5m"),
        (
            "[[sink]]\nkind = 'journald'\nname = 'a'\n[[sink]]\nkind = 'journald'\nname = 'a'",
            ":4:1: there are two sinks named \"a\"",
        ),
        ("[doctor", ":1:"),
        ("a = \n", ":1:"),
        ("\n\n  é = = 1", ":3:"),
    ];
    for (text, why) in &cases {
        let error = from_file(text).unwrap_err();
        assert!(error.starts_with("/x/config.toml:") && error.contains(why), "{text}: {error}");
    }
}

#[test]
fn sinks_are_read_with_their_defaults() {
    use kerno_daemon::{Place, Secret, SinkKind};
    let text = "[redaction]\npatterns = ['customer-[0-9]+']\n[[sink]]\nname = 'chat'\nkind = 'slack'\nurl_file = '/no/such'\n\
                severity = 'warning'\nrules = ['fd_leak', 'disk_full']\nunits = ['a.service', 'b.service']\n\
                [[sink]]\nkind = 'alertmanager'\nname = 'am'\nurl = 'http://127.0.0.1:9093'\nsymptoms = true\n";
    let config = from_file(text).unwrap();
    let sinks: Vec<_> = config.sinks().collect();
    assert_eq!(sinks.len(), 2);
    let url = Place::Secret(Secret::File("/no/such".into()));
    assert_eq!(sinks[0].kind, SinkKind::Slack { url, token: None, channel: None });
    assert_eq!(sinks[0].filters.len(), 4);
    assert!(sinks[0].filters.iter().all(|filter| filter.severity == Some(Severity::Warning)));
    assert!(!sinks[0].symptoms && sinks[1].symptoms);
    assert_eq!(sinks[1].outbound.timeout, Duration::from_secs(10));
    assert_eq!(config.redaction().unwrap().hide("customer-17"), "[hidden]");
    // Who only looks at other things need not be able to read secrets.
    let error = config.check_sinks().unwrap_err().to_string();
    assert!(error.starts_with("/x/config.toml:3: sink \"chat\": cannot read /no/such"), "{error}");
    let off = from_file("[redaction]\nenabled = false").unwrap();
    assert_eq!(off.redaction().unwrap().hide("--password=x"), "--password=x");
    let pattern = from_environment(&[("KERNO_REDACTION__PATTERNS", "x{2,3}")]).unwrap();
    assert_eq!(pattern.redaction().unwrap().hide("axxb"), "a[hidden]b");
}

#[test]
fn what_the_documentation_shows_is_accepted() {
    let mut shown = 0;
    for page in ["alerts", "config", "objectives"] {
        let text = std::fs::read_to_string(format!("{}/../../docs/{page}.md", env!("CARGO_MANIFEST_DIR"))).unwrap();
        for block in text.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
            let config = from_file(block).unwrap_or_else(|error| panic!("{page}.md: {error}\n{block}"));
            shown += config.sinks().count() + config.objectives.len();
        }
    }
    assert!(shown > 13, "{shown}");
}

#[test]
fn mistakes_in_the_environment_name_the_variable() {
    let (rule, info) = some_threshold();
    let name = format!("KERNO_{}__{}", rule.id.to_uppercase(), info.name.to_uppercase());
    let (misspelt, lower) = (format!("{name}X"), name.to_lowercase().replace("kerno_", "KERNO_"));
    let cases = [
        (name.as_str(), "many", "is a number"),
        (&name, "", "is a number"),
        (&name, "NaN", "is allowed"),
        (&misspelt, "1", &format!("did you mean {name}?")),
        (&lower, "1", "unknown environment variable"),
        ("KERNO_", "1", "KERNO_CONFIG"),
        ("KERNO___", "1", "unknown environment variable KERNO___"),
        ("KERNO_DURATION", "1", "did you mean KERNO_DOCTOR__DURATION?"),
        ("KERNO_CONFIGS", "1", "unknown environment variable"),
        ("KERNO_DOCTOR__DURATION", "1", "such as 500us"),
        ("KERNO_DOCTOR__SIGNALS", "", "unknown signal \"\""),
        ("KERNO_DOCTOR__FAIL_ON", "CRITICAL", "\"critical\""),
    ];
    for (name, value, why) in cases {
        let error = from_environment(&[(name, value)]).unwrap_err();
        assert!(error.contains(name) && error.contains(why), "{name}={value}: {error}");
    }
    let mut config = Config::default();
    let odd = OsString::from_vec(vec![0xff]);
    assert!(config.apply_environment(&[("KERNO_DOCTOR__DURATION".into(), odd.clone())]).is_err());
    let mut name = OsString::from("KERNO_");
    name.push(odd);
    assert!(config.apply_environment(&[(name, "1".into())]).is_err());
}

#[test]
fn no_text_makes_it_panic() {
    let pieces = [
        "[",
        "]",
        "[[",
        "rules",
        ".",
        "doctor",
        "=",
        "\"",
        "'''",
        "\n",
        "\r\n",
        "{",
        "}",
        ",",
        "1",
        "-",
        "0x",
        "nan",
        "é",
        "\u{1b}",
        "\u{0}",
        "\u{feff}",
        "1979-05-27T07:32:00Z",
        "duration",
        "\"30s\"",
        "#",
        "\\u12",
        "true",
        "fd_leak",
        "signals",
        "[1, [2, {a=3}]]",
        " ",
    ];
    // A small generator of its own: the same texts in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state % below as u64).unwrap()
    };
    for _ in 0..2_000 {
        let text: String = (0..next(12)).map(|_| pieces[next(pieces.len())]).collect();
        if let Err(error) = from_file(&text) {
            assert!(error.starts_with("/x/config.toml:"), "{text:?}: {error}");
        }
        let (name, value) = text.split_at(text.floor_char_boundary(text.len() / 2));
        let _ = from_environment(&[(&format!("KERNO_{name}"), value), ("KERNO_DOCTOR__SIGNALS", value)]);
        let _ = Config::default().set_threshold(name, value, &Value::Untyped(text.clone()), "x");
    }
    let _ = from_file(&"[".repeat(100_000));
    let _ = from_file(&format!("a = {}", "[".repeat(100_000)));
    let _ = from_file(&format!("a = {}", "{a=".repeat(100_000)));
    let _ = from_file(&format!("[{}]", ["a"; 50_000].join(".")));
}

#[test]
fn files_that_are_none_are_refused() {
    let missing = Path::new("/no/such/config.toml");
    assert_eq!(file::read(missing, false).unwrap(), None);
    let error = |path: &Path| format!("{:#}", file::read(path, true).unwrap_err());
    assert!(error(missing).contains("cannot read the configuration /no/such/config.toml: No such file"));
    assert!(error(Path::new("/")).contains("Is a directory"));
    assert!(error(Path::new("/dev/zero")).contains("longer than"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, b"# \xc3\xa9\n  \xff").unwrap();
    assert!(error(&path).ends_with("config.toml:2:3: is not UTF-8"), "{}", error(&path));
}

#[test]
fn what_is_sent_is_set_here_above_the_environment_of_opentelemetry() {
    let settings = |text: &str, variables: &[(&str, &str)]| {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        from_file(text).unwrap().otlp.settings(&variable).unwrap()
    };
    assert_eq!(settings("", &[]), None);
    let theirs = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://theirs:4318"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=x"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=one,tier=two"),
    ];
    let from_environment = settings("", &theirs).unwrap();
    assert_eq!(from_environment.endpoint.as_deref(), Some("http://theirs:4318"));
    assert_eq!(from_environment.headers_variable.as_deref(), Some("OTEL_EXPORTER_OTLP_HEADERS"));
    let text = "[otlp]\nendpoint = 'http://ours:4317'\nheaders = ['authorization=env:TOKEN']\nqueue = 50\n\
                interval = '15s'\ncompression = 'none'\nresource_attributes = ['team=three']\n";
    let ours = settings(text, &theirs).unwrap();
    assert_eq!(ours.endpoint.as_deref(), Some("http://ours:4317"));
    assert_eq!((ours.headers.len(), ours.headers_variable), (1, None), "headers of the environment are for others");
    assert_eq!((ours.outbound.timeout, ours.interval), (Duration::from_secs(2), Duration::from_secs(15)));
    assert_eq!((ours.queue, ours.gzip), (50, false));
    let attributes: Vec<_> = ours.resource_attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(attributes, ["team=three", "tier=two"]);
    // Off is off, and settings for nothing are a mistake.
    assert_eq!(settings("[otlp]\nendpoint = 'off'\n", &theirs), None);
    let nothing = settings("[otlp]\nqueue = 50\n", &[]).unwrap();
    assert!(nothing.check().unwrap_err().contains("otlp.endpoint is not set"));
}
