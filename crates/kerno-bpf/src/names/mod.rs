//! What people call a container: its name, image and pod. From the files that engines keep of each container they run, which any engine on the
//! node leaves readable to root. No engine is asked: one that hangs or restarts holds nobody up, and a fleet costs its API servers nothing.
//!
//! | engine | file | tells |
//! |---|---|---|
//! | Docker | `DATA/containers/ID/config.v2.json` | name, image, labels of Compose, Swarm and of the kubelet |
//! | containerd, also of K3s and MicroK8s | `STATE/io.containerd.runtime.v2.task/NAMESPACE/ID/config.json` | annotations of CRI: container, image, pod |
//! | nerdctl | `/var/lib/nerdctl/*/names/NAMESPACE/NAME` | name |
//! | CRI-O | `STORAGE/overlay-containers/ID/userdata/config.json` | annotations: container, image, pod |
//! | Podman, also of users | `STORAGE/overlay-containers/containers.json` | name, image |

mod docker;
mod oci;
mod storage;

use std::io::Read as _;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kerno_model::Container;

/// The most of a file that is read.
const MAX_FILE: u64 = 4 << 20;
/// The longest name that is kept, in bytes.
const MAX_NAME: usize = 256;
/// The most entries of a directory that are looked at.
const MAX_ENTRIES: usize = 4096;

/// What an engine says of a container. Of what it does not say: `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) name: Option<String>,
    pub(crate) image: Option<String>,
    pub(crate) pod: Option<String>,
    pub(crate) namespace: Option<String>,
    pub(crate) workload: Option<String>,
}

impl Names {
    /// Looks for a container in the files of all engines that can have one of this kind. Reads files, which may hang where a disk does.
    pub(crate) fn look_up(runtime: &str, id: &str) -> Option<Self> {
        Self::look_up_in(&host_root(), runtime, id)
    }

