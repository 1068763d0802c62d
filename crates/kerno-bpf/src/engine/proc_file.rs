use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

/// A file of /proc that every sample reads: stays open, and is read in one call instead of ten.
#[derive(Debug)]
pub(crate) struct ProcFile {
    path: PathBuf,
    file: Option<File>,
    buffer: Vec<u8>,
}

impl ProcFile {
    /// Opens the file at the first read.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None, buffer: Vec::new() }
    }

    /// What it says now; `None` when it cannot be read or is no text.
    pub(crate) fn text(&mut self) -> Option<&str> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let bytes = read_all(self.file.as_ref()?, &mut self.buffer)?;
        std::str::from_utf8(self.buffer.get(..bytes)?).ok()
    }
}

/// From the start; the number of bytes.
fn read_all(file: &File, buffer: &mut Vec<u8>) -> Option<usize> {
    let mut end = 0;
    loop {
        if buffer.len() - end < 1024 {
            buffer.resize((buffer.len() * 2).max(4096), 0);
        }
        match file.read_at(buffer.get_mut(end..)?, u64::try_from(end).ok()?) {
            Ok(0) => return Some(end),
            Ok(bytes) => end += bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_is_true_now() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let mut file = ProcFile::new(path.path());
        for text in ["", "short", &"long ".repeat(5000), "short again"] {
            std::fs::write(path.path(), text).unwrap();
            assert_eq!(file.text(), Some(text));
        }
        assert!(ProcFile::new("/proc/meminfo").text().unwrap().starts_with("MemTotal:"));
        assert_eq!(ProcFile::new("/no/such/file").text(), None);
    }
}
