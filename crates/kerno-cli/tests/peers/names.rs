//! Containers of a real Docker, by the names that it gave them.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::component::component;
use crate::support::{alone, built};

/// In a mount namespace of its own, where nobody else sees this Docker: starts it, has it run a container, asks kerno, and cleans up. A program in the
/// container tries to open a file that is not there, again and again.
const SCRIPT: &str = r#"
set -eu
mkdir -p /var/lib/docker "$T/exec" "$T/root/bin"
mount -t tmpfs tmpfs /var/lib/docker
cp "$BUSYBOX" "$T/root/bin/busybox"
ln -s busybox "$T/root/bin/sh"
ln -s busybox "$T/root/bin/cat"
export PATH="$DOCKER/usr/sbin:$CLIENT/usr/bin:$CONTAINERD/usr/bin:$RUNC/usr/sbin:$PATH" DOCKER_HOST="unix://$T/docker.sock"
dockerd --userland-proxy=false --bridge=none --iptables=false --ip6tables=false --ip-forward=false -H "$DOCKER_HOST" --exec-root "$T/exec" \
	--pidfile "$T/pid" --storage-driver vfs --exec-opt native.cgroupdriver=cgroupfs >"$T/log" 2>&1 &
docker=$!
end() {
	docker rm -f kerno-cache >/dev/null 2>&1 || true
	kill $docker && wait $docker || true
}
trap end EXIT
for _ in $(seq 100); do docker version >/dev/null 2>&1 && break; sleep 0.2; done
tar -C "$T/root" -c . | docker import - localhost/kerno:1 >/dev/null
docker run -d --name kerno-cache --network none --label com.docker.compose.project=shop --label com.docker.compose.service=cache localhost/kerno:1 \
	/bin/sh -c 'while :; do cat /nonexistent 2>/dev/null; done' >"$T/id"
"$KERNO" trace file --container kerno-cache --errors-only --count 5 --duration 20s --output json >"$T/trace" 2>"$T/told"
"$KERNO" doctor --duration 2s --save "$T/window" >/dev/null 2>&1
"$KERNO" why --container kerno-cache --duration 2s --output json >"$T/why" 2>>"$T/told"
docker stop -t 0 kerno-cache >/dev/null
"$KERNO" trace file --container kerno-cache --count 1 >/dev/null 2>"$T/gone" && exit 1 || true
"#;

#[test]
fn a_container_of_docker_is_known_by_its_name() {
    let _alone = alone();
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| place.path().join(name);
    let read = |name: &str| std::fs::read_to_string(at(name)).unwrap_or_default();
    let busybox = component("busybox-static/bin/busybox");
    let mut script = Command::new("timeout");
    script.args(["120", "unshare", "-m", "--propagation", "private", "sh", "-c", SCRIPT]);
    script.env("T", place.path()).env("KERNO", built()).env("BUSYBOX", busybox);
    for (name, package) in
        [("DOCKER", "docker.io"), ("CLIENT", "docker-cli"), ("CONTAINERD", "containerd"), ("RUNC", "runc")]
    {
        script.env(name, component(package));
    }
    let output = script.output().unwrap();
    let told = || format!("{}\n{}\n{}", String::from_utf8_lossy(&output.stderr), read("told"), read("log"));
    assert!(output.status.success(), "{}", told());
    let id = read("id").trim().to_owned();
    let trace = read("trace");
    let events: Vec<Value> = trace.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events.len(), 5, "{trace}{}", told());
    assert!(events.iter().all(|event| event["filename"] == "/nonexistent"), "{trace}");
    let window: Value = serde_json::from_str(&read("window")).unwrap();
    let processes = window["processes"].as_object().or_else(|| window["window"]["processes"].as_object()).unwrap();
    let containers: Vec<_> = processes.values().map(|process| &process["container"]).collect();
    let ours = containers.iter().find(|container| container["id"] == id.as_str());
    let ours = ours.unwrap_or_else(|| panic!("{containers:?}"));
    assert_eq!((&ours["runtime"], &ours["name"]), (&"docker".into(), &"kerno-cache".into()));
    assert_eq!((&ours["image"], &ours["workload"]), (&"localhost/kerno:1".into(), &"compose/shop/cache".into()));
    assert!(read("why").contains("kerno-cache"), "{}", read("why"));
    assert!(
        read("gone").contains("no process is in a container that has the id or the name kerno-cache"),
        "{}",
        read("gone")
    );
    // What Docker leaves behind.
    std::thread::sleep(Duration::from_millis(200));
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain(["/sys/fs/cgroup".into()]) {
        let _ = std::fs::remove_dir(hierarchy.join("docker"));
    }
}
