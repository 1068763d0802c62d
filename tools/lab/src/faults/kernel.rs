//! What the kernel reports in its log and nothing else shows.

use anyhow::{Result, ensure};

use crate::case::{Case, Mark, Staged};
use crate::scene::{Run, Scene, run};
use crate::stage::Device;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "damaged_directory",
        about: "a block of a directory was overwritten, and ext4 finds it damaged whenever it is read",
        needs: &["mkfs.ext4", "debugfs", "losetup"],
        stage: damaged_directory,
    },
    Case {
        name: "damaged_inodes",
        about: "the table of inodes was overwritten; a backup that walks the files meets it",
        needs: &["mkfs.ext4", "debugfs", "losetup", "tar"],
        stage: damaged_inodes,
    },
];

/// An ext4 with files in a directory, which is damaged while it is not mounted and then mounted again.
fn damaged(scene: &mut Scene, damage: impl Fn(&Device) -> Result<()>) -> Result<(Device, std::path::PathBuf)> {
    let device = scene.fast_device(64)?;
    let mount = scene.ext4(&device, "-e continue")?;
    run(&format!(
        "mkdir {0}/mail && for n in $(seq 300); do echo $n >{0}/mail/a-message-with-a-long-name-$n; done",
        mount.display()
    ))?;
    run(&format!("umount {}", mount.display()))?;
    damage(&device)?;
    // What was read of it before would still be in memory.
    run(&format!(
        "blockdev --flushbufs {0} && mount -t ext4 -o errors=continue {0} {1}",
        device.path,
        mount.display()
    ))?;
    Ok((device, mount))
}

/// The number of blocks that ext4 found damaged since the file system was made, as it keeps it itself.
fn errors(device: &Device) -> Result<f64> {
    Ok(std::fs::read_to_string(format!("/sys/fs/ext4/{}/errors_count", device.name))?.trim().parse()?)
}

fn damaged_directory(scene: &mut Scene) -> Result<Staged> {
    let (device, mount) = damaged(scene, |device| {
        let blocks = run(&format!("debugfs -R 'blocks /mail' {} 2>/dev/null", device.path))?;
        let block: u64 = blocks.split_whitespace().nth(1).unwrap_or_default().parse()?;
        ensure!(block > 0, "the directory has one block only: {blocks}");
        run(&format!("debugfs -w -R 'zap_block -p 255 {block}' {} 2>/dev/null", device.path)).map(drop)
    })?;
    let reader = format!(
        "while :; do ls {} >/dev/null 2>&1; sleep 0.5; echo 2 >/proc/sys/vm/drop_caches; done",
        mount.join("mail").display()
    );
    scene.spawn(&Run::shell(reader))?;
    let name = device.name.clone();
    Ok(Staged::fault(&["kernel_report"], [Mark::Device(name)])
        .grows("errors that ext4 counts", 2.0, move || errors(&device)))
}

fn damaged_inodes(scene: &mut Scene) -> Result<Staged> {
    let (device, mount) = damaged(scene, |device| {
        // The inodes of some of the files, behind those of the directory itself.
        let table = run(&format!("debugfs -R 'imap <200>' {} 2>/dev/null", device.path))?;
        let block: u64 = table
            .split("at block ")
            .nth(1)
            .and_then(|rest| rest.split([' ', ',']).next())
            .unwrap_or_default()
            .parse()?;
        run(&format!("debugfs -w -R 'zap_block -p 255 {block}' {} 2>/dev/null", device.path)).map(drop)
    })?;
    let backup = format!(
        "while :; do tar -cf /dev/null -C {} mail 2>/dev/null; sleep 0.5; echo 2 >/proc/sys/vm/drop_caches; done",
        mount.display()
    );
    scene.spawn(&Run::shell(backup))?;
    let name = device.name.clone();
    Ok(Staged::fault(&["kernel_report"], [Mark::Device(name)])
        .grows("errors that ext4 counts", 2.0, move || errors(&device)))
}
