//! containers/storage, which CRI-O and Podman keep their containers in.

use std::path::Path;

use serde::Deserialize;

use super::oci::annotations;
use super::{Names, entries, read, told};

/// The machine's own; what runs now, and what is kept.
const STORAGES: [&str; 2] = ["run/containers/storage", "var/lib/containers/storage"];
/// By how layers are kept.
const DRIVERS: [&str; 3] = ["overlay-containers", "vfs-containers", "btrfs-containers"];

pub(super) fn of_cri_o(root: &Path, id: &str) -> Option<Names> {
    let places = STORAGES.iter().flat_map(|storage| DRIVERS.iter().map(move |driver| root.join(storage).join(driver)));
    let annotations = places.filter_map(|place| annotations(&place.join(id).join("userdata/config.json"))).next()?;
    let of = |name: &str| told(annotations.get(&format!("io.kubernetes.{name}")));
    Some(Names {
        name: of("container.name"),
        image: of("cri-o.ImageName"),
        pod: of("pod.name"),
        namespace: of("pod.namespace"),
        workload: None,
    })
}

/// An entry of `containers.json`.
#[derive(Deserialize)]
struct Entry {
    id: String,
    #[serde(default)]
    names: Vec<String>,
    /// JSON in a string.
    #[serde(default)]
    metadata: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    #[serde(rename = "image-name")]
    image_name: String,
}

pub(super) fn of_podman(root: &Path, id: &str) -> Option<Names> {
    let of_users = entries(&root.join("home")).chain([root.join("root")]);
    let of_users = of_users.map(|home| home.join(".local/share/containers/storage"));
    let storages = STORAGES.iter().map(|storage| root.join(storage)).chain(of_users);
    let files = storages.flat_map(|storage| DRIVERS.map(|driver| storage.join(driver).join("containers.json")));
    files.filter_map(|file| in_list(&file, id)).next()
}

fn in_list(file: &Path, id: &str) -> Option<Names> {
    let entries: Vec<Entry> = serde_json::from_slice(&read(file)?).ok()?;
    let entry = entries.into_iter().find(|entry| entry.id == id)?;
    let metadata: Metadata = serde_json::from_str(&entry.metadata).unwrap_or_default();
    Some(Names {
        name: told(entry.names.first()),
        image: Some(metadata.image_name).filter(|image| !image.is_empty()),
        ..Names::default()
    })
}
