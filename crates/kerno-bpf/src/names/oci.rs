//! The bundle that a runtime was given for a container (OCI runtime specification), whose annotations tell names.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::{Names, entries, read, told};

/// Where containerd keeps its state, also that of K3s and MicroK8s.
const STATES: [&str; 3] = ["run/containerd", "run/k3s/containerd", "var/snap/microk8s/common/run/containerd"];

#[derive(Default, Deserialize)]
#[serde(default)]
struct Bundle {
    annotations: HashMap<String, String>,
}

/// The annotations of a bundle's `config.json`.
pub(super) fn annotations(file: &Path) -> Option<HashMap<String, String>> {
    let bundle: Bundle = serde_json::from_slice(&read(file)?).ok()?;
    Some(bundle.annotations)
}

pub(super) fn of_containerd(root: &Path, id: &str) -> Option<Names> {
    let tasks = STATES.iter().map(|state| root.join(state).join("io.containerd.runtime.v2.task"));
    let bundle = tasks.flat_map(|tasks| entries(&tasks)).map(|namespace| namespace.join(id).join("config.json"));
    let annotations = bundle.filter_map(|file| annotations(&file)).next()?;
    let of = |name: &str| told(annotations.get(&format!("io.kubernetes.cri.{name}")));
    Some(Names {
        name: of("container-name").or_else(|| of_nerdctl(root, id)),
        image: of("image-name"),
        pod: of("sandbox-name"),
        namespace: of("sandbox-namespace"),
        workload: None,
    })
}

/// A file for each name, with the id in it.
fn of_nerdctl(root: &Path, id: &str) -> Option<String> {
    let addresses = entries(&root.join("var/lib/nerdctl"));
    let namespaces = addresses.flat_map(|address| entries(&address.join("names")));
    let mut names = namespaces.flat_map(|namespace| entries(&namespace));
    let name = names.find(|file| read(file).is_some_and(|text| text.trim_ascii() == id.as_bytes()))?;
    Some(name.file_name()?.to_string_lossy().into_owned())
}
