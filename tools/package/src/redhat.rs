//! The RPM package.

use anyhow::Result;
use rpm::{BuildConfig, CompressionWithLevel, Dependency, FileOptions, PackageBuilder};

use crate::contents::{Contents, text};
use crate::{DESCRIPTION, HOMEPAGE, MAINTAINER, Release, SUMMARY};

pub(crate) fn package(release: &Release, contents: &Contents) -> Result<Vec<u8>> {
    // RHEL 8 reads this format and compression, too.
    let config = BuildConfig::v4().compression(CompressionWithLevel::Gzip(9)).source_date(release.epoch);
    let script = |name: &str| text(&format!("deploy/packages/rpm/{name}"));
    // Here a summary begins like a sentence.
    let summary = format!("{}{}", SUMMARY[..1].to_uppercase(), &SUMMARY[1..]);
    let mut builder = PackageBuilder::new("kerno", &release.version, "Apache-2.0", std::env::consts::ARCH, &summary);
    builder
        .using_config(config)
        .release("1")
        .description(DESCRIPTION)
        .url(HOMEPAGE)
        .vendor("Kerno")
        .packager(MAINTAINER)
        .group("System/Monitoring")
        .build_host("localhost")
        .requires(Dependency::script_post("/usr/bin/systemctl"))
        .requires(Dependency::script_preun("/usr/bin/systemctl"))
        .requires(Dependency::script_postun("/usr/bin/systemctl"))
        .post_install_script(script("post")?)
        .pre_uninstall_script(script("preun")?)
        .post_uninstall_script(script("postun")?)
        .add_changelog_entry(
            format!("{MAINTAINER} - {}-1", release.version),
            "- /usr/share/doc/kerno/CHANGELOG.md says what is new",
            release.epoch,
        );
    for entry in contents.entries() {
        let mode = u16::try_from(entry.mode & 0o7777)?;
        let path = in_place(&entry.path);
        let mut options = FileOptions::new(path.clone()).permissions(mode).user("root").group("root");
        if entry.is_config {
            options = options.config().noreplace();
        } else if path.starts_with("/usr/share/man/") {
            options = options.doc();
        }
        builder.with_file_contents(entry.bytes.clone(), options)?;
    }
    builder.with_file_contents(text("LICENSE")?, FileOptions::new("/usr/share/licenses/kerno/LICENSE").license())?;
    let history = FileOptions::new("/usr/share/doc/kerno/CHANGELOG.md").doc();
    builder.with_file_contents(text("CHANGELOG.md")?, history)?;
    let mut bytes = Vec::new();
    builder.build()?.write(&mut bytes)?;
    Ok(bytes)
}

/// Where these distributions keep what Debian keeps elsewhere.
fn in_place(path: &str) -> String {
    let path = path.replace("share/zsh/vendor-completions", "share/zsh/site-functions");
    format!("/{}", path.replace("share/fish/vendor_completions.d", "share/fish/completions"))
}
