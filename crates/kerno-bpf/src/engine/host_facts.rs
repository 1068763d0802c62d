//! Describes the machine: hardware, system, virtualisation, container.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::resolver::{Late, Question, Resolver};
use crate::probe::{Host, clock, meminfo};
use kerno_model::{HostFacts, fill};

/// What is known of the machine. Some of it changes while it runs.
#[derive(Debug)]
pub(super) struct Machine {
    facts: HostFacts,
    /// When what seldom changes was last read.
    read: Option<Instant>,
}

/// How often what seldom changes is read again.
const READ_AGAIN: Duration = Duration::from_secs(3600);

impl Machine {
    pub(super) fn new(host: &Host, resolver: &Resolver) -> Self {
        let facts = fill!(HostFacts {
            boot_id: text("/proc/sys/kernel/random/boot_id").trim().to_owned(),
            kernel: host.release.clone(),
            machine: host.machine.clone(),
        });
        let mut machine = Self { facts, read: None };
        // The end of the first window asks again for what is late now.
        let _ = machine.refresh(resolver);
        machine
    }

    /// Reads again what can change.
    pub(super) fn refresh(&mut self, resolver: &Resolver) -> Result<(), Late> {
        let facts = &mut self.facts;
        facts.hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        if let Some(cpus) = cpus_online(&text("/sys/devices/system/cpu/online")) {
            facts.cpus = cpus;
        }
        if let Some(bytes) = meminfo::bytes_of(&meminfo::read(), "MemTotal") {
            facts.memory_bytes = bytes;
        }
        facts.uptime_seconds = uptime_seconds();
        if self.read.is_none_or(|read| read.elapsed() >= READ_AGAIN) {
            let Surroundings { os, virtualization, cloud, container, kubernetes } =
                resolver.ask(Question::Machine, Surroundings::read)?;
            *facts = fill!(HostFacts { os, virtualization, cloud, container, kubernetes, ..std::mem::take(facts) });
            self.read = Some(Instant::now());
        }
        Ok(())
    }

    pub(super) const fn facts(&self) -> &HostFacts {
        &self.facts
    }
}

/// What the machine is part of. What cannot be read is left empty.
#[derive(Debug)]
struct Surroundings {
    os: String,
    virtualization: Option<String>,
    cloud: Option<String>,
    container: Option<String>,
    kubernetes: bool,
}

impl Surroundings {
    fn read() -> Self {
        let firmware = Firmware::read(Path::new("/sys/class/dmi/id"));
        Self {
            os: os(),
            virtualization: virtualization(&firmware),
            cloud: cloud(&firmware),
            container: container(),
            kubernetes: kubernetes(),
        }
    }
}

/// Of the machine: `/proc/uptime` is that of the time namespace.
fn uptime_seconds() -> f64 {
    Duration::from_nanos(clock::boottime_ns()).as_secs_f64()
}

/// A file's text; empty when it cannot be read.
fn text(path: impl AsRef<Path>) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn os() -> String {
    ["/etc/os-release", "/usr/lib/os-release"].iter().find_map(|path| pretty_name(&text(path))).unwrap_or_default()
}

/// `PRETTY_NAME` of os-release(5).
fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?.trim();
    let quoted = |quote| value.strip_prefix(quote).and_then(|rest: &str| rest.strip_suffix(quote));
    let name = quoted('"').or_else(|| quoted('\'')).unwrap_or(value).replace("\\\"", "\"").replace("\\$", "$");
    (!name.is_empty()).then_some(name)
}

/// How many CPUs a list such as `0-3,8` names.
fn cpus_online(list: &str) -> Option<u32> {
    let count = |part: &str| match part.split_once('-') {
        Some((first, last)) => Some(last.parse::<u32>().ok()?.checked_sub(first.parse().ok()?)?.saturating_add(1)),
        None => part.parse::<u32>().ok().map(|_| 1),
    };
    list.trim().split(',').map(count).try_fold(0_u32, |sum, part| Some(sum.saturating_add(part?)))
}

/// What the firmware says about the machine (DMI, SMBIOS). Only root may read some of the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Firmware {
    sys_vendor: String,
    product_name: String,
    chassis_asset_tag: String,
    bios_vendor: String,
    bios_version: String,
    board_vendor: String,
}

