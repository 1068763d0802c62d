//! What is the same for all that is sent: which kerno, on which machine, in which container.

use std::collections::BTreeMap;
use std::fs;

use uuid::Uuid;

use super::message::{KeyValue, Resource, Scope};
use super::settings::OtlpSettings;

/// What the environment of a container in Kubernetes may tell (the downward API), by the names that are usual.
const DOWNWARD: [(&str, &[&str]); 7] = [
    ("k8s.cluster.name", &["K8S_CLUSTER_NAME", "CLUSTER_NAME"]),
    ("k8s.node.name", &["K8S_NODE_NAME", "NODE_NAME"]),
    ("k8s.namespace.name", &["K8S_NAMESPACE_NAME", "K8S_POD_NAMESPACE", "POD_NAMESPACE"]),
    ("k8s.pod.name", &["K8S_POD_NAME", "POD_NAME"]),
    ("k8s.pod.uid", &["K8S_POD_UID", "POD_UID"]),
    ("k8s.container.name", &["K8S_CONTAINER_NAME", "CONTAINER_NAME"]),
    ("k8s.daemonset.name", &["K8S_DAEMONSET_NAME"]),
];

/// The namespace that OpenTelemetry names for ids of instances that are made of other ids.
const INSTANCES: Uuid = Uuid::from_u128(0x4d63_009a_8d0f_11ee_aad7_4c79_6ed8_e320);

pub(super) fn scope() -> Scope {
    Scope { name: "kerno".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() }
}

/// The resource. `variable` looks up a variable of the environment.
pub(super) fn resource(settings: &OtlpSettings, variable: &dyn Fn(&str) -> Option<String>) -> Resource {
    let known = |text: String| Some(text.trim().to_owned()).filter(|text| !text.is_empty());
    let read = |path: &str| fs::read_to_string(path).ok().and_then(known);
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy().into_owned();
    let machine = read("/etc/machine-id").or_else(|| read("/var/lib/dbus/machine-id"));
    let container = read("/proc/self/cgroup").and_then(|text| container_id(&text));
    let pod = DOWNWARD.iter().filter_map(|(attribute, names)| {
        let value = names.iter().find_map(|name| variable(name).and_then(known));
        value.map(|value| (*attribute, value))
    });
    // Those that are no containers in Kubernetes may have variables of these names for other reasons.
    let pod: Vec<_> = if variable("KUBERNETES_SERVICE_HOST").is_some() { pod.collect() } else { Vec::new() };
    let of_pod = |attribute: &str| pod.iter().find(|(known, _)| *known == attribute).map(|(_, value)| value.clone());
    // The same after a restart, so that series go on.
    let instance = match (of_pod("k8s.pod.uid"), &machine) {
        (Some(uid), _) => uid,
        (None, Some(machine)) => machine.clone(),
        (None, None) => host.clone(),
    };
    let release = read("/etc/os-release").or_else(|| read("/usr/lib/os-release")).unwrap_or_default();
    let os = os_release(&release);
    let mut attributes = BTreeMap::new();
    let mut set = |name: &str, value: Option<String>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            attributes.insert(name.to_owned(), value);
        }
    };
    set("service.name", Some("kerno".to_owned()));
    set("service.version", Some(env!("CARGO_PKG_VERSION").to_owned()));
    set("service.instance.id", Some(Uuid::new_v5(&INSTANCES, instance.as_bytes()).to_string()));
    set("host.name", of_pod("k8s.node.name").or(Some(host)));
    set("host.id", machine);
    set("host.arch", Some(architecture(&uname.machine().to_string_lossy()).to_owned()));
    set("os.type", Some("linux".to_owned()));
    set("os.name", os.get("NAME").cloned());
    set("os.version", os.get("VERSION_ID").cloned());
    set("os.description", os.get("PRETTY_NAME").cloned());
    set("os.build_id", Some(uname.release().to_string_lossy().into_owned()));
    set("container.id", container);
    for (attribute, value) in pod {
        set(attribute, Some(value));
    }
    for (attribute, value) in &settings.resource_attributes {
        set(attribute, Some(value.clone()));
    }
    set("service.name", settings.service_name.clone());
    Resource { attributes: attributes.into_iter().map(|(name, value)| KeyValue::text(&name, value)).collect() }
}