    fn look_up_in(root: &Path, runtime: &str, id: &str) -> Option<Self> {
        // It becomes part of paths.
        if id.len() < 12 || !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return None;
        }
        type Source = fn(&Path, &str) -> Option<Names>;
        let all: [(&[&str], Source); 4] = [
            (&["docker", "kubernetes", "unknown"], docker::look_up),
            (&["containerd", "kubernetes", "docker", "unknown"], oci::of_containerd),
            (&["cri-o", "kubernetes", "unknown"], storage::of_cri_o),
            (&["podman", "unknown"], storage::of_podman),
        ];
        let of_runtime = all.iter().filter(|(runtimes, _)| runtimes.contains(&runtime));
        let mut names =
            of_runtime.filter_map(|(_, source)| source(root, id)).find(|names| *names != Self::default())?;
        names.shorten();
        if names.workload.is_none() {
            names.workload = names.pod.as_deref().and_then(workload);
        }
        Some(names)
    }

    fn shorten(&mut self) {
        let all = [&mut self.name, &mut self.image, &mut self.pod, &mut self.namespace, &mut self.workload];
        for name in all.into_iter().flatten() {
            let end = (0..=MAX_NAME.min(name.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or(0);
            name.truncate(end);
        }
    }

    /// Adds them to what the path of a cgroup told.
    pub(crate) fn give(&self, container: &mut Container) {
        container.name.clone_from(&self.name);
        container.image.clone_from(&self.image);
        container.pod.clone_from(&self.pod);
        container.namespace.clone_from(&self.namespace);
        container.workload.clone_from(&self.workload);
    }
}

/// What begins the paths of the host: in a container with the host's processes they are seen through the first one.
fn host_root() -> PathBuf {
    let place = |path: &str| std::fs::metadata(path).ok().map(|root| (root.st_dev(), root.st_ino()));
    match (place("/"), place("/proc/1/root/.")) {
        (own, Some(host)) if own != Some(host) => PathBuf::from("/proc/1/root"),
        _ => PathBuf::from("/"),
    }
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    // A pipe in the place of a file would have us wait for ever.
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    file.take(MAX_FILE).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn entries(path: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    std::fs::read_dir(path).into_iter().flatten().flatten().take(MAX_ENTRIES).map(|entry| entry.path())
}

/// The value, unless it is empty.
fn told(value: Option<&String>) -> Option<String> {
    value.filter(|value| !value.is_empty()).cloned()
}

/// The deployment or cron job that a pod is of, if its name cannot be of another kind: those of stateful sets, daemon sets and jobs look like
/// names that people give.
fn workload(pod: &str) -> Option<String> {
    // What Kubernetes makes random names of: no vowels and nothing that looks like one (apimachinery, util/rand).
    let random = |part: &str| part.bytes().all(|byte| b"bcdfghjklmnpqrstvwxz2456789".contains(&byte));
    let (rest, last) = pod.rsplit_once('-')?;
    let (name, middle) = rest.rsplit_once('-')?;
    if name.is_empty() || last.len() != 5 || !random(last) {
        return None;
    }
    // Minutes since 1970, by which runs of a cron job are told apart.
    if middle.len() == 8 && middle.starts_with(['2', '3']) && middle.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(format!("cronjob/{name}"));
    }
    // A hash of 32 bits: ten digits at most, rarely fewer than eight.
    ((8..=10).contains(&middle.len()) && random(middle)).then(|| format!("deployment/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4a5d8f0c1b2e3d4c5b6a79880706f5e4d3c2b1a0f9e8d7c6b5a4938271605f4e";

    fn host(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path.replace("ID", ID));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text.replace("ID", ID)).unwrap();
        }
        root
    }

    fn found(files: &[(&str, &str)], runtime: &str) -> Option<[Option<String>; 5]> {
        let root = host(files);
        let Names { name, image, pod, namespace, workload } = Names::look_up_in(root.path(), runtime, ID)?;
        Some([name, image, pod, namespace, workload])
    }

    fn some(texts: [&str; 5]) -> Option<[Option<String>; 5]> {
        Some(texts.map(|text| (!text.is_empty()).then(|| text.to_owned())))
    }

    #[test]
    fn docker_tells_names_and_what_compose_made() {
        let config = r#"{"ID":"ID","Name":"/shop-web-1","Config":{"Image":"nginx:1.25",
            "Labels":{"com.docker.compose.project":"shop","com.docker.compose.service":"web"}}}"#;
        let file = ("var/lib/docker/containers/ID/config.v2.json", config);
        assert_eq!(found(&[file], "docker"), some(["shop-web-1", "nginx:1.25", "", "", "compose/shop/web"]));
        assert_eq!(found(&[file], "unknown"), some(["shop-web-1", "nginx:1.25", "", "", "compose/shop/web"]));
        assert_eq!(found(&[file], "podman"), None);
        let elsewhere = [
            ("etc/docker/daemon.json", r#"{"data-root": "/data/docker"}"#),
            ("data/docker/containers/ID/config.v2.json", r#"{"Name":"/web"}"#),
        ];
        assert_eq!(found(&elsewhere, "docker"), some(["web", "", "", "", ""]));
        let of_kubelet = r#"{"Name":"/k8s_web_x","Config":{"Image":"sha256:1","Labels":{"io.kubernetes.container.name":"web",
            "io.kubernetes.pod.name":"web-7d9c8b6f5d-x2x4z","io.kubernetes.pod.namespace":"shop"}}}"#;
        let file = ("var/lib/docker/containers/ID/config.v2.json", of_kubelet);
        let told = ["web", "sha256:1", "web-7d9c8b6f5d-x2x4z", "shop", "deployment/web"];
        assert_eq!(found(&[file], "kubernetes"), some(told));
    }

    #[test]
    fn annotations_of_containerd_name_container_and_pod() {
        let bundle = r#"{"ociVersion":"1.1.0","annotations":{"io.kubernetes.cri.container-name":"app",
            "io.kubernetes.cri.image-name":"registry/app:3","io.kubernetes.cri.sandbox-name":"report-28512345-q7w9x",
            "io.kubernetes.cri.sandbox-namespace":"batch"}}"#;
        let told = ["app", "registry/app:3", "report-28512345-q7w9x", "batch", "cronjob/report"];
        for state in ["run/containerd", "run/k3s/containerd"] {
            let file = format!("{state}/io.containerd.runtime.v2.task/k8s.io/ID/config.json");
            assert_eq!(found(&[(&file, bundle)], "containerd"), some(told));
        }
        // The sandbox has no name of its own.
        let sandbox =
            r#"{"annotations":{"io.kubernetes.cri.sandbox-name":"db-0","io.kubernetes.cri.sandbox-namespace":"shop"}}"#;
        let file = ("run/containerd/io.containerd.runtime.v2.task/k8s.io/ID/config.json", sandbox);
        assert_eq!(found(&[file], "kubernetes"), some(["", "", "db-0", "shop", ""]));
        let names = [
            ("run/containerd/io.containerd.runtime.v2.task/default/ID/config.json", "{}"),
            ("var/lib/nerdctl/1935db59/names/default/cache", "ID"),
            ("var/lib/nerdctl/1935db59/names/default/other", "another"),
        ];
        assert_eq!(found(&names, "containerd"), some(["cache", "", "", "", ""]));
    }

    #[test]
    fn cri_o_and_podman_tell_theirs() {
        let bundle = r#"{"annotations":{"io.kubernetes.container.name":"app","io.kubernetes.cri-o.ImageName":"quay.io/app:1",
            "io.kubernetes.pod.name":"app-6b7f9c5d4-zz2z4","io.kubernetes.pod.namespace":"prod"}}"#;
        let file = ("run/containers/storage/overlay-containers/ID/userdata/config.json", bundle);
        let told = ["app", "quay.io/app:1", "app-6b7f9c5d4-zz2z4", "prod", "deployment/app"];
        assert_eq!(found(&[file], "cri-o"), some(told));
        let list = r#"[{"id":"0123456789abcdef","names":["other"]},
            {"id":"ID","names":["web"],"metadata":"{\"image-name\":\"docker.io/library/nginx:latest\",\"name\":\"web\"}"}]"#;
        for storage in
            ["var/lib/containers/storage/overlay-containers", "home/ann/.local/share/containers/storage/vfs-containers"]
        {
            let file = format!("{storage}/containers.json");
            assert_eq!(found(&[(&file, list)], "podman"), some(["web", "docker.io/library/nginx:latest", "", "", ""]));
        }
    }

    #[test]
    fn what_is_damaged_or_hostile_names_nothing() {
        let docker = "var/lib/docker/containers/ID/config.v2.json";
        for text in ["", "{", "[]", r#"{"Name":7}"#, "\u{0}"] {
            assert_eq!(found(&[(docker, text)], "docker"), None, "{text:?}");
        }
        let long = format!(r#"{{"Name":"/{}"}}"#, "ü".repeat(5000));
        assert_eq!(found(&[(docker, &long)], "docker").unwrap()[0].as_ref().map(String::len), Some(256));
        let root = host(&[("secret/config.v2.json", r#"{"Name":"/x"}"#)]);
        assert_eq!(Names::look_up_in(root.path(), "docker", "../../../../secret"), None);
        assert_eq!(Names::look_up_in(root.path(), "docker", "0123456789ab"), None);
    }

    #[test]
    fn only_names_that_can_be_nothing_else_tell_the_workload() {
        for (pod, expected) in [
            ("web-7d9c8b6f5d-x2x4z", Some("deployment/web")),
            ("my-app-5c689d88bb-9hjzk", Some("deployment/my-app")),
            ("report-28512345-q7w9x", Some("cronjob/report")),
            ("postgres-0", None),
            ("fluentd-9x2kz", None),
            ("kube-proxy-abcde", None),
            ("etcd-node-1", None),
            ("a-b-c", None),
            ("", None),
            ("-7d9c8b6f5d-x2x4z", None),
        ] {
            assert_eq!(workload(pod).as_deref(), expected, "{pod}");
        }
    }
}
