use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use crate::probe::faults;

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

    /// What it says now.
    pub(crate) fn text(&mut self) -> io::Result<&str> {
        faults::pass_file(&self.path)?;
        let file = match self.file.take() {
            Some(file) => file,
            None => File::open(&self.path)?,
        };
        let bytes = read_all(&file, &mut self.buffer)?;
        self.file = Some(file);
        std::str::from_utf8(self.buffer.get(..bytes).unwrap_or_default())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// From the start; the number of bytes.
fn read_all(file: &File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let mut end = 0;
    loop {
        if buffer.len() - end < 1024 {
            buffer.resize((buffer.len() * 2).max(4096), 0);
        }
        match file.read_at(buffer.get_mut(end..).unwrap_or_default(), end as u64) {
            Ok(0) => return Ok(end),
            Ok(bytes) => end += bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
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
            assert_eq!(file.text().unwrap(), text);
        }
        assert!(ProcFile::new("/proc/meminfo").text().unwrap().starts_with("MemTotal:"));
        assert_eq!(ProcFile::new("/no/such/file").text().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
