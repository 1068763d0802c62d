use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use kerno_bpf::{FileAuditLoader, FileEvent};
use kerno_bpf::{OpenVia, PathKind};

use super::{assert_all_resolved, audit, c, close, creat, fd, folder, open, openat, openat2, raw};
use crate::support::{Child, compare, monotonic_ns, observe, options, pid};

const OPENS: usize = 1009;

#[test]
fn a_prime_number_of_opens_of_every_kind_is_found_with_every_field_right() {
    let (_guard, dir) = folder();
    let file = dir.join("some file");
    std::fs::write(&file, "x").unwrap();
    let before = monotonic_ns();
    let (events, seen) = audit(|log, _| {
        for i in 0..OPENS {
            close(log.note(match i % 4 {
                0 => open(&file, libc::O_RDONLY),
                1 => openat(libc::AT_FDCWD, &file, libc::O_RDWR | libc::O_APPEND | libc::O_CLOEXEC),
                2 => openat2(libc::AT_FDCWD, &file, libc::O_WRONLY | libc::O_CREAT, 0o604, 0),
                _ => creat(&file, 0o644),
            }));
        }
    });
    let after = monotonic_ns();
    compare("file_audit", "opens, events", events.len(), OPENS, "the caller");
    assert_all_resolved(&events, &seen);
    let mut last = before;
    for (i, event) in events.iter().enumerate() {
        let (name, flags, mode) = match i % 4 {
            0 => ("open", libc::O_RDONLY, 0),
            1 => ("openat", libc::O_RDWR | libc::O_APPEND | libc::O_CLOEXEC, 0),
            2 => ("openat2", libc::O_WRONLY | libc::O_CREAT, 0o604),
            _ => ("creat", libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC, 0o644),
        };
        assert_eq!((event.syscall_name(), event.flags, event.mode), (Some(name), flags.cast_unsigned(), mode));
        assert_eq!(event.path(), file);
        assert_eq!((event.uid, event.tid, event.compat, event.via), (0, event.pid, false, OpenVia::Syscall));
        assert_eq!((event.fd(), event.errno()), (Some(event.ret), None));
        assert_eq!(event.cgroup_id, events[0].cgroup_id);
        assert!(event.timestamp_ns >= last && event.timestamp_ns <= after);
        last = event.timestamp_ns;
    }
    assert_eq!(events[0].comm(), std::fs::read_to_string("/proc/thread-self/comm").unwrap().trim_end());
}

#[test]
fn a_handle_opens_the_file_it_stands_for() {
    #[repr(C)]
    struct Handle {
        bytes: u32,
        kind: i32,
        data: [u8; 128],
    }
    let by_handle = |mount: i64, handle: &mut Handle, flags: i32| {
        // SAFETY: the handle lives through the call.
        raw(unsafe { libc::syscall(libc::SYS_open_by_handle_at, mount, std::ptr::from_mut(handle), flags) })
    };
    // Not every file system has handles: tmpfs has, whatever lies below the temporary folder.
    let (_guard, dir) = folder();
    let (events, seen) = audit(|log, _| {
        super::mounts::private_namespace();
        super::mounts::mount("none", &dir, "tmpfs", 0);
        std::fs::create_dir(dir.join("sub")).unwrap();
        let file = log.note(open(dir.join("sub/file"), libc::O_CREAT | libc::O_RDWR));
        let mount = log.note(open(&dir, libc::O_RDONLY | libc::O_DIRECTORY));
        let mut handle = Handle { bytes: 128, kind: 0, data: [0; 128] };
        let (empty, mut mount_id) = (c(""), 0i32);
        // SAFETY: the handle has room for the 128 bytes it announces; the rest lives through the calls.
        unsafe {
            let made = libc::syscall(
                libc::SYS_name_to_handle_at,
                file,
                empty.as_ptr(),
                &raw mut handle,
                &raw mut mount_id,
                libc::AT_EMPTY_PATH,
            );
            assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
            log.note(by_handle(mount, &mut handle, libc::O_WRONLY | libc::O_APPEND));
            handle.data.fill(0xff);
            assert_eq!(log.note(by_handle(mount, &mut handle, libc::O_RDONLY)), -i64::from(libc::ESTALE));
        }
    });
    assert_all_resolved(&events[..3], &seen[..3]);
    assert_eq!(events[2].path(), dir.join("sub/file"));
    assert_eq!(events[2].syscall_name(), Some("open_by_handle_at"));
    assert_eq!(events[2].flags, (libc::O_WRONLY | libc::O_APPEND).cast_unsigned());
    assert_eq!((events[3].errno(), events[3].path_kind), (Some(libc::ESTALE), PathKind::Unknown));
    assert_eq!(events.len(), 4);
}

