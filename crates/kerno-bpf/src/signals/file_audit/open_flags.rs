use std::fmt::{self, Write as _};

/// The flags of an open, displayed by their names: `O_WRONLY|O_CREAT|O_TRUNC`. Bits without a name are shown in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFlags(pub u32);

/// `O_LARGEFILE` as the kernel has it; the C library's is 0 on 64-bit hosts. 32-bit callers set it.
#[cfg(target_arch = "x86_64")]
const LARGEFILE: u32 = 0o100_000;
#[cfg(target_arch = "aarch64")]
const LARGEFILE: u32 = 0o400_000;

/// Those made of several bits come before their parts.
const NAMES: [(u32, &str); 17] = [
    (libc::O_CREAT.cast_unsigned(), "O_CREAT"),
    (libc::O_EXCL.cast_unsigned(), "O_EXCL"),
    (libc::O_NOCTTY.cast_unsigned(), "O_NOCTTY"),
    (libc::O_TRUNC.cast_unsigned(), "O_TRUNC"),
    (libc::O_APPEND.cast_unsigned(), "O_APPEND"),
    (libc::O_NONBLOCK.cast_unsigned(), "O_NONBLOCK"),
    (libc::O_SYNC.cast_unsigned(), "O_SYNC"),
    (libc::O_DSYNC.cast_unsigned(), "O_DSYNC"),
    (libc::O_ASYNC.cast_unsigned(), "O_ASYNC"),
    (libc::O_DIRECT.cast_unsigned(), "O_DIRECT"),
    (LARGEFILE, "O_LARGEFILE"),
    (libc::O_TMPFILE.cast_unsigned(), "O_TMPFILE"),
    (libc::O_DIRECTORY.cast_unsigned(), "O_DIRECTORY"),
    (libc::O_NOFOLLOW.cast_unsigned(), "O_NOFOLLOW"),
    (libc::O_NOATIME.cast_unsigned(), "O_NOATIME"),
    (libc::O_CLOEXEC.cast_unsigned(), "O_CLOEXEC"),
    (libc::O_PATH.cast_unsigned(), "O_PATH"),
];

impl OpenFlags {
    /// True when the file can be written through it.
    pub const fn writes(self) -> bool {
        let access = self.0 & libc::O_ACCMODE.cast_unsigned();
        access == libc::O_WRONLY.cast_unsigned() || access == libc::O_RDWR.cast_unsigned()
    }
}

impl fmt::Display for OpenFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = self.0 & libc::O_ACCMODE.cast_unsigned();
        // All of the access bits together are no mistake: open(2) has a use for them.
        let mut text = String::from(["O_RDONLY", "O_WRONLY", "O_RDWR", "O_ACCMODE"][access as usize & 3]);
        let mut left = self.0 & !libc::O_ACCMODE.cast_unsigned();
        for (bits, name) in NAMES {
            if left & bits == bits {
                left &= !bits;
                text.push('|');
                text.push_str(name);
            }
        }
        if left != 0 {
            write!(text, "|{left:#x}")?;
        }
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_read_as_in_the_source() {
        let shown = |flags: i32| OpenFlags(flags.cast_unsigned()).to_string();
        assert_eq!(shown(0), "O_RDONLY");
        assert_eq!(shown(libc::O_RDONLY | libc::O_CLOEXEC), "O_RDONLY|O_CLOEXEC");
        assert_eq!(shown(libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC), "O_WRONLY|O_CREAT|O_TRUNC");
        assert_eq!(shown(libc::O_RDWR | libc::O_SYNC), "O_RDWR|O_SYNC");
        assert_eq!(shown(libc::O_RDWR | libc::O_DSYNC), "O_RDWR|O_DSYNC");
        assert_eq!(shown(libc::O_RDWR | libc::O_TMPFILE), "O_RDWR|O_TMPFILE");
        assert_eq!(shown(libc::O_DIRECTORY | libc::O_PATH), "O_RDONLY|O_DIRECTORY|O_PATH");
        assert_eq!(shown(3), "O_ACCMODE");
        assert_eq!(shown(0x4000_0000), "O_RDONLY|0x40000000");
        assert_eq!(format!("{:<10}|", OpenFlags(2)), "O_RDWR    |");
        assert!(OpenFlags(1).writes() && OpenFlags(2).writes() && !OpenFlags(0).writes() && !OpenFlags(3).writes());
    }
}
