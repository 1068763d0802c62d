//! The image, as an OCI image layout in a tar archive that docker, podman, skopeo and containerd read. No daemon is needed.

use anyhow::Result;
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, DescriptorBuilder, ImageConfigurationBuilder, ImageIndexBuilder,
    ImageManifestBuilder, MediaType, Os, PlatformBuilder, RootFsBuilder, Sha256Digest,
};
use sha2::{Digest as _, Sha256};

use crate::archive::Archive;
use crate::contents::{Contents, gzip, text};
use crate::{HOMEPAGE, Release, SUMMARY, hex};

/// A name for the image where it is loaded.
const NAME: &str = "kerno";

pub(crate) fn layout(release: &Release, contents: &Contents) -> Result<Vec<u8>> {
    let layer = layer(release, contents)?;
    let packed = gzip(&layer)?;
    let mut blobs = Vec::new();
    let packed = blob(&mut blobs, packed, MediaType::ImageLayerGzip)?;
    let arch = match std::env::consts::ARCH {
        "aarch64" => Arch::ARM64,
        _ => Arch::Amd64,
    };
    let config = ConfigBuilder::default()
        .entrypoint(vec!["/usr/bin/kerno".to_owned()])
        .cmd(vec!["start".to_owned()])
        .env(vec!["PATH=/usr/bin".to_owned()])
        .labels([
            ("org.opencontainers.image.title".to_owned(), NAME.to_owned()),
            ("org.opencontainers.image.description".to_owned(), SUMMARY.to_owned()),
            ("org.opencontainers.image.licenses".to_owned(), "Apache-2.0".to_owned()),
            ("org.opencontainers.image.source".to_owned(), HOMEPAGE.to_owned()),
            ("org.opencontainers.image.version".to_owned(), release.version.clone()),
        ])
        .build()?;
    let rootfs = RootFsBuilder::default().typ("layers").diff_ids(vec![format!("sha256:{}", digest(&layer))]).build()?;
    let created = jiff::Timestamp::from_second(release.epoch.into())?.to_string();
    let configuration = ImageConfigurationBuilder::default()
        .created(created)
        .architecture(arch.clone())
        .os(Os::Linux)
        .config(config)
        .rootfs(rootfs)
        .build()?;
    let configuration = blob(&mut blobs, sorted(&configuration)?, MediaType::ImageConfig)?;
    // Docker without the image store of containerd looks for this.
    let reference = format!("localhost/{NAME}:{}", release.version);
    let place = |descriptor: &Descriptor| format!("blobs/{}", descriptor.digest().to_string().replace(':', "/"));
    let (config, layers) = (place(&configuration), [place(&packed)]);
    let for_docker = serde_json::json!([{ "Config": config, "Layers": layers, "RepoTags": [reference] }]);
    let manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(configuration)
        .layers(vec![packed])
        .build()?;
    let manifest = blob(&mut blobs, sorted(&manifest)?, MediaType::ImageManifest)?;
    let platform = PlatformBuilder::default().architecture(arch).os(Os::Linux).build()?;
    let manifest = DescriptorBuilder::default()
        .media_type(MediaType::ImageManifest)
        .digest(manifest.digest().clone())
        .size(manifest.size())
        .platform(platform)
        .annotations([
            ("io.containerd.image.name".to_owned(), reference),
            ("org.opencontainers.image.ref.name".to_owned(), release.version.clone()),
        ])
        .build()?;
    let index = ImageIndexBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageIndex)
        .manifests(vec![manifest])
        .build()?;
    let mut archive = Archive::new(release.epoch);
    blobs.sort();
    for (name, bytes) in &blobs {
        archive.file(&format!("blobs/sha256/{name}"), 0o644, bytes)?;
    }
    archive.file("index.json", 0o644, &sorted(&index)?)?;
    archive.file("manifest.json", 0o644, &sorted(&for_docker)?)?;
    archive.file("oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    archive.finish()
}

/// All that is in the image: the program, and what names of users and its directories need. Certificates of authorities are the user's to mount.
fn layer(release: &Release, contents: &Contents) -> Result<Vec<u8>> {
    let mut archive = Archive::new(release.epoch);
    archive.file("etc/group", 0o644, b"root:x:0:\n")?;
    archive.directory("etc/kerno", 0o755)?;
    archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/sbin/nologin\n")?;
    archive.directory("run/kerno", 0o755)?;
    archive.directory("tmp", 0o1777)?;
    archive.file("usr/bin/kerno", 0o755, contents.program())?;
    archive.file("usr/share/licenses/kerno/LICENSE", 0o644, text("LICENSE")?.as_bytes())?;
    archive.directory("var/lib/kerno", 0o750)?;
    archive.finish()
}

/// As JSON with sorted names: maps have no order of their own.
fn sorted<T: serde::Serialize>(value: &T) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(&serde_json::to_value(value)?)?)
}

fn blob(blobs: &mut Vec<(String, Vec<u8>)>, bytes: Vec<u8>, kind: MediaType) -> Result<Descriptor> {
    let name = digest(&bytes);
    let descriptor = Descriptor::new(kind, bytes.len() as u64, name.parse::<Sha256Digest>()?);
    blobs.push((name, bytes));
    Ok(descriptor)
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