#[test]
fn a_thread_is_named_by_its_own_ids_and_name() {
    let mut child = Child::new(|link| {
        let tid = std::thread::Builder::new()
            .name("audit-thread".into())
            .spawn(|| {
                close(open("/etc/passwd", libc::O_RDONLY));
                // SAFETY: no arguments.
                unsafe { libc::gettid() }
            })
            .unwrap()
            .join()
            .unwrap();
        link.tell(u64::from(tid.cast_unsigned()));
    });
    let events: Vec<FileEvent> = observe(FileAuditLoader::new(options(pid(child.pid))), || child.run());
    let events: Vec<_> = events.iter().filter(|event| event.path() == Path::new("/etc/passwd")).collect();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].pid, u64::from(events[0].tid)), (child.pid, child.heard()));
    assert_eq!(events[0].comm(), "audit-thread");
}

/// A call through the 32-bit table, as a 32-bit program makes it.
#[cfg(target_arch = "x86_64")]
fn int80(nr: u32, args: [u32; 4]) -> i64 {
    let result: u64;
    // SAFETY: rbx, which the compiler keeps for itself, is put back; the kernel changes nothing else but the result.
    unsafe {
        std::arch::asm!(
            "xchg {b:r}, rbx",
            "int 0x80",
            "xchg {b:r}, rbx",
            b = inout(reg) u64::from(args[0]) => _,
            inlateout("rax") u64::from(nr) => result,
            in("rcx") u64::from(args[1]),
            in("rdx") u64::from(args[2]),
            in("rsi") u64::from(args[3]),
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    #[allow(clippy::cast_possible_truncation, reason = "32-bit calls return 32 bits")]
    i64::from(result as i32)
}

#[test]
#[cfg(target_arch = "x86_64")]
fn calls_of_32_bit_programs_are_read_from_their_own_table_and_registers() {
    const MODE: u32 = 0o640;
    let (_guard, dir) = folder();
    let file = dir.join("from 32 bits");
    std::fs::write(&file, "").unwrap();
    let (events, seen) = audit(|log, _| {
        // SAFETY: a fresh page in the low 4 GiB, where 32-bit pointers reach; strings and structs are written inside it.
        let low = unsafe {
            let page = libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
                -1,
                0,
            );
            assert_ne!(page, libc::MAP_FAILED);
            let name = c(&file);
            std::ptr::copy_nonoverlapping(name.as_ptr(), page.cast(), name.as_bytes_with_nul().len());
            let how = super::OpenHow {
                flags: u64::from((libc::O_RDWR | libc::O_CREAT).cast_unsigned()),
                mode: 0o600,
                resolve: 0,
            };
            std::ptr::write(page.byte_add(2048).cast(), how);
            std::ptr::copy_nonoverlapping(c"no/such".as_ptr(), page.byte_add(3072).cast(), 8);
            u32::try_from(page as usize).unwrap()
        };
        let flags = (libc::O_WRONLY | libc::O_CREAT).cast_unsigned();
        let at_cwd = libc::AT_FDCWD.cast_unsigned();
        log.note(int80(5, [low, flags, MODE, 0]));
        log.note(int80(8, [low, MODE, 0, 0]));
        log.note(int80(295, [at_cwd, low, flags, MODE]));
        log.note(int80(437, [at_cwd, low, low + 2048, 24]));
        log.note(int80(295, [at_cwd, low + 3072, 0, 0]));
        // Native calls with the numbers of these, and 32-bit calls with the numbers of native opens, open nothing.
        // SAFETY: fstat and lseek of a descriptor that is not there.
        unsafe {
            libc::syscall(5, -1, 0);
            libc::syscall(8, -1, 0, 0);
        }
        int80(85, [0, 0, 0, 0]); // readlink of no string
        int80(257, [0, 0, 0, 0]); // remap_file_pages of nothing
    });
    assert_eq!(events.len(), 5);
    assert_all_resolved(&events[..4], &seen[..4]);
    let calls: Vec<_> =
        events.iter().map(|e| (e.syscall_name().unwrap(), e.open_flags().to_string(), e.mode, e.compat)).collect();
    let expected = [
        ("open", "O_WRONLY|O_CREAT", MODE),
        ("creat", "O_WRONLY|O_CREAT|O_TRUNC", MODE),
        ("openat", "O_WRONLY|O_CREAT", MODE),
        ("openat2", "O_RDWR|O_CREAT", 0o600),
        ("openat", "O_RDONLY", 0),
    ];
    assert_eq!(calls, expected.map(|(name, flags, mode)| (name, flags.to_owned(), mode, true)));
    assert_eq!(events[4].errno(), Some(libc::ENOENT));
    assert_eq!(events[4].path(), std::env::current_dir().unwrap().join("no/such"));
}

/// The caller's string says one thing before the call and another after it; what is reported is what was opened.
#[test]
fn a_path_that_changes_during_the_call_is_reported_as_opened() {
    const OPENS: usize = 10_007;
    let (_guard, dir) = folder();
    let (a, b) = (dir.join("aaaa"), dir.join("bbbb"));
    std::fs::write(&a, "").unwrap();
    std::fs::write(&b, "").unwrap();
    let (events, seen) = audit(|log, _| {
        let name = c(&a).into_bytes_with_nul();
        let at = name.len() - 5;
        let shared = name.as_ptr() as usize;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut byte = b'a';
                while !stop.load(Ordering::Relaxed) {
                    byte = if byte == b'a' { b'b' } else { b'a' };
                    for i in 0..4 {
                        // SAFETY: inside the string, which outlives the scope; the kernel is the only other reader.
                        unsafe { std::ptr::write_volatile((shared + at + i) as *mut u8, byte) };
                    }
                }
            });
            for i in 0..OPENS {
                // On a busy machine both share a CPU: let the other write now and then.
                if i.is_multiple_of(8) {
                    std::thread::yield_now();
                }
                // SAFETY: a NUL-terminated string all the while.
                let ret = raw(unsafe { libc::syscall(libc::SYS_open, shared, libc::O_RDONLY) });
                log.note(ret);
                if ret >= 0 {
                    close(ret);
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
    assert_eq!(events.len(), OPENS);
    let mut opened = [0; 2];
    for (event, seen) in events.iter().zip(&seen) {
        assert_eq!(event.ret, seen.ret);
        if event.ret >= 0 {
            assert_eq!(event.path(), seen.link);
            opened[usize::from(seen.link == b)] += 1;
        }
    }
    assert!(opened[0] > 100 && opened[1] > 100, "the thread did not get between: {opened:?}");
}

/// The flags of openat2 lie in memory too.
#[test]
fn an_access_mode_that_changes_during_the_call_is_reported_as_granted() {
    let (_guard, dir) = folder();
    let file = dir.join("file");
    std::fs::write(&file, "").unwrap();
    let (events, granted) = audit(|log, _| {
        let name = c(&file);
        let mut how = super::OpenHow { flags: 0, mode: 0, resolve: 0 };
        let shared = &raw mut how as usize;
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut flags = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    flags = (flags + 1) % 3;
                    // SAFETY: inside `how`, which outlives the scope.
                    unsafe { std::ptr::write_volatile(shared as *mut u64, flags) };
                }
            });
            for i in 0..5003 {
                if i % 8 == 0 {
                    std::thread::yield_now();
                }
                // SAFETY: name and how live through the call.
                let ret = raw(unsafe { libc::syscall(libc::SYS_openat2, libc::AT_FDCWD, name.as_ptr(), shared, 24) });
                // SAFETY: asks for the flags of a descriptor.
                let granted = unsafe { libc::fcntl(fd(ret), libc::F_GETFL) } & libc::O_ACCMODE;
                log.note_as(i64::from(granted), Path::new(""));
                close(ret);
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
    assert_eq!(events.len(), 5003);
    for (event, granted) in events.iter().zip(&granted) {
        assert_eq!(event.flags.cast_signed(), granted.ret);
    }
    assert!(events.iter().any(|event| event.flags != events[0].flags), "the thread did not get between");
}

beside_all! {
    a_prime_number_of_opens_of_every_kind_is_found_with_every_field_right
    calls_of_32_bit_programs_are_read_from_their_own_table_and_registers
    an_access_mode_that_changes_during_the_call_is_reported_as_granted
}
