//! What is unsafe on a machine in use. The tests are in `crates/kerno-cli/tests/vm/hard`.

use super::case::Case;

// The tests take the second disk for vdb: its address is behind that of the first.
pub(super) const HARD: &[Case] = &[
    Case::new("hard::memory", &["5.10", "6.18"]).memory_mib(512),
    Case::new("hard::disk_errors", &["6.18"]).qemu(&[
        "-blockdev",
        // Sector 2048, once for each read of it.
        "driver=blkdebug,node-name=bad,image.driver=file,image.filename={disk},\
         inject-error.0.event=none,inject-error.0.sector=2048,inject-error.0.errno=5",
        "-device",
        "virtio-blk-pci,addr=0x10,drive=bad,werror=report,rerror=report",
    ]),
    Case::new("hard::slow_disk", &["6.18"]).qemu(&[
        "-object",
        "throttle-group,id=slow,x-iops-total=5",
        "-blockdev",
        "driver=throttle,node-name=limited,throttle-group=slow,file.driver=file,file.filename={disk}",
        "-device",
        "virtio-blk-pci,addr=0x10,drive=limited",
    ]),
    Case::new("hard::lost_disk", &["6.18"]).qemu(&[
        "-object",
        "throttle-group,id=slow,x-iops-total=20",
        "-blockdev",
        "driver=throttle,node-name=limited,throttle-group=slow,file.driver=file,file.filename={disk}",
        "-device",
        "virtio-blk-pci,addr=0x10,drive=limited",
    ]),
    Case::new("hard::device_mapper", &["6.18"]),
    Case::new("hard::network", &["6.18"]),
    Case::new("hard::clock", &["6.18"]),
    Case::new("hard::stopped", &["6.18"]),
    Case::new("hard::storm", &["6.18"]),
];