impl Firmware {
    fn read(directory: &Path) -> Self {
        let field = |name: &str| text(directory.join(name)).trim().to_owned();
        Self {
            sys_vendor: field("sys_vendor"),
            product_name: field("product_name"),
            chassis_asset_tag: field("chassis_asset_tag"),
            bios_vendor: field("bios_vendor"),
            bios_version: field("bios_version"),
            board_vendor: field("board_vendor"),
        }
    }
}

/// The hypervisor: first as CPUID names it, then as the firmware does.
fn virtualization(firmware: &Firmware) -> Option<String> {
    let xen = text("/sys/hypervisor/type").trim() == "xen";
    let flagged = has_hypervisor_flag(&text("/proc/cpuinfo"));
    let by_cpu = if flagged { hypervisor_of_cpu() } else { None };
    if xen {
        return Some("xen".into());
    }
    let by_firmware = hypervisor_of_firmware(firmware).or_else(|| hypervisor_of_device_tree(Path::new(DEVICE_TREE)));
    // Several products use KVM: the firmware may say which.
    let name = match (by_cpu, by_firmware) {
        (Some("kvm") | None, Some(name)) => Some(name),
        (Some(name), _) => Some(name),
        (None, None) => None,
    };
    if name.is_none_or(|name| name == "kvm")
        && is_firecracker(&fs::read("/sys/firmware/acpi/tables/DSDT").unwrap_or_default())
    {
        return Some("firecracker".into());
    }
    name.or_else(|| flagged.then_some("unknown")).map(str::to_owned)
}

/// The flag that CPUs show to guests (x86).
fn has_hypervisor_flag(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
    flags.is_some_and(|line| line.split_whitespace().any(|flag| flag == "hypervisor"))
}

/// The signature in CPUID leaf 0x40000000, which exists if the flag is set.
#[cfg(target_arch = "x86_64")]
fn hypervisor_of_cpu() -> Option<&'static str> {
    #[allow(unused_unsafe, reason = "safe since Rust 1.94")]
    // SAFETY: every x86-64 CPU has the instruction; a leaf that is not there gives meaningless numbers.
    let leaf = unsafe { std::arch::x86_64::__cpuid(0x4000_0000) };
    let signature: Vec<u8> = [leaf.ebx, leaf.ecx, leaf.edx].into_iter().flat_map(u32::to_le_bytes).collect();
    hypervisor_of_signature(&signature)
}

#[cfg(not(target_arch = "x86_64"))]
const fn hypervisor_of_cpu() -> Option<&'static str> {
    None
}

#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "x86 only"))]
fn hypervisor_of_signature(signature: &[u8]) -> Option<&'static str> {
    const SIGNATURES: &[(&[u8], &str)] = &[
        (b"KVMKVMKVM", "kvm"),
        (b"Linux KVM Hv", "kvm"),
        (b"TCGTCGTCGTCG", "qemu"),
        (b"VMwareVMware", "vmware"),
        (b"XenVMMXenVMM", "xen"),
        (b"Microsoft Hv", "hyper-v"),
        (b"VBoxVBoxVBox", "virtualbox"),
        (b"prl hyperv", "parallels"),
        (b" lrpepyh vr", "parallels"),
        (b"bhyve bhyve ", "bhyve"),
        (b"ACRNACRNACRN", "acrn"),
        (b"QNXQVMBSQG", "qnx"),
        (b"SRESRESRESRE", "lockheed"),
    ];
    SIGNATURES.iter().find(|(known, _)| signature.starts_with(known)).map(|(_, name)| *name)
}

fn hypervisor_of_firmware(firmware: &Firmware) -> Option<&'static str> {
    const MARKS: &[(&str, &str)] = &[
        ("VMware", "vmware"),
        ("VMW", "vmware"),
        ("innotek GmbH", "virtualbox"),
        ("VirtualBox", "virtualbox"),
        ("Xen", "xen"),
        ("Parallels", "parallels"),
        ("BHYVE", "bhyve"),
        ("Apple Virtualization", "apple"),
        ("Google Compute Engine", "kvm"),
        ("OpenStack", "kvm"),
        ("KubeVirt", "kvm"),
        ("KVM", "kvm"),
        ("QEMU", "kvm"),
    ];
    // Microsoft and Amazon make physical machines, too.
    if firmware.sys_vendor.starts_with("Microsoft") && firmware.product_name == "Virtual Machine" {
        return Some("hyper-v");
    }
    if firmware.sys_vendor == "Amazon EC2" && !firmware.product_name.ends_with(".metal") {
        return Some("kvm");
    }
    let fields = [&firmware.product_name, &firmware.sys_vendor, &firmware.board_vendor, &firmware.bios_vendor];
    MARKS.iter().find(|(mark, _)| fields.iter().any(|field| field.starts_with(mark))).map(|(_, name)| *name)
}

