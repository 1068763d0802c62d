//! The Debian package (deb(5)).

use std::fmt::Write as _;

use anyhow::{Result, bail};

use crate::archive::Archive;
use crate::contents::{Contents, Entry, gzip, text};
use crate::{DESCRIPTION, HOMEPAGE, MAINTAINER, Release, SUMMARY};

/// Scripts that dpkg runs. Their `@VERSION@` is that of the package.
const SCRIPTS: &[&str] = &["preinst", "postinst", "prerm", "postrm"];

/// What Debian calls the processor.
pub(crate) fn architecture(arch: &str) -> Result<&'static str> {
    match arch {
        "x86_64" => Ok("amd64"),
        "aarch64" => Ok("arm64"),
        other => bail!("there is no Debian package for {other}"),
    }
}

pub(crate) fn package(release: &Release, contents: &Contents) -> Result<Vec<u8>> {
    let version = format!("{}-1", release.version);
    let mut data = Archive::new(release.epoch);
    data.directory(".", 0o755)?;
    let (mut sums, mut size) = (Vec::new(), 0);
    let documents = documents(release, &version)?;
    for Entry { path, mode, bytes, .. } in contents.entries().iter().chain(&documents) {
        data.file(&format!("./{path}"), *mode, bytes)?;
        sums.push((path, md5(bytes)));
        size += bytes.len().div_ceil(1024);
    }
    sums.sort();
    let mut control = Archive::new(release.epoch);
    control.directory(".", 0o755)?;
    let configs = contents.entries().iter().filter(|entry| entry.is_config);
    let configs: String = configs.map(|entry| format!("/{}\n", entry.path)).collect();
    control.file("./conffiles", 0o644, configs.as_bytes())?;
    control.file("./control", 0o644, paragraph(&version, size)?.as_bytes())?;
    let sums: String = sums.iter().map(|(path, sum)| format!("{sum}  {path}\n")).collect();
    control.file("./md5sums", 0o644, sums.as_bytes())?;
    for script in SCRIPTS {
        let text = text(&format!("deploy/packages/deb/{script}"))?.replace("@VERSION@", &version);
        control.file(&format!("./{script}"), 0o755, text.as_bytes())?;
    }
    let mut package = ar::Builder::new(Vec::new());
    for (name, bytes) in [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar.gz", gzip(&control.finish()?)?),
        ("data.tar.gz", gzip(&data.finish()?)?),
    ] {
        let mut header = ar::Header::new(name.into(), bytes.len() as u64);
        header.set_mode(0o100_644);
        header.set_mtime(release.epoch.into());
        package.append(&header, &bytes[..])?;
    }
    Ok(package.into_inner()?)
}

/// The paragraph of deb-control(5).
fn paragraph(version: &str, size: usize) -> Result<String> {
    let mut text = String::new();
    for (name, value) in [
        ("Package", "kerno"),
        ("Version", version),
        ("Architecture", architecture(std::env::consts::ARCH)?),
        ("Maintainer", MAINTAINER),
        ("Installed-Size", &size.to_string()),
        // Who makes the user and the group of the service.
        (
            "Depends",
            "init-system-helpers (>= 1.54~), systemd (>= 245) | systemd-standalone-sysusers | systemd-sysusers",
        ),
        ("Section", "admin"),
        ("Priority", "optional"),
        ("Homepage", HOMEPAGE),
        ("Description", SUMMARY),
    ] {
        let _ = writeln!(text, "{name}: {value}");
    }
    for line in DESCRIPTION.lines() {
        let _ = writeln!(text, " {}", line.trim());
    }
    Ok(text)
}

/// What Debian wants to know of each package.
fn documents(release: &Release, version: &str) -> Result<Vec<Entry>> {
    let history = format!(
        "kerno ({version}) unstable; urgency=medium\n\n  * changelog.gz in this directory says what is new.\n\n -- {MAINTAINER}  {}\n",
        rfc_2822(release.epoch)?
    );
    Ok(vec![
        Entry::new("usr/share/doc/kerno/changelog.gz", 0o644, gzip(text("CHANGELOG.md")?.as_bytes())?),
        Entry::new("usr/share/doc/kerno/changelog.Debian.gz", 0o644, gzip(history.as_bytes())?),
        Entry::new("usr/share/doc/kerno/copyright", 0o644, text("deploy/packages/deb/copyright")?.into_bytes()),
        Entry::new(
            "usr/share/lintian/overrides/kerno",
            0o644,
            text("deploy/packages/deb/lintian-overrides")?.into_bytes(),
        ),
    ])
}

/// Such as `Tue, 01 Dec 2026 03:16:32 +0000`.
fn rfc_2822(epoch: u32) -> Result<String> {
    let time = jiff::Timestamp::from_second(epoch.into())?.to_zoned(jiff::tz::TimeZone::UTC);
    Ok(jiff::fmt::rfc2822::to_string(&time)?)
}

/// The sums that dpkg --verify compares with are of this kind; they protect from accidents only.
fn md5(bytes: &[u8]) -> String {
    use md5::{Digest as _, Md5};
    crate::hex(&Md5::digest(bytes))
}
