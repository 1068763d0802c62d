use super::Report;

/// The JSON Schema of a serialised [`Report`].
pub fn json_schema() -> serde_json::Value {
    schemars::schema_for!(Report).to_value()
}
