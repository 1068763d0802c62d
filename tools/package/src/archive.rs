//! Tar archives that are the same bytes each time, and the tarball.

use std::collections::BTreeSet;

use anyhow::Result;
use tar::{Builder, EntryType, Header};

use crate::Release;
use crate::contents::{Contents, Entry, gzip, text};

/// An archive of directories and files that belong to root, all from one time.
pub(crate) struct Archive {
    builder: Builder<Vec<u8>>,
    epoch: u64,
    made: BTreeSet<String>,
}

impl Archive {
    pub(crate) fn new(epoch: u32) -> Self {
        Self { builder: Builder::new(Vec::new()), epoch: epoch.into(), made: BTreeSet::new() }
    }

    /// Adds a directory, after those that it is in.
    pub(crate) fn directory(&mut self, path: &str, mode: u32) -> Result<()> {
        let path = path.trim_end_matches('/');
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above, 0o755)?;
        }
        if self.made.insert(path.to_owned()) {
            let mut header = self.header(EntryType::Directory, mode, 0);
            self.builder.append_data(&mut header, format!("{path}/"), std::io::empty())?;
        }
        Ok(())
    }

    /// Adds a file, after the directories that it is in.
    pub(crate) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> Result<()> {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above, 0o755)?;
        }
        let mut header = self.header(EntryType::Regular, mode, bytes.len() as u64);
        Ok(self.builder.append_data(&mut header, path, bytes)?)
    }

    fn header(&self, kind: EntryType, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        // A name that is too long for the field would be an error; this one is not.
        let _ = header.set_username("root").and_then(|()| header.set_groupname("root"));
        header.set_mtime(self.epoch);
        header.set_size(size);
        header
    }

    pub(crate) fn finish(self) -> Result<Vec<u8>> {
        Ok(self.builder.into_inner()?)
    }
}

/// All files below one directory, with the licences and how to install them by hand.
pub(crate) fn tarball(release: &Release, contents: &Contents, name: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::new(release.epoch);
    for (path, from) in [
        ("CHANGELOG.md", "CHANGELOG.md"),
        ("INSTALL.md", "docs/install.md"),
        ("LICENSE", "LICENSE"),
        ("LICENSES/BSD-2-Clause.txt", "LICENSES/BSD-2-Clause.txt"),
        ("LICENSES/GPL-2.0-only.txt", "LICENSES/GPL-2.0-only.txt"),
        ("README.md", "README.md"),
    ] {
        archive.file(&format!("{name}/{path}"), 0o644, text(from)?.as_bytes())?;
    }
    for Entry { path, mode, bytes, .. } in contents.entries() {
        archive.file(&format!("{name}/{path}"), *mode, bytes)?;
    }
    gzip(&archive.finish()?)
}
