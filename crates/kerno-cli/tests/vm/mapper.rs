//! Devices of the device mapper, over its control device: the machine has no dmsetup.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

// linux/dm-ioctl.h
const HEADER_BYTES: usize = 312;
const SPEC_BYTES: usize = 40;
const DEV_CREATE: u8 = 3;
const DEV_REMOVE: u8 = 4;
const DEV_SUSPEND: u8 = 6;
const TABLE_LOAD: u8 = 9;

/// One part of a device: so many sectors, of which kind, with what arguments.
pub struct Target<'a> {
    pub sectors: u64,
    pub kind: &'a str,
    pub arguments: &'a str,
}

/// A device that is gone with this.
pub struct Mapped {
    control: File,
    name: String,
    minor: u64,
}

impl Mapped {
    pub fn new(name: &str, targets: &[Target<'_>]) -> Self {
        let control = File::options().read(true).write(true).open("/dev/mapper/control").unwrap();
        let mut device = Self { control, name: name.to_owned(), minor: 0 };
        let answer = device.ask(DEV_CREATE, 0, &[]).unwrap();
        // struct dm_ioctl: the number of the device stands behind ten words, as the kernel passes such numbers.
        let number = u64::from_ne_bytes(answer[40..48].try_into().unwrap());
        device.minor = number & 0xff | number >> 12 & 0xf_ff00;
        let mut table = Vec::new();
        let mut first = 0u64;
        for target in targets {
            let length = (SPEC_BYTES + target.arguments.len() + 1).next_multiple_of(8);
            let end = table.len() + length;
            // struct dm_target_spec: first sector, sectors, status, where the next one is, kind
            table.extend([first, target.sectors].iter().flat_map(|word| word.to_ne_bytes()));
            table.extend([0, u32::try_from(length).unwrap()].iter().flat_map(|word| word.to_ne_bytes()));
            let mut kind = target.kind.as_bytes().to_vec();
            kind.resize(16, 0);
            table.extend(kind);
            table.extend(target.arguments.as_bytes());
            table.resize(end, 0);
            first += target.sectors;
        }
        device.ask(TABLE_LOAD, u32::try_from(targets.len()).unwrap(), &table).unwrap();
        // Without the flag that suspends, it takes the table into use.
        device.ask(DEV_SUSPEND, 0, &[]).unwrap();
        device
    }

    pub fn path(&self) -> String {
        format!("/dev/dm-{}", self.minor)
    }

    fn ask(&self, command: u8, targets: u32, table: &[u8]) -> io::Result<Vec<u8>> {
        let size = u32::try_from(HEADER_BYTES + table.len()).unwrap();
        // Version, size, where the data begins, targets; the rest is 0 but for the name.
        let words = [4, 0, 0, size, u32::try_from(HEADER_BYTES).unwrap(), targets];
        let mut request: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        request.resize(48, 0);
        request.extend(self.name.as_bytes());
        request.resize(HEADER_BYTES, 0);
        request.extend(table);
        let number = 3 << 30 | (HEADER_BYTES as u64) << 16 | 0xfd << 8 | u64::from(command);
        // SAFETY: the request says its own size, and is aligned as the allocator aligns what is that large.
        let result = unsafe { libc::ioctl(self.control.as_raw_fd(), number, request.as_mut_ptr()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // A device is busy for as long as someone looks at it who was told that it is there.
        for _ in 0..100 {
            if self.ask(DEV_REMOVE, 0, &[]).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        eprintln!("{} stays", self.name);
    }
}
