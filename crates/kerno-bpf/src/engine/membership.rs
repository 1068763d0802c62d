//! Finds containers and systemd units from the path of a cgroup: engines and systemd put their names there.

use kerno_model::Container;

/// What a process belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) container: Option<Container>,
    pub(crate) unit: Option<String>,
}

/// How engines name the scope of a container if systemd makes its cgroup: prefix and engine.
const SCOPES: &[(&str, &str)] = &[
    ("cri-containerd-", "containerd"),
    ("crio-", "cri-o"),
    ("docker-", "docker"),
    ("libpod-", "podman"),
    ("nerdctl-", "containerd"),
    ("containerd-", "containerd"),
];

/// Directories in which engines make the cgroups of containers themselves: name and engine.
const PARENTS: &[(&str, &str)] = &[
    ("docker", "docker"),
    ("libpod_parent", "podman"),
    ("moby", "docker"),
    ("k8s.io", "containerd"),
    ("default", "containerd"),
    ("ecs", "ecs"),
    ("garden", "garden"),
];

/// Finds container and unit from the path. The innermost container counts, and only units within it: the service of the engine above
/// a container says nothing about it.
pub(crate) fn membership(path: &str) -> Membership {
    let components: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != "..").collect();
    let mut found = Membership::default();
    let mut pod_uid = None;
    for (index, component) in components.iter().enumerate() {
        let parents = components.get(..index).unwrap_or_default();
        pod_uid = pod(component).or(pod_uid);
        if let Some((runtime, id)) = container(component, parents, pod_uid.is_some()) {
            let unit = component.starts_with("systemd-nspawn@").then(|| (*component).to_owned());
            let container =
                Container { runtime: runtime.to_owned(), id, pod_uid: pod_uid.clone(), ..Container::default() };
            found = Membership { container: Some(container), unit };
        } else if is_unit(component) {
            found.unit = Some((*component).to_owned());
        }
    }
    found
}

fn is_unit(component: &str) -> bool {
    // Helpers of containers (conmon) and the manager of a user's units are not worth naming.
    let plumbing = component.starts_with("libpod-conmon-") || component.starts_with("crio-conmon-");
    let kinds = [".service", ".scope", ".socket", ".mount", ".swap"];
    !plumbing && kinds.iter().any(|kind| component.len() > kind.len() && component.ends_with(kind))
}

/// The engine and the id or name of the container, if this component is the cgroup of a container.
fn container<'a>(component: &str, parents: &[&str], in_pod: bool) -> Option<(&'a str, String)> {
    let scope = component.strip_suffix(".scope").unwrap_or(component);
    for (prefix, runtime) in SCOPES {
        if let Some(id) = scope.strip_prefix(prefix).filter(|id| is_id(id)) {
            return Some((runtime, id.to_owned()));
        }
    }
    // containerd with the systemd way of naming but cgroupfs: `kubepods-burstable-podUID.slice:cri-containerd:ID`.
    if let Some((before, id)) = component.rsplit_once(':').filter(|(_, id)| is_id(id)) {
        let engine = before.rsplit(':').next().unwrap_or_default();
        let runtime = SCOPES.iter().find(|(prefix, _)| prefix.trim_end_matches('-') == engine);
        return Some((runtime.map_or("kubernetes", |(_, runtime)| runtime), id.to_owned()));
    }
    if let Some(name) = lxc(component, parents) {
        return Some(("lxc", name.to_owned()));
    }
    if let Some(name) = nspawn(component) {
        return Some(("systemd-nspawn", name));
    }
    if is_id(component) || is_fargate(component) {
        if in_pod {
            return Some(("kubernetes", component.to_owned()));
        }
        let parent = parents.iter().rev().find_map(|parent| PARENTS.iter().find(|(name, _)| name == parent));
        // 64 hexadecimal digits are the id of a container anywhere; fewer only where an engine says so.
        return match parent {
            Some((_, runtime)) => Some((runtime, component.to_owned())),
            None => (component.len() == 64).then(|| ("unknown", component.to_owned())),
        };
    }
    let garden = parents.last() == Some(&"garden") && component.len() >= 8;
    garden.then(|| ("garden", component.to_owned()))
}

