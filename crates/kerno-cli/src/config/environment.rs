//! `KERNO_<RULE>__<THRESHOLD>`, `KERNO_DOCTOR__<SETTING>`, `KERNO_START__<SETTING>` and `KERNO_CONFIG`.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::bail;
use kerno::doctor;

use super::{Config, SECTIONS, Value, suggest};

const PREFIX: &str = "KERNO_";
const CONFIG_FILE: &str = "KERNO_CONFIG";

/// The file that the environment names.
pub(super) fn config_file(variables: &[(OsString, OsString)]) -> Option<PathBuf> {
    let (_, path) = variables.iter().find(|(name, path)| name == CONFIG_FILE && !path.is_empty())?;
    Some(PathBuf::from(path))
}

/// Whether Kubernetes sets this variable in the containers of a namespace that has a service whose name starts with "kerno".
fn is_service_link(name: &str) -> bool {
    !name.contains("__")
        && (name.ends_with("_SERVICE_HOST")
            || name.contains("_SERVICE_PORT")
            || name.ends_with("_PORT")
            || name.contains("_PORT_"))
}

impl Config {
    pub(super) fn apply_environment(&mut self, variables: &[(OsString, OsString)]) -> anyhow::Result<()> {
        let mut ours: Vec<_> = variables
            .iter()
            .map(|(name, value)| (name.to_string_lossy(), value))
            .filter(|(name, _)| name.starts_with(PREFIX) && name != CONFIG_FILE && !is_service_link(name))
            .collect();
        // The order of the environment is nobody's choice.
        ours.sort();
        for (name, value) in ours {
            let Some(value) = value.to_str() else { bail!("{name}: is not UTF-8") };
            let known = known_variables();
            let key = known.iter().find(|(variable, ..)| *variable == name);
            let Some((_, section, key)) = key else {
                let meant = suggest::nearest(&name, known.iter().map(|(variable, ..)| variable.as_str()));
                let meant = meant.map_or_else(|| ".".to_owned(), |nearest| format!("; did you mean {nearest}?"));
                bail!(
                    "unknown environment variable {name}{meant} It may be {CONFIG_FILE}, {PREFIX}<RULE>__<THRESHOLD> \
                     (`kerno doctor --list-rules` has them), or {}",
                    sections()
                );
            };
            let untyped = Value::Untyped(value.to_owned());
            let is_section = SECTIONS.iter().any(|(name, _)| name == section);
            let result = if is_section {
                self.set(section, key, &untyped)
            } else {
                self.set_threshold(section, key, &untyped, &name)
            };
            if let Err(problem) = result {
                bail!("{name}: {}", problem.text());
            }
        }
        Ok(())
    }
}

/// What there is for each section, in words.
fn sections() -> String {
    let of = SECTIONS.map(|(section, keys)| {
        let keys: Vec<_> = keys.iter().map(|key| key.to_uppercase()).collect();
        format!("{PREFIX}{}__ and one of: {}", section.to_uppercase(), keys.join(", "))
    });
    of.join("; or ")
}

/// Each variable with its section and key.
fn known_variables() -> Vec<(String, &'static str, &'static str)> {
    let thresholds = doctor::rules().flat_map(|rule| rule.thresholds.iter().map(move |info| (rule.id, info.name)));
    let settings = SECTIONS.iter().flat_map(|(section, keys)| keys.iter().map(move |key| (*section, *key)));
    let name = |section: &str, key: &str| format!("{PREFIX}{}__{}", section.to_uppercase(), key.to_uppercase());
    thresholds.chain(settings).map(|(section, key)| (name(section, key), section, key)).collect()
}
