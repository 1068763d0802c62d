//! What the kernel writes to its log while a window lasts.

use std::time::Duration;

use kerno_bpf::kmsg::NewRecords;

use crate::support::{Child, observer, set_comm};

#[test]
fn a_message_of_the_kernel_is_in_the_window_and_what_programs_write_is_not() {
    // The kernel leaves such messages out when there are many, as other tests may make.
    let found = (0..30).any(|_| {
        let written = crash();
        std::thread::sleep(Duration::from_secs(u64::from(!written)));
        written
    });
    assert!(found, "the kernel tells of no crash");
}

/// Has a process crash, and checks what the window says of it. Whether the kernel wrote anything.
fn crash() -> bool {
    let mut child = Child::new(|_| {
        set_comm("kerno-crashes");
        // SAFETY: never mapped: the kernel ends the process for it, and says so.
        unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
    });
    let mut log = NewRecords::from_now().unwrap();
    let mut observer = observer(&["oom_track"]);
    let forged = "<3>kerno-forged[1]: segfault at 0 ip 0000000000000000 sp 0000000000000000 error 4\n";
    std::fs::write("/dev/kmsg", forged).unwrap();
    child.go();
    let status = child.wait();
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "status {status:#x}");
    let window = observer.finish().unwrap();
    let head = format!("kerno-crashes[{}]: segfault at 8", child.pid);
    let written = log.read(1000).unwrap().records.iter().any(|record| record.text.starts_with(head.as_bytes()));
    let told: Vec<_> = window.kernel_messages.iter().filter(|message| message.about.starts_with("kerno-")).collect();
    if !written {
        assert!(told.is_empty(), "{told:?}");
        return false;
    }
    let [message] = told[..] else { panic!("{:#?}", window.kernel_messages) };
    assert_eq!((message.kind.as_str(), message.about.as_str(), message.count), ("segfault", "kerno-crashes", 1));
    assert!(message.text.starts_with(&head) && message.first_ns > window.span.started_ns, "{message:?}");
    true
}