/// `lxc.payload.NAME`, `lxc.payload/NAME`, `lxc/NAME`; `lxc.monitor` is the process outside that watches it.
fn lxc<'a>(component: &'a str, parents: &[&str]) -> Option<&'a str> {
    let below = |parent: &str| parents.last() == Some(&parent) && !component.starts_with("lxc.");
    component
        .strip_prefix("lxc.payload.")
        .or_else(|| (below("lxc") || below("lxc.payload")).then_some(component))
        .filter(|name| !name.is_empty())
}

/// `systemd-nspawn@NAME.service` or `machine-NAME.scope`, whose name systemd escapes. Virtual machines are no containers.
fn nspawn(component: &str) -> Option<String> {
    let service = component.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service"));
    let scope = component.strip_prefix("machine-").and_then(|rest| rest.strip_suffix(".scope"));
    let name = unescape_unit(service.or(scope)?);
    (!name.starts_with("qemu-")).then_some(name)
}

/// Undoes systemd's `\x2d` (systemd.unit(5)).
fn unescape_unit(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut rest = name;
    while let Some((before, after)) = rest.split_once("\\x") {
        plain.push_str(before);
        let byte = after.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(u8::is_ascii);
        match byte {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                plain.push_str("\\x");
                rest = after;
            }
        }
    }
    plain + rest
}

/// The uid in `podUID` (cgroupfs) or `kubepods-burstable-podUID.slice` (systemd, which allows no `-` there).
fn pod(component: &str) -> Option<String> {
    // containerd may have the container behind it: see above.
    let component = component.split(':').next().unwrap_or_default();
    let component = component.strip_suffix(".slice").unwrap_or(component);
    let start = component.starts_with("pod").then_some(0).or_else(|| component.rfind("-pod").map(|at| at + 1))?;
    let uid = component.get(start + 3..)?.replace('_', "-");
    // Static pods have a hash without dashes.
    let digits = uid.chars().filter(char::is_ascii_hexdigit).count();
    (digits == 32 && uid.chars().all(|c| c.is_ascii_hexdigit() || c == '-')).then_some(uid)
}

