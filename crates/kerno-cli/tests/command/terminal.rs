use std::fs::File;
use std::io::Read as _;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::{Command, Stdio};

use crate::support::{alone, call, kerno, own_calls, own_pid, wait};

/// Runs the command on a terminal of its own; what it shows there on standard output.
fn on_terminal(command: &mut Command) -> String {
    shown(command, |command, terminal| command.stdout(terminal).stderr(Stdio::null()))
}

/// Runs it on a terminal of its own; what it shows there.
fn shown(command: &mut Command, connect: fn(&mut Command, Stdio) -> &mut Command) -> String {
    let (mut ours, mut theirs) = (0, 0);
    // SAFETY: both descriptors are written, nothing else is asked for; nobody else owns them.
    let (ours, theirs) = unsafe {
        let (name, settings, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
        assert_eq!(libc::openpty(&raw mut ours, &raw mut theirs, name, settings, size), 0);
        (OwnedFd::from_raw_fd(ours), OwnedFd::from_raw_fd(theirs))
    };
    let mut child = connect(command, Stdio::from(theirs)).spawn().unwrap();
    // The command still holds its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let reader = std::thread::spawn(move || {
        let (mut shown, mut chunk) = (Vec::new(), [0; 4096]);
        // A terminal whose other end is closed gives EIO.
        while let Ok(bytes @ 1..) = File::from(ours.try_clone().unwrap()).read(&mut chunk) {
            shown.extend_from_slice(&chunk[..bytes]);
        }
        String::from_utf8(shown).unwrap()
    });
    while child.try_wait().unwrap().is_none() {
        call(libc::SYS_dup, -1);
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert!(wait(&mut child).success());
    reader.join().unwrap()
}

#[test]
fn colours_and_a_header_on_a_terminal_only() {
    let _alone = alone();
    let pid = own_pid();
    let args = own_calls(&pid, "dup", &["--count", "3"]);
    let shown = on_terminal(&mut kerno(&args));
    let lines: Vec<_> = shown.lines().collect();
    assert_eq!(lines.len(), 4, "{shown}");
    assert!(lines[0].contains("TIME") && lines[0].contains("EVENT"));
    for line in &lines[1..] {
        assert!(line.contains("\x1b[31mdup ") && line.contains("EBADF") && line.ends_with("\x1b[0m"), "{line:?}");
    }

    for (name, value, coloured) in [("NO_COLOR", "1", false), ("TERM", "dumb", false), ("NO_COLOR", "", true)] {
        let shown = on_terminal(kerno(&args).env(name, value));
        assert_eq!(shown.contains('\x1b'), coloured, "{name}={value}: {shown:?}");
        assert!(shown.contains("TIME") && shown.contains("EBADF"));
    }
    let shown = on_terminal(&mut kerno(&["check"]));
    assert!(shown.contains("\x1b[32myes"), "{shown:?}");
    assert!(!on_terminal(kerno(&["check"]).env("NO_COLOR", "1")).contains('\x1b'));
    // JSON is for programs, also when a person looks.
    let json = on_terminal(kerno(&args).args(["-o", "json"]));
    assert!(!json.contains('\x1b') && json.starts_with('{'), "{json:?}");
}

#[test]
fn progress_shows_on_a_terminal_only() {
    let stderr = |command: &mut Command| {
        shown(command.env("KERNO_CONFIG", "/dev/null"), |command, terminal| {
            command.stdout(Stdio::null()).stderr(terminal)
        })
    };
    let args = ["doctor", "--duration", "1s"];
    let progress = stderr(&mut kerno(&args));
    assert!(
        progress.contains("loading") && progress.contains("watching") && progress.contains("of 1s"),
        "{progress:?}"
    );
    // Both lines are empty in the end, and the cursor is where it was.
    assert!(progress.ends_with("\r\x1b[2K\r\n\x1b[2K\x1b[A"), "{progress:?}");
    assert_eq!(stderr(kerno(&args).arg("--quiet")), "");
    assert_eq!(stderr(kerno(&args).env("TERM", "dumb")), "");
}