/// What the firmware hands over of the machine where there is no SMBIOS, as on many arm64 machines.
const DEVICE_TREE: &str = "/proc/device-tree";

/// As systemd-detect-virt does: the node that hypervisors add, or what QEMU's machine `virt` is called and has.
fn hypervisor_of_device_tree(tree: &Path) -> Option<&'static str> {
    let read = |file: &str| fs::read(tree.join(file)).unwrap_or_default();
    let is_there = |names: &[u8], wanted: &str| names.split(|byte| *byte == 0).any(|name| name == wanted.as_bytes());
    let hypervisor = read("hypervisor/compatible");
    for (mark, name) in [("linux,kvm", "kvm"), ("xen,xen", "xen"), ("vmware", "vmware")] {
        if is_there(&hypervisor, mark) || hypervisor.starts_with(mark.as_bytes()) {
            return Some(name);
        }
    }
    let compatible = read("compatible");
    let has_fw_cfg = || {
        let nodes = fs::read_dir(tree).into_iter().flatten().flatten();
        nodes.take(1024).any(|node| node.file_name().to_string_lossy().starts_with("fw-cfg"))
    };
    if is_there(&compatible, "qemu,pseries") || is_there(&compatible, "linux,dummy-virt") && has_fw_cfg() {
        return Some("qemu");
    }
    is_there(&compatible, "linux,dummy-virt").then_some("kvm")
}

/// Firecracker has no SMBIOS; its ACPI tables name it. Only root may read them.
fn is_firecracker(dsdt: &[u8]) -> bool {
    // The OEM id of a table's header (ACPI 5.2.6).
    dsdt.get(10..16).is_some_and(|oem| oem.starts_with(b"FIRECK"))
}

fn cloud(firmware: &Firmware) -> Option<String> {
    /// The asset tag that Microsoft gives to machines of Azure, but not to others on Hyper-V.
    const AZURE: &str = "7783-7084-3265-9085-8269-3286-77";
    const VENDORS: &[(&str, &str)] = &[
        ("Amazon EC2", "Amazon EC2"),
        ("Google", "Google Cloud"),
        ("DigitalOcean", "DigitalOcean"),
        ("Hetzner", "Hetzner"),
        ("Alibaba Cloud", "Alibaba Cloud"),
        ("Tencent Cloud", "Tencent Cloud"),
        ("Huawei Cloud", "Huawei Cloud"),
        ("Scaleway", "Scaleway"),
        ("Vultr", "Vultr"),
        ("Linode", "Linode"),
        ("Akamai", "Linode"),
        ("UpCloud", "UpCloud"),
        ("OVH", "OVHcloud"),
        ("Exoscale", "Exoscale"),
        ("CloudStack", "CloudStack"),
        ("Apache Software Foundation", "CloudStack"),
        ("OpenStack Foundation", "OpenStack"),
        ("Nutanix", "Nutanix"),
        ("IBM Cloud", "IBM Cloud"),
    ];
    if firmware.chassis_asset_tag == AZURE {
        return Some("Microsoft Azure".into());
    }
    if firmware.chassis_asset_tag == "OracleCloud.com" {
        return Some("Oracle Cloud".into());
    }
    // Xen instances say so only in the version.
    if firmware.bios_version.to_ascii_lowercase().contains("amazon") {
        return Some("Amazon EC2".into());
    }
    let fields = [&firmware.sys_vendor, &firmware.bios_vendor, &firmware.product_name];
    // Laptops by Google have the same vendor.
    let matches = |mark: &str, field: &str| {
        field.starts_with(mark) && (mark != "Google" || firmware.product_name == "Google Compute Engine")
    };
    let found = VENDORS.iter().find(|(mark, _)| fields.iter().any(|field| matches(mark, field)));
    found
        .map(|(_, name)| (*name).to_owned())
        .or_else(|| firmware.product_name.starts_with("OpenStack").then(|| "OpenStack".to_owned()))
}