fn is_id(text: &str) -> bool {
    (12..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// AWS Fargate: 32 hexadecimal digits, a dash, a decimal number.
fn is_fargate(text: &str) -> bool {
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    text.split_once('-').is_some_and(|(id, serial)| id.len() == 32 && is_id(id) && number(serial))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "5f2d1a8c0b9e7d6f4a3b2c1d0e9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f";
    const POD: &str = "2b8d9f10-6c1e-4a2f-9a53-0d5c1f7e8b42";

    type Case = (&'static str, Option<(&'static str, &'static str, bool)>, Option<&'static str>);

    /// Paths, `ID`, `POD` and `P_O_D` (with underscores) standing for those; then runtime, id, whether in the pod, unit.
    const PATHS: &[Case] = &[
        ("/", None, None),
        ("/init.scope", None, Some("init.scope")),
        ("/system.slice/nginx.service", None, Some("nginx.service")),
        ("/system.slice/system-postgresql.slice/postgresql@15-main.service", None, Some("postgresql@15-main.service")),
        ("/system.slice/ssh.service/auth", None, Some("ssh.service")),
        ("/user.slice/user-1000.slice/session-3.scope", None, Some("session-3.scope")),
        (
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-gnome-firefox-4711.scope",
            None,
            Some("app-gnome-firefox-4711.scope"),
        ),
        (
            "/user.slice/user-1000.slice/user@1000.service/session.slice/pipewire.service",
            None,
            Some("pipewire.service"),
        ),
        ("/system.slice/docker.service", None, Some("docker.service")),
        ("/system.slice/docker.socket", None, Some("docker.socket")),
        ("/docker/ID", Some(("docker", ID, false)), None),
        ("/docker/ID/system.slice/cron.service", Some(("docker", ID, false)), Some("cron.service")),
        ("/docker/0123456789abcdef/docker/ID", Some(("docker", ID, false)), None),
        ("/system.slice/docker-ID.scope", Some(("docker", ID, false)), None),
        ("/system.slice/nerdctl-ID.scope", Some(("containerd", ID, false)), None),
        ("/default/ID", Some(("containerd", ID, false)), None),
        ("/ID", Some(("unknown", ID, false)), None),
        ("/cafecafecafe", None, None),
        ("/machine.slice/libpod-ID.scope", Some(("podman", ID, false)), None),
        ("/machine.slice/libpod-ID.scope/container", Some(("podman", ID, false)), None),
        ("/machine.slice/libpod-conmon-ID.scope", None, None),
        ("/libpod_parent/libpod-ID", Some(("podman", ID, false)), None),
        (
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
            Some(("podman", ID, false)),
            None,
        ),
        ("/kubepods/besteffort/podPOD/ID", Some(("kubernetes", ID, true)), None),
        ("/kubepods/podPOD/ID", Some(("kubernetes", ID, true)), None),
        ("/kubepods/burstable/pod0123456789abcdef0123456789abcdef", None, None),
        (
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podP_O_D.slice/cri-containerd-ID.scope",
            Some(("containerd", ID, true)),
            None,
        ),
        ("/kubepods.slice/kubepods-podP_O_D.slice/crio-ID.scope", Some(("cri-o", ID, true)), None),
        ("/kubepods.slice/kubepods-podP_O_D.slice/crio-ID.scope/container", Some(("cri-o", ID, true)), None),
        ("/kubepods.slice/kubepods-podP_O_D.slice/crio-conmon-ID.scope", None, None),
        ("/kubepods.slice/kubepods-podP_O_D.slice/docker-ID.scope", Some(("docker", ID, true)), None),
        (
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/\
             kubelet-kubepods-besteffort-podP_O_D.slice/cri-containerd-ID.scope",
            Some(("containerd", ID, true)),
            None,
        ),
        (
            "/system.slice/containerd.service/kubepods-burstable-podP_O_D.slice:cri-containerd:ID",
            Some(("containerd", ID, true)),
            None,
        ),
        // kind: a node is a container, and the pods are within it.
        ("/docker/0123456789ab/kubelet/kubepods/besteffort/podPOD/ID", Some(("kubernetes", ID, true)), None),
        (
            "/ecs/prod/0123456789abcdef0123456789abcdef-527074092",
            Some(("ecs", "0123456789abcdef0123456789abcdef-527074092", false)),
            None,
        ),
        ("/ecs/0123456789abcdef/ID", Some(("ecs", ID, false)), None),
        ("/lxc/web", Some(("lxc", "web", false)), None),
        ("/lxc.payload.web/system.slice/nginx.service", Some(("lxc", "web", false)), Some("nginx.service")),
        ("/lxc.payload/web", Some(("lxc", "web", false)), None),
        ("/lxc.monitor.web", None, None),
        (
            "/machine.slice/systemd-nspawn@web.service/payload/system.slice/cron.service",
            Some(("systemd-nspawn", "web", false)),
            Some("cron.service"),
        ),
        (
            "/machine.slice/systemd-nspawn@web.service/payload",
            Some(("systemd-nspawn", "web", false)),
            Some("systemd-nspawn@web.service"),
        ),
        ("/machine.slice/machine-my\\x2dweb.scope", Some(("systemd-nspawn", "my-web", false)), None),
        ("/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/emulator", None, Some("machine-qemu\\x2d1\\x2dvm.scope")),
        ("/../../system.slice/cron.service", None, Some("cron.service")),
    ];

    #[test]
    fn paths_tell_containers_and_units() {
        for (path, container, unit) in PATHS {
            let path = path.replace("ID", ID).replace("POD", POD).replace("P_O_D", &POD.replace('-', "_"));
            let found = membership(&path);
            let expected = container.map(|(runtime, id, in_pod)| Container {
                runtime: runtime.into(),
                id: id.into(),
                pod_uid: in_pod.then(|| POD.into()),
                ..Container::default()
            });
            assert_eq!(found.container, expected, "{path}");
            assert_eq!(found.unit.as_deref(), *unit, "{path}");
        }
    }

    #[test]
    fn any_text_is_read_without_harm() {
        for path in ["", "//", "pod", "/-pod", "/machine-.scope", "/machine-\\x.scope", "/a:b:c", "/.service", "/lxc/"]
        {
            let _ = membership(path);
        }
        assert_eq!(unescape_unit("a\\x2db\\xzz\\x"), "a-b\\xzz\\x");
    }
}
