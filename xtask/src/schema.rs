//! The JSON schema of `report.json`, derived from the types that it is written from.

use schemars::generate::SchemaSettings;

/// The report's model, compiled from silicast's own file: depending on silicast would be a cycle.
#[path = "../../src/report/model.rs"]
#[allow(dead_code, reason = "only the types matter here")]
mod model;

/// `docs/report.schema.json`: JSON Schema, draft 2020-12, of what silicast writes. Keys may be added without a new
/// `schema_version`, so unknown ones are allowed.
pub fn report() -> String {
    let generator = SchemaSettings::draft2020_12().for_serialize().into_generator();
    let mut schema = serde_json::Map::new();
    schema.insert("$schema".to_owned(), "https://json-schema.org/draft/2020-12/schema".into());
    schema.insert("$id".to_owned(), "report.schema.json".into());
    schema.insert("title".to_owned(), "silicast report".into());
    for (key, value) in generator.into_root_schema_for::<model::Report>().ensure_object().iter() {
        if !matches!(key.as_str(), "$schema" | "title") {
            schema.insert(key.clone(), value.clone());
        }
    }
    format!("{:#}\n", serde_json::Value::Object(schema))
}
