"""Checks rendered manifests for what no schema says: least privilege, and what must fit together."""
import sys, yaml

objects = [one for one in yaml.safe_load_all(sys.stdin) if one]
kinds = {}
for one in objects:
    kinds.setdefault(one["kind"], []).append(one)
[daemon] = kinds["DaemonSet"]
pod = daemon["spec"]["template"]["spec"]
[container] = pod["containers"]
security = container["securityContext"]
assert pod["hostPID"] is True and pod["automountServiceAccountToken"] is False
assert security["privileged"] is False and security["readOnlyRootFilesystem"] is True
assert security["allowPrivilegeEscalation"] is False and security["capabilities"]["drop"] == ["ALL"]
allowed = {"BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "SYS_ADMIN"}
assert set(security["capabilities"]["add"]) <= allowed, security["capabilities"]
assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
for probe in "startupProbe", "livenessProbe", "readinessProbe":
    assert f":{container[probe]['httpGet']['port']}" in " ".join(container["args"]), probe
mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
volumes = {volume["name"] for volume in pod["volumes"]}
assert set(mounts) == volumes, (sorted(mounts), sorted(volumes))
for volume in pod["volumes"]:
    # Of the host's files only its own directory may be written to.
    assert "hostPath" not in volume or mounts[volume["name"]].get("readOnly") or volume["name"] == "store", volume
selector = daemon["spec"]["selector"]["matchLabels"].items()
assert selector <= daemon["spec"]["template"]["metadata"]["labels"].items()
for service in kinds.get("Service", []):
    assert service["spec"]["selector"].items() == selector
    assert "--http=0.0.0.0:7653" in container["args"] and {"tls", "token"} <= volumes
if "Service" not in kinds:
    assert "--http=127.0.0.1:7653" in container["args"], container["args"]
for monitor in kinds.get("ServiceMonitor", []):
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["scheme"] == "https" and endpoint["authorization"]["credentials"]["key"] == "token"
    assert endpoint["port"] in [port["name"] for port in kinds["Service"][0]["spec"]["ports"]]
for rule in kinds.get("PrometheusRule", []):
    alerts = {alert["alert"] for group in rule["spec"]["groups"] for alert in group["rules"]}
    assert "KernoIncident" in alerts and "KernoDown" in alerts, alerts
if "ServiceAccount" in kinds:
    assert pod["serviceAccountName"] == kinds["ServiceAccount"][0]["metadata"]["name"]
# The configuration is that of the daemon, and says nothing twice.
print(next(iter(kinds["ConfigMap"]))["data"]["config.toml"], file=open(sys.argv[1], "w"))
print(f"{len(objects)} objects: {', '.join(sorted(kinds))}")
