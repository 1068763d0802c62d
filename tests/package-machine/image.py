"""Checks an OCI image layout: every digest and size, and what is in the image."""
import gzip, hashlib, io, json, sys, tarfile

layout = tarfile.open(sys.argv[1])
read = lambda name: layout.extractfile(name).read()


def blob(descriptor):
    data = read("blobs/" + descriptor["digest"].replace(":", "/"))
    assert len(data) == descriptor["size"], descriptor
    assert "sha256:" + hashlib.sha256(data).hexdigest() == descriptor["digest"], descriptor
    return data


assert json.loads(read("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
index = json.loads(read("index.json"))
assert index["schemaVersion"] == 2 and index["manifests"][0]["platform"]["os"] == "linux", index
manifest = json.loads(blob(index["manifests"][0]))
config = json.loads(blob(manifest["config"]))
assert config["config"]["Entrypoint"] == ["/usr/bin/kerno"] and config["config"]["Cmd"] == ["start"], config
layer = gzip.decompress(blob(manifest["layers"][0]))
assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()], config
# Docker's own list names the same.
[for_docker] = json.loads(read("manifest.json"))
assert for_docker["Config"].rpartition("/")[2] == manifest["config"]["digest"].partition(":")[2], for_docker
assert for_docker["Layers"][0].rpartition("/")[2] == manifest["layers"][0]["digest"].partition(":")[2], for_docker
names = {member.name: member for member in tarfile.open(fileobj=io.BytesIO(layer))}
assert names["usr/bin/kerno"].mode == 0o755 and "etc/passwd" in names and names["var/lib/kerno"].isdir(), sorted(names)
print(f"image: {len(names)} entries, {len(layer)} bytes")
