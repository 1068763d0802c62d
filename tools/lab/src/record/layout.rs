//! JSON that a diff shows well and that is short: one line for each thing in a list.

use serde_json::Value;

/// How deep things get lines of their own: the window, its parts, their lists.
const DEPTH: usize = 3;

/// As text, which ends with a newline.
pub(super) fn lines(value: &Value) -> String {
    let mut out = String::new();
    write(value, 0, &mut out);
    out.push('\n');
    out
}

fn write(value: &Value, depth: usize, out: &mut String) {
    let is_flat = |value: &Value| match value {
        // Points of a series, buckets of a histogram, ids.
        Value::Array(list) => !list.iter().any(Value::is_object),
        Value::Object(_) => false,
        _ => true,
    };
    if depth >= DEPTH || is_flat(value) {
        out.push_str(&value.to_string());
        return;
    }
    let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
    let items: Vec<(Option<&String>, &Value)> = match value {
        Value::Array(list) => list.iter().map(|value| (None, value)).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| (Some(key), value)).collect(),
        _ => Vec::new(),
    };
    out.push(open);
    for (number, (key, value)) in items.iter().enumerate() {
        out.push_str(if number == 0 { "\n" } else { ",\n" });
        out.extend(std::iter::repeat_n(' ', depth + 1));
        if let Some(key) = key {
            out.push_str(&Value::from(key.as_str()).to_string());
            out.push_str(": ");
        }
        write(value, depth + 1, out);
    }
    if !items.is_empty() {
        out.push('\n');
        out.extend(std::iter::repeat_n(' ', depth));
    }
    out.push(close);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_the_same_value_and_each_thing_has_its_line() {
        let value = json!({"version": 1, "part": {"list": [{"pid": 1, "deep": {"a": [1]}}, {"pid": 2}], "series": [[0.5, 1.0]], "none": [], "x": {}}});
        let text = lines(&value);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(text.contains("\n   {\"deep\":{\"a\":[1]},\"pid\":1},\n   {\"pid\":2}\n"), "{text}");
        assert!(text.contains("\n  \"series\": [[0.5,1.0]],\n") && text.ends_with("}\n"), "{text}");
    }
}
