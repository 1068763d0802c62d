//! Docker's own files of its containers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Names, read, told};

/// Where Docker keeps them if its configuration says nothing else; then where its snap does.
const DATA: [&str; 2] = ["var/lib/docker", "var/snap/docker/common/var-lib-docker"];

/// A container's `config.v2.json`, as far as it tells names.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct File {
    name: String,
    config: Config,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Config {
    image: String,
    labels: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Daemon {
    #[serde(rename = "data-root")]
    data_root: String,
}

pub(super) fn look_up(root: &Path, id: &str) -> Option<Names> {
    let configured = read(&root.join("etc/docker/daemon.json"));
    let configured = configured.and_then(|text| serde_json::from_slice::<Daemon>(&text).ok());
    let configured = configured.map(|daemon| PathBuf::from(daemon.data_root.trim_start_matches('/')));
    let data = configured.into_iter().chain(DATA.map(PathBuf::from));
    let text =
        data.filter_map(|data| read(&root.join(data).join("containers").join(id).join("config.v2.json"))).next()?;
    let file: File = serde_json::from_slice(&text).ok()?;
    let labels = file.config.labels.unwrap_or_default();
    let label = |name: &str| told(labels.get(name));
    let own = Some(file.name.trim_start_matches('/').to_owned()).filter(|name| !name.is_empty());
    let compose = label("com.docker.compose.project").zip(label("com.docker.compose.service"));
    let swarm = label("com.docker.swarm.service.name").map(|service| format!("service/{service}"));
    Some(Names {
        name: label("io.kubernetes.container.name").or(own),
        image: Some(file.config.image).filter(|image| !image.is_empty()),
        pod: label("io.kubernetes.pod.name"),
        namespace: label("io.kubernetes.pod.namespace"),
        workload: compose.map(|(project, service)| format!("compose/{project}/{service}")).or(swarm),
    })
}
