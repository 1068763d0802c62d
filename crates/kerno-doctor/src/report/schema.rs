use super::{Notices, Report};

/// The JSON Schema of a serialised [`Report`].
pub fn json_schema() -> serde_json::Value {
    of::<Report>()
}

/// The JSON Schema of serialised [`Notices`], which webhooks get.
pub fn notices_schema() -> serde_json::Value {
    of::<Notices>()
}

fn of<T: schemars::JsonSchema>() -> serde_json::Value {
    // What is written, not what is taken: a reader takes less.
    let settings = schemars::generate::SchemaSettings::default().for_serialize();
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::report::tests::report;

    const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

    /// Set `KERNO_WRITE_DOCS=1` to regenerate them.
    #[test]
    fn the_files_are_current() {
        let schemas =
            [("report", json_schema()), ("webhook", notices_schema()), ("window", kerno_model::saved::json_schema())];
        for (name, schema) in schemas {
            let file = format!("{ROOT}/docs/{name}.schema.json");
            let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
            if std::env::var_os("KERNO_WRITE_DOCS").is_some() {
                std::fs::write(&file, &text).unwrap();
            }
            assert!(
                std::fs::read_to_string(&file).unwrap_or_default() == text,
                "docs/{name}.schema.json is out of date; regenerate it with KERNO_WRITE_DOCS=1"
            );
        }
    }

    #[test]
    fn windows_are_as_their_schema_says() {
        let schema = kerno_model::saved::json_schema();
        let mut judged = 0;
        for entry in std::fs::read_dir(format!("{ROOT}/crates/kerno-model/tests/saved/v1")).unwrap() {
            let path = entry.unwrap().path();
            let Ok(window) = kerno_model::saved::read_window(&std::fs::read(&path).unwrap_or_default()) else {
                continue;
            };
            conforms(&serde_json::to_value(window).unwrap(), &schema, &schema, "window");
            judged += 1;
        }
        assert!(judged >= 8, "{judged}");
    }

    #[test]
    fn a_report_is_as_the_schema_says() {
        let schema = json_schema();
        conforms(&serde_json::to_value(report()).unwrap(), &schema, &schema, "report");
    }

    #[test]
    fn a_webhook_is_as_its_schema_says() {
        let schema = notices_schema();
        let report = crate::report::notice::tests::incident();
        let notice = crate::report::Notice::of(&report, "web-1", &crate::redaction::Redaction::default());
        let test = crate::report::Notice::test("web-1", 1);
        let opened = crate::report::NoticeEvent::Opened;
        let notices = Notices::new("hook", 1, vec![(opened, notice), (opened, test)]);
        conforms(&serde_json::to_value(notices).unwrap(), &schema, &schema, "webhook");
    }

    /// Checks the parts of JSON Schema that are used here: references, types, required and known properties, items, fixed arrays and
    /// choices.
    fn conforms(value: &Value, schema: &Value, root: &Value, place: &str) {
        if let Some(pointer) = schema["$ref"].as_str() {
            let target = root.pointer(pointer.trim_start_matches('#')).unwrap_or_else(|| panic!("{place}: {pointer}"));
            return conforms(value, target, root, place);
        }
        if let Some(choices) = schema["anyOf"].as_array() {
            let null = |choice: &&Value| choice["type"] == "null";
            let choice = choices.iter().find(|choice| null(choice) == value.is_null());
            return conforms(value, choice.unwrap_or_else(|| panic!("{place}: none fits")), root, place);
        }
        if let Some(choices) = schema["oneOf"].as_array() {
            assert!(choices.iter().any(|choice| choice["const"] == *value), "{place}: {value}");
            return;
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::String(kind) => vec![kind],
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            other => panic!("{place}: type {other}"),
        };
        let fits = |kind: &&str| match *kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "number" => value.is_number(),
            "integer" => value.is_u64() || value.is_i64(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            other => panic!("{place}: type {other}"),
        };
        assert!(kinds.iter().any(fits), "{place}: {value} is not {kinds:?}");
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            assert!(value.get(required).is_some(), "{place} has no {required}");
        }
        for (key, part) in value.as_object().into_iter().flatten() {
            // Maps by number have one pattern, which says so.
            let pattern = schema["patternProperties"].as_object().and_then(|patterns| patterns.values().next());
            let known = schema["properties"].get(key).or(pattern).or_else(|| schema.get("additionalProperties"));
            conforms(part, known.unwrap_or_else(|| panic!("{place}: {key} is not known")), root, key);
        }
        let fixed = schema["prefixItems"].as_array();
        for (i, part) in value.as_array().into_iter().flatten().enumerate() {
            let schema = fixed.map_or(&schema["items"], |fixed| &fixed[i]);
            conforms(part, schema, root, place);
        }
    }
}
