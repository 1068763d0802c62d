//! The document is current, and describes exactly what is served.

use std::collections::BTreeSet;

use kerno_doctor::report::{IncidentReport, Report};
use kerno_model::{IncidentState, Severity, Window};
use schemars::JsonSchema;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Value, json};

use super::DOCUMENT;
use crate::api::events::Lost;
use crate::api::questions::Problem;
use crate::api::routes::PATHS;
use crate::past::Unreadable;
use crate::state::{Change, Status};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// The types that are answered.
struct Types(SchemaGenerator);

impl Types {
    fn of<T: JsonSchema>(&mut self) -> Value {
        self.0.subschema_for::<T>().to_value()
    }
}

fn json_of(schema: &Value) -> Value {
    json!({ "application/json": { "schema": schema } })
}

fn text(about: &str) -> Value {
    json!({ "description": about, "content": { "text/plain": { "schema": { "type": "string" } } } })
}

/// A body of many JSON objects, one a line.
fn lines(of: &[Value]) -> Value {
    json!({ "schema": { "type": "string" }, "x-line-schema": { "oneOf": of } })
}

fn parameter(name: &str, schema: &Value, about: &str) -> Value {
    json!({ "name": name, "in": "query", "required": false, "schema": schema, "description": about })
}

/// What programs write; people may write more.
fn time(name: &str, about: &str) -> Value {
    let about = format!(
        "{about} A date and time, or seconds or nanoseconds since 1970. People may also write it as on the command line: `03:02`, `10 min ago`."
    );
    let unix = json!({ "type": "string", "pattern": "^[0-9]{1,19}$" });
    let schema = json!({ "anyOf": [{ "type": "string", "format": "date-time" }, unix] });
    parameter(name, &schema, &about)
}

/// A question with its good answer and the statuses that refuse besides those that every question may get.
fn question(id: &str, about: &str, parameters: &[Value], good: Value, refusals: &[(&str, &str)]) -> Value {
    let refused = |why: &str| json!({ "description": why, "content": json_of(&json!({ "$ref": "#/components/schemas/Problem" })) });
    let mut responses = json!({
        "200": good,
        "401": refused("A token is needed, and was not sent."),
        "421": refused("Over TCP without TLS: the `Host` of the request is not this machine."),
    });
    for (status, why) in refusals {
        responses[*status] = refused(why);
    }
    json!({ "get": { "operationId": id, "summary": about, "parameters": parameters, "responses": responses } })
}

const BAD: (&str, &str) = ("400", "A parameter is unknown, or has a value that it cannot have.");
const NOTHING: (&str, &str) = ("404", "Nothing was observed then, or nothing is kept.");
const STORE: (&str, &str) = ("503", "The store cannot be read, or too many answers are being written.");

fn incident_filters(with_time: bool) -> Vec<Value> {
    let words = |words: &[&str]| json!({ "type": "string", "enum": words });
    let states = words(&["open", "closed"]);
    let severities = words(&[Severity::Info.name(), Severity::Warning.name(), Severity::Critical.name()]);
    let any = json!({ "type": "string" });
    let mut all = vec![
        parameter("state", &states, "Only those in this state."),
        parameter("severity", &severities, "Only those that are at least so severe."),
        parameter("rule", &any, "Only those of this rule."),
        parameter("unit", &any, "Only those about this service or container."),
    ];
    if with_time {
        all.push(time("from", "Only those that were not over by then."));
        all.push(time("to", "Only those that had opened by then."));
    }
    all
}

fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12().for_serialize();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut types = Types(settings.into_generator());
    let answer = |about: &str, schema: &Value| json!({ "description": about, "content": json_of(schema) });
    let (window, unreadable) = (types.of::<Window>(), types.of::<Unreadable>());
    let changes = [types.of::<Change>(), types.of::<Lost>()];
    types.of::<Problem>();
    let (incident, report, status) = (types.of::<IncidentReport>(), types.of::<Report>(), types.of::<Status>());
    let range = [
        time("from", "The begin. Half a minute before `to` by default."),
        time("to", "The end. Now by default. Without both, what was observed last."),
    ];
    let id = json!({ "name": "id", "in": "path", "required": true, "schema": { "type": "string" }, "description": "The id of the incident." });
    let merged = parameter(
        "merged",
        &json!({ "type": "boolean", "default": false }),
        "One window over the whole time, as JSON.",
    );
    let windows = json!({
        "description": "The windows, one JSON object a line; with `merged=true`, one window.",
        "content": {
            "application/x-ndjson": lines(&[window.clone(), unreadable]),
            "application/json": { "schema": window },
        },
    });
    let events = json!({
        "description": "A stream without end. An empty line, or a comment, comes every 15 seconds at least.",
        "content": { "application/x-ndjson": lines(&changes), "text/event-stream": { "schema": { "type": "string" } } },
    });
    let metrics = json!({
        "description": "All numbers, in the form that `Accept` asks for.",
        "content": {
            "text/plain": { "schema": { "type": "string" } },
            "application/openmetrics-text": { "schema": { "type": "string" } },
            "application/vnd.google.protobuf": { "schema": { "type": "string", "format": "binary" } },
        },
    });
    let health = |id: &str, about: &str| {
        let mut health = question(id, about, &[], text("It is: `ok`."), &[]);
        health["get"]["responses"]["503"] = text("It is not; the reason.");
        health
    };
    let paths = json!({
        "/healthz": health("healthz", "Whether windows come."),
        "/readyz": health("readyz", "Whether the first window is over, and windows come."),
        "/metrics": question("metrics", "All numbers, for Prometheus.", &[], metrics, &[]),
        "/api/v1/openapi.json": question("openapi", "This document.", &[], answer("This document.", &json!({ "type": "object" })), &[]),
        "/api/v1/status": question("status", "How kerno itself is.", &[], answer("How kerno is.", &status), &[]),
        "/api/v1/incidents": question("incidents", "Incidents, the oldest first.", &incident_filters(true),
            answer("All that pass.", &json!({ "type": "array", "items": incident })), &[BAD, STORE]),
        "/api/v1/incidents/{id}": question("incident", "One incident.", &[id], answer("The incident.", &incident),
            &[("404", "No incident has this id."), STORE]),
        "/api/v1/report": question("report", "What was wrong then, or in the latest window.", &range,
            answer("The report.", &report), &[BAD, NOTHING, STORE]),
        "/api/v1/windows": question("windows", "What was observed.", &[range.to_vec(), vec![merged]].concat(), windows, &[BAD, NOTHING, STORE]),
        "/api/v1/events": question("events", "Changes of incidents as they happen.", &incident_filters(false), events, &[BAD]),
    });
    json!({
        "openapi": "3.1.0",
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "info": {
            "title": "kerno",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What `kerno start` answers, over HTTP and over its Unix socket. Only GET (and HEAD) is answered. See docs/start.md for who may ask.",
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://127.0.0.1:7653" }],
        "security": [{}, { "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": { "type": "http", "scheme": "bearer", "description": "The content of `http_token_file`." },
            },
            "schemas": types.0.take_definitions(true),
        },
    })
}

/// Set `KERNO_WRITE_DOCS=1` to write it anew.
#[test]
fn the_document_is_current() {
    let document = document();
    let shown = serde_json::to_string_pretty(&document).unwrap() + "\n";
    let served = document.to_string();
    let files = [
        (format!("{ROOT}/docs/openapi.json"), shown),
        (concat!(env!("CARGO_MANIFEST_DIR"), "/src/api/openapi.json").to_owned(), served),
    ];
    for (file, text) in files {
        if std::env::var_os("KERNO_WRITE_DOCS").is_some() {
            std::fs::write(&file, &text).unwrap();
        }
        let current = std::fs::read_to_string(&file).unwrap_or_default() == text;
        assert!(
            current,
            "{file} is out of date: KERNO_WRITE_DOCS=1 cargo test -p kerno-daemon --lib openapi writes it"
        );
    }
}

#[test]
fn what_is_described_is_what_is_served() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let described: BTreeSet<_> = document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(described, PATHS.iter().copied().collect());
}

#[test]
fn each_reference_leads_somewhere_and_each_type_is_used() {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let mut references = BTreeSet::new();
    collect(&document, &mut references);
    let types: BTreeSet<_> = document["components"]["schemas"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(references, types);
}

fn collect(value: &Value, references: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(to)) = fields.get("$ref") {
                references
                    .insert(to.strip_prefix("#/components/schemas/").unwrap_or_else(|| panic!("{to}")).to_owned());
            }
            fields.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

#[test]
fn words_of_parameters_are_those_that_are_taken() {
    for parameter in incident_filters(true) {
        let words = parameter["schema"]["enum"].as_array().cloned().unwrap_or_default();
        for word in words {
            let taken = match parameter["name"].as_str().unwrap() {
                "state" => serde_json::from_value::<IncidentState>(word.clone()).is_ok(),
                _ => serde_json::from_value::<Severity>(word.clone()).is_ok(),
            };
            assert!(taken, "{word}");
        }
    }
}