/// The names of architectures that OpenTelemetry uses.
fn architecture(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "i386" | "i486" | "i586" | "i686" => "x86",
        other => other,
    }
}

/// `NAME="value"` lines (os-release(5)).
fn os_release(text: &str) -> BTreeMap<&str, String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim(), value.trim().trim_matches(['"', '\'']).to_owned()))
        .collect()
}

/// The id of the container that a process is in, from its `/proc/PID/cgroup`: the last 64 hexadecimal digits of a path.
fn container_id(cgroup: &str) -> Option<String> {
    let is_id = |part: &&str| part.len() == 64 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    let paths = cgroup.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    paths.filter_map(|path| path.split(['/', '-', '.', ':']).rfind(is_id)).next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::otlp::message::{Any, AnyValue};

    fn of(settings: &OtlpSettings, variables: &[(&str, &str)]) -> BTreeMap<String, String> {
        let variable =
            |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
            Some(Any::Text(text)) => text,
            other => panic!("{other:?}"),
        };
        let attributes = resource(settings, &variable).attributes.into_iter();
        attributes.map(|attribute| (attribute.key, text(attribute.value))).collect()
    }

    #[test]
    fn it_says_which_kerno_on_which_machine() {
        let plain = of(&OtlpSettings::default(), &[("POD_NAME", "not in Kubernetes")]);
        assert_eq!(plain["service.name"], "kerno");
        assert_eq!(plain["service.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(plain["os.type"], "linux");
        let nodename = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(plain["host.name"], nodename.trim());
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(plain["os.build_id"], release.trim());
        assert!(Uuid::parse_str(&plain["service.instance.id"]).is_ok());
        assert_eq!(plain, of(&OtlpSettings::default(), &[]), "the same each time, and no pod");
        assert!(!plain.contains_key("k8s.pod.name"));
    }

    #[test]
    fn what_is_set_and_what_kubernetes_tells_is_there() {
        let mut settings = OtlpSettings { service_name: Some("kerno-edge".to_owned()), ..OtlpSettings::default() };
        settings.resource_attributes.insert("deployment.environment.name".to_owned(), "prod".to_owned());
        settings.resource_attributes.insert("service.name".to_owned(), "loses".to_owned());
        let variables = [
            ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
            ("K8S_NODE_NAME", "node-7"),
            ("POD_NAMESPACE", "observe"),
            ("POD_NAME", "kerno-abcde"),
            ("K8S_POD_UID", "0f1e"),
        ];
        let told = of(&settings, &variables);
        assert_eq!(told["service.name"], "kerno-edge");
        assert_eq!(told["deployment.environment.name"], "prod");
        assert_eq!((told["host.name"].as_str(), told["k8s.node.name"].as_str()), ("node-7", "node-7"));
        assert_eq!((told["k8s.namespace.name"].as_str(), told["k8s.pod.name"].as_str()), ("observe", "kerno-abcde"));
        let other = of(&settings, &[variables[0], ("K8S_POD_UID", "0f1f")]);
        assert_ne!(told["service.instance.id"], other["service.instance.id"]);
    }

    #[test]
    fn files_of_the_system_are_read() {
        let os = os_release("# a comment\nNAME=\"Debian GNU/Linux\"\nVERSION_ID='12'\nID=debian\nbroken\n");
        assert_eq!(
            (os["NAME"].as_str(), os["VERSION_ID"].as_str(), os["ID"].as_str()),
            ("Debian GNU/Linux", "12", "debian")
        );
        let id = "a".repeat(64);
        for path in [
            format!("0::/system.slice/docker-{id}.scope\n"),
            format!("12:memory:/\n11:cpu:/kubepods/besteffort/podUID/{id}\n"),
            format!("0::/kubepods.slice/cri-containerd-{id}.scope/init\n"),
        ] {
            assert_eq!(container_id(&path), Some(id.clone()), "{path}");
        }
        assert_eq!(container_id("0::/user.slice/user-0.slice/session-1.scope\n"), None);
    }
}