/// The kind of container that this process runs in.
fn container() -> Option<String> {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Some("kubernetes".into());
    }
    if Path::new("/run/.containerenv").exists() {
        return Some("podman".into());
    }
    if Path::new("/.dockerenv").exists() {
        return Some("docker".into());
    }
    // Engines tell it to process 1; systemd repeats it where everyone can read it.
    let own = std::env::var("container").ok();
    let first = container_of_environ(&fs::read("/proc/1/environ").unwrap_or_default());
    let told = Some(text("/run/systemd/container").trim().to_owned()).filter(|name| !name.is_empty());
    own.or(first).or(told).filter(|name| !name.is_empty())
}

/// `container=` in a process's environment (systemd's container interface).
fn container_of_environ(environ: &[u8]) -> Option<String> {
    let value = environ.split(|byte| *byte == 0).find_map(|variable| variable.strip_prefix(b"container="))?;
    Some(String::from_utf8_lossy(value).into_owned()).filter(|name| !name.is_empty())
}

/// Whether this is a Kubernetes node: has cgroups of pods, which are near the root of a hierarchy, or runs the agent.
fn kubernetes() -> bool {
    let names = |directory: &Path| -> Vec<String> {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
    };
    let roots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/memory"];
    let cgroups = roots.iter().flat_map(|root| names(Path::new(root)));
    cgroups.into_iter().any(|name| is_kubernetes_cgroup(&name))
        || names(Path::new("/proc"))
            .iter()
            .filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
            .any(|pid| is_kubernetes_agent(text(format!("/proc/{pid}/comm")).trim()))
}

fn is_kubernetes_cgroup(name: &str) -> bool {
    name == "kubepods" || name == "kubepods.slice" || name == "kubelet.slice" || name == "kubelet"
}

