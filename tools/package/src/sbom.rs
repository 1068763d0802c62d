//! What the program is made of, as a CycloneDX document.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::build::metadata;
use crate::contents::text;
use crate::{HOMEPAGE, Release};

/// The crate whose program is shipped.
const ROOT: &str = "kerno-cli";

/// What cargo says (cargo-metadata(1)).
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    /// `None`: of this workspace.
    source: Option<String>,
    license: Option<String>,
    description: Option<String>,
    repository: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Edge>,
}

#[derive(Deserialize)]
struct Edge {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `None`: it is part of the program; others are for building or testing.
    kind: Option<String>,
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<String>,
}

pub(crate) fn cyclonedx(release: &Release) -> Result<Vec<u8>> {
    let metadata: Metadata = serde_json::from_value(metadata()?).context("cargo metadata has another form")?;
    let lock: Lock = toml::from_str(&text("Cargo.lock")?).context("Cargo.lock")?;
    let sums: BTreeMap<_, _> =
        lock.package.into_iter().filter_map(|locked| Some(((locked.name, locked.version), locked.checksum?))).collect();
    let document = document(&metadata, &sums, release)?;
    let mut bytes = serde_json::to_vec_pretty(&document)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn document(metadata: &Metadata, sums: &BTreeMap<(String, String), String>, release: &Release) -> Result<Value> {
    let packages: BTreeMap<_, _> = metadata.packages.iter().map(|package| (package.id.as_str(), package)).collect();
    let root = metadata.packages.iter().find(|package| package.name == ROOT).context("cargo knows no kerno-cli")?;
    // Which crates are linked into the program, each with those that it uses.
    let nodes: BTreeMap<_, _> = metadata.resolve.nodes.iter().map(|node| (node.id.as_str(), node)).collect();
    let mut linked: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut left = vec![root.id.as_str()];
    while let Some(id) = left.pop() {
        if linked.contains_key(id) {
            continue;
        }
        let node = nodes.get(id).with_context(|| format!("cargo does not say what {id} uses"))?;
        let is_linked = |edge: &&Edge| edge.dep_kinds.iter().any(|kind| kind.kind.is_none());
        let uses: BTreeSet<_> = node.deps.iter().filter(is_linked).map(|edge| edge.pkg.as_str()).collect();
        left.extend(&uses);
        linked.insert(id, uses);
    }
    let purl = |id: &str| packages.get(id).map(|package| format!("pkg:cargo/{}@{}", package.name, package.version));
    let mut components: Vec<_> = linked
        .keys()
        .filter(|id| **id != root.id)
        .filter_map(|id| packages.get(id))
        .map(|package| component(package, sums))
        .collect();
    components.sort_by_key(|component| component["purl"].to_string());
    let mut dependencies: Vec<_> = linked
        .iter()
        .filter_map(|(id, uses)| {
            let mut uses: Vec<_> = uses.iter().filter_map(|id| purl(id)).collect();
            uses.sort();
            Some(json!({ "ref": purl(id)?, "dependsOn": uses }))
        })
        .collect();
    dependencies.sort_by_key(|dependency| dependency["ref"].to_string());
    Ok(json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": jiff::Timestamp::from_second(release.epoch.into())?.to_string(),
            "component": {
                "type": "application",
                "bom-ref": purl(&root.id),
                "name": "kerno",
                "version": release.version,
                "licenses": [{ "expression": root.license }],
                "externalReferences": [{ "type": "vcs", "url": HOMEPAGE }],
            },
        },
        "components": components,
        "dependencies": dependencies,
    }))
}

fn component(package: &Package, sums: &BTreeMap<(String, String), String>) -> Value {
    let purl = format!("pkg:cargo/{}@{}", package.name, package.version);
    let mut component = json!({
        "type": "library",
        "bom-ref": purl,
        "purl": purl,
        "name": package.name,
        "version": package.version,
        "scope": "required",
    });
    // Older crates write MIT/Apache-2.0 for MIT OR Apache-2.0.
    if let Some(license) = &package.license {
        component["licenses"] = json!([{ "expression": license.replace('/', " OR ") }]);
    }
    if let Some(description) = &package.description {
        component["description"] = json!(description.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    if let Some(sum) = sums.get(&(package.name.clone(), package.version.clone())) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    if let Some(repository) = package.repository.as_ref().filter(|_| package.source.is_some()) {
        component["externalReferences"] = json!([{ "type": "vcs", "url": repository }]);
    }
    component
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_is_listed_and_nothing_else() {
        let metadata: Metadata = serde_json::from_value(json!({
            "packages": [
                { "id": "r", "name": "kerno-cli", "version": "1.0.0", "license": "Apache-2.0" },
                { "id": "a", "name": "a", "version": "1.2.3", "source": "registry", "license": "MIT/Apache-2.0", "repository": "https://a" },
                { "id": "b", "name": "b", "version": "2.0.0", "source": "registry" },
                { "id": "t", "name": "t", "version": "3.0.0", "source": "registry" },
            ],
            "resolve": { "nodes": [
                { "id": "r", "deps": [
                    { "pkg": "a", "dep_kinds": [{ "kind": null }, { "kind": "dev" }] },
                    { "pkg": "t", "dep_kinds": [{ "kind": "dev" }, { "kind": "build" }] },
                ] },
                { "id": "a", "deps": [{ "pkg": "b", "dep_kinds": [{ "kind": null }] }] },
                { "id": "b", "deps": [] },
                { "id": "t", "deps": [] },
            ] },
        }))
        .unwrap();
        let sums = BTreeMap::from([(("a".to_owned(), "1.2.3".to_owned()), "00ff".to_owned())]);
        let document = document(&metadata, &sums, &Release { version: "1.0.0".into(), epoch: 0 }).unwrap();
        let components = document["components"].as_array().unwrap();
        let names: Vec<_> = components.iter().map(|component| component["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(components[0]["licenses"][0]["expression"], "MIT OR Apache-2.0");
        assert_eq!(components[0]["hashes"][0]["content"], "00ff");
        assert_eq!(document["dependencies"][2]["dependsOn"], json!(["pkg:cargo/a@1.2.3"]));
    }
}
