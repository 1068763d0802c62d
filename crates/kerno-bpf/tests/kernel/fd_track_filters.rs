//! The filters of `fd_track`, each against the kernel.

use kerno_bpf::{FdTrackLoader, Filter, Loader};

use crate::cgroups::{Cgroup, v2_mount};
use crate::fd_track::{TIMES, address, call, decode};
use crate::support::{Child, Link, Run, options, pid};

#[test]
fn filters_work_in_the_kernel() {
    let work = |link: &mut Link| {
        link.close_inherited();
        link.tell(0);
        link.wait();
        assert_eq!(call(libc::SYS_prctl, &[libc::PR_SET_NAME.into(), address(c"kerno-fd-test")]), 0);
        for _ in 0..TIMES {
            let fd = call(libc::SYS_dup, &[0]);
            assert_eq!(call(libc::SYS_close, &[fd.into()]), 0);
        }
        // SAFETY: no pointers; only the test's child changes its user.
        assert_eq!(unsafe { libc::setresuid(4242, 4242, 4242) }, 0);
        for _ in 0..TIMES {
            let fd = call(libc::SYS_eventfd2, &[0, 0]);
            assert_eq!(call(libc::SYS_close, &[fd.into()]), 0);
        }
    };
    let count = |change: &dyn Fn(&mut Filter)| {
        let mut child = Child::new(work);
        child.go();
        assert_eq!(child.heard(), 0, "it is ready");
        let mut filter = pid(child.pid);
        change(&mut filter);
        let run = Run::start(FdTrackLoader::new(options(filter)));
        child.run();
        decode(run).len()
    };
    // Standard files and the two ends of the link to the parent.
    let at_exit = 5;
    let all = 4 * TIMES + at_exit;
    assert_eq!(count(&|_| {}), all);
    assert_eq!(count(&|filter| filter.pids = vec![1]), 0);
    assert_eq!(count(&|filter| filter.comms = vec!["kerno-fd-test".into()]), all);
    assert_eq!(count(&|filter| filter.comms = vec!["kerno-fd-tes".into()]), 0);
    assert_eq!(count(&|filter| filter.uids = vec![4242]), 2 * TIMES + at_exit);
    assert_eq!(count(&|filter| filter.uids = vec![0]), 2 * TIMES);
    assert_eq!(count(&|filter| filter.cgroups = vec!["/".into()]), all);
    assert_eq!(count(&|filter| filter.syscalls = vec!["dup".into()]), TIMES);
    assert_eq!(count(&|filter| filter.syscalls = vec!["dup".into(), "close".into()]), 3 * TIMES);
    assert_eq!(count(&|filter| filter.syscalls = vec!["exit_group".into()]), at_exit);
    assert_eq!(count(&|filter| filter.syscalls = vec!["read".into()]), 0);
    let nonsense = Filter { syscalls: vec!["nonsense".into()], ..Filter::default() };
    let error = FdTrackLoader::new(options(nonsense)).load().unwrap_err();
    assert!(error.reason().contains("no such system call"), "{error}");
}

#[test]
fn a_cgroup_filter_takes_in_what_is_created_below_it_later() {
    let above = Cgroup::new(&v2_mount(), "fd");
    let filter = Filter { cgroups: vec![above.path.clone()], ..Filter::default() };
    let work = |_: &mut Link| {
        for _ in 0..TIMES {
            assert!(call(libc::SYS_dup, &[0]) > 0);
        }
    };
    let (mut inside, mut outside) = (Child::new(work), Child::new(work));
    let run = Run::start(FdTrackLoader::new(options(filter)));
    let below = Cgroup::new(&above.path, "later");
    below.add(inside.pid);
    inside.run();
    outside.run();
    let events = decode(run);
    assert!(events.iter().all(|event| event.pid == inside.pid && event.cgroup_id == below.id()));
    assert_eq!(events.iter().filter(|event| event.call() == Some("dup")).count(), TIMES);
}

#[test]
fn this_process_is_left_out_unless_asked_for() {
    for exclude_self in [true, false] {
        let filter = Filter { syscalls: vec!["epoll_create1".into()], ..pid(std::process::id()) };
        let options = kerno_bpf::Options { filter, exclude_self, ..kerno_bpf::Options::default() };
        let run = Run::start(FdTrackLoader::new(options));
        let fd = call(libc::SYS_epoll_create1, &[0]);
        let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        let mine: Vec<_> = decode(run).into_iter().filter(|event| event.tid == tid && event.fd == fd).collect();
        // SAFETY: our own, just made.
        unsafe { libc::close(fd) };
        assert_eq!(mine.is_empty(), exclude_self);
    }
}

beside_all! {
    filters_work_in_the_kernel
    this_process_is_left_out_unless_asked_for
}