/// The agent, or a program with the agent built in.
fn is_kubernetes_agent(comm: &str) -> bool {
    matches!(comm, "kubelet" | "k3s-server" | "k3s-agent" | "k0s" | "kubelite")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_tree_tells_of_a_virtual_machine() {
        let tree = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = folder.path().join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            hypervisor_of_device_tree(folder.path())
        };
        assert_eq!(
            tree(&[("compatible", "linux,dummy-virt\0"), ("fw-cfg@9020000/compatible", "qemu\0")]),
            Some("qemu")
        );
        assert_eq!(tree(&[("compatible", "linux,dummy-virt\0")]), Some("kvm"));
        assert_eq!(tree(&[("compatible", "x\0"), ("hypervisor/compatible", "xen,xen-4.17\0xen,xen\0")]), Some("xen"));
        assert_eq!(tree(&[("compatible", "raspberrypi,4-model-b\0brcm,bcm2711\0")]), None);
        assert_eq!(tree(&[]), None);
    }

    fn firmware(vendor: &str, product: &str) -> Firmware {
        Firmware { sys_vendor: vendor.into(), product_name: product.into(), ..Firmware::default() }
    }

    #[test]
    fn os_release_is_read() {
        assert_eq!(
            pretty_name("NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\n").unwrap(),
            "Debian GNU/Linux 12 (bookworm)"
        );
        assert_eq!(pretty_name("PRETTY_NAME='Alpine Linux'").unwrap(), "Alpine Linux");
        assert_eq!(pretty_name("PRETTY_NAME=Arch").unwrap(), "Arch");
        assert_eq!(pretty_name("NAME=x"), None);
        assert_eq!(pretty_name("PRETTY_NAME=\"\""), None);
    }

    #[test]
    fn cpu_lists_are_counted() {
        for (list, count) in [("0\n", Some(1)), ("0-1\n", Some(2)), ("0-3,8,10-11", Some(7)), ("", None), ("3-1", None)]
        {
            assert_eq!(cpus_online(list), count, "{list}");
        }
    }

    #[test]
    fn hypervisors_are_told_apart() {
        assert!(has_hypervisor_flag("processor : 0\nflags\t\t: fpu hypervisor lm\n"));
        assert!(!has_hypervisor_flag("flags\t\t: fpu lm\nmodel name: hypervisor\n"));
        assert_eq!(hypervisor_of_signature(b"KVMKVMKVM\0\0\0"), Some("kvm"));
        assert_eq!(hypervisor_of_signature(b"Microsoft Hv"), Some("hyper-v"));
        assert_eq!(hypervisor_of_signature(b"GenuineIntel"), None);
        let cases = [
            ("QEMU", "Standard PC (Q35 + ICH9, 2009)", Some("kvm")),
            ("VMware, Inc.", "VMware Virtual Platform", Some("vmware")),
            ("innotek GmbH", "VirtualBox", Some("virtualbox")),
            ("Xen", "HVM domU", Some("xen")),
            ("Microsoft Corporation", "Virtual Machine", Some("hyper-v")),
            ("Microsoft Corporation", "Surface Laptop", None),
            ("Amazon EC2", "m5.large", Some("kvm")),
            ("Amazon EC2", "m5.metal", None),
            ("Google", "Google Compute Engine", Some("kvm")),
            ("Dell Inc.", "PowerEdge R740", None),
            ("", "", None),
        ];
        for (vendor, product, name) in cases {
            assert_eq!(hypervisor_of_firmware(&firmware(vendor, product)), name, "{vendor} {product}");
        }
        assert!(is_firecracker(b"DSDT\x00\x10\x00\x00\x02\x00FIRECKFCVMDSDT"));
        assert!(!is_firecracker(b"DSDT\x00\x10\x00\x00\x02\x00BOCHS "));
        assert!(!is_firecracker(b""));
    }

    #[test]
    fn clouds_are_told_apart() {
        let cases = [
            ("Amazon EC2", "m5.large", Some("Amazon EC2")),
            ("Google", "Google Compute Engine", Some("Google Cloud")),
            ("Google", "Eve", None),
            ("DigitalOcean", "Droplet", Some("DigitalOcean")),
            ("Hetzner", "vServer", Some("Hetzner")),
            ("Alibaba Cloud", "Alibaba Cloud ECS", Some("Alibaba Cloud")),
            ("OpenStack Foundation", "OpenStack Nova", Some("OpenStack")),
            ("Red Hat", "OpenStack Compute", Some("OpenStack")),
            ("QEMU", "Standard PC (i440FX + PIIX, 1996)", None),
        ];
        for (vendor, product, name) in cases {
            assert_eq!(cloud(&firmware(vendor, product)).as_deref(), name, "{vendor} {product}");
        }
        let hyper_v = firmware("Microsoft Corporation", "Virtual Machine");
        assert_eq!(cloud(&hyper_v), None);
        let azure = Firmware { chassis_asset_tag: "7783-7084-3265-9085-8269-3286-77".into(), ..hyper_v };
        assert_eq!(cloud(&azure).as_deref(), Some("Microsoft Azure"));
        let xen = Firmware { bios_version: "4.11.amazon".into(), ..firmware("Xen", "HVM domU") };
        assert_eq!(cloud(&xen).as_deref(), Some("Amazon EC2"));
        let oracle = Firmware { chassis_asset_tag: "OracleCloud.com".into(), ..firmware("QEMU", "Standard PC") };
        assert_eq!(cloud(&oracle).as_deref(), Some("Oracle Cloud"));
    }

    #[test]
    fn containers_and_kubernetes_are_recognised() {
        assert_eq!(container_of_environ(b"PATH=/bin\0container=lxc\0").as_deref(), Some("lxc"));
        assert_eq!(container_of_environ(b"PATH=/bin\0container=\0"), None);
        assert_eq!(container_of_environ(b"MY_container=x\0"), None);
        assert!(is_kubernetes_cgroup("kubepods.slice") && !is_kubernetes_cgroup("system.slice"));
        assert!(is_kubernetes_agent("kubelet") && !is_kubernetes_agent("kube-proxy"));
    }

    #[test]
    fn this_machine_is_described() {
        let resolver = Resolver::new(std::sync::Arc::default());
        let mut machine = Machine::new(&Host::detect(), &resolver);
        while machine.refresh(&resolver).is_err() {
            resolver.begin();
        }
        let facts = machine.facts();
        assert!(!facts.hostname.is_empty() && !facts.kernel.is_empty());
        assert!(facts.cpus > 0 && facts.memory_bytes > 1 << 24 && facts.uptime_seconds > 0.0, "{facts:?}");
        assert!(!facts.os.is_empty(), "{facts:?}");
    }
}
