//! Which privileges each feature needs, what is lost without them, and which this process has. docs/privileges.md has the same table.

use std::fmt::Write as _;

use rustix::thread::{CapabilitySet, capabilities};
use serde::Serialize;

use crate::output::Style;

/// Something that Kerno does, and what it needs for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Privilege {
    pub(super) feature: &'static str,
    needs: CapabilitySet,
    /// When it is needed, if not always.
    pub(super) when: &'static str,
    pub(super) without: &'static str,
    /// Whether `kerno start` keeps it: what is needed only at the start is given up.
    pub(super) kept: bool,
}

const fn privilege(
    feature: &'static str,
    needs: CapabilitySet,
    when: &'static str,
    without: &'static str,
    kept: bool,
) -> Privilege {
    Privilege { feature, needs, when, without, kept }
}

/// All of them, the most important first.
pub(super) const PRIVILEGES: &[Privilege] = &[
    privilege(
        "loading programs and maps",
        CapabilitySet::BPF.union(CapabilitySet::PERFMON),
        "",
        "nothing can be watched or traced",
        true,
    ),
    privilege(
        "memory for maps",
        CapabilitySet::SYS_RESOURCE,
        "before Linux 5.11, unless locked memory is not limited",
        "nothing can be watched or traced",
        true,
    ),
    privilege(
        "open files, sockets and memory of other users' processes",
        CapabilitySet::SYS_PTRACE.union(CapabilitySet::DAC_READ_SEARCH),
        "",
        "which files others write, who has the other end of a pipe or socket, and who holds a lock is not found",
        true,
    ),
    privilege(
        "names of containers, images and pods",
        CapabilitySet::DAC_READ_SEARCH,
        "",
        "containers are called by their ids",
        true,
    ),
    privilege(
        "where in the kernel a blocked task waits",
        CapabilitySet::SYS_ADMIN,
        "",
        "a task that hangs is found, but not what it hangs in",
        true,
    ),
    privilege(
        "what programs in the kernel cost",
        CapabilitySet::SYS_ADMIN,
        "",
        "their share of CPU time is unknown, so that max_kernel_share cannot be held",
        true,
    ),
    privilege(
        "sockets and limits inside containers",
        CapabilitySet::SYS_ADMIN,
        "",
        "those of other namespaces are not looked at",
        true,
    ),
    privilege(
        "the kernel's log",
        CapabilitySet::SYSLOG,
        "with kernel.dmesg_restrict=1",
        "grave messages of the kernel are no findings, and kerno explain needs them on standard input",
        true,
    ),
    privilege(
        "the socket for the group kerno",
        CapabilitySet::CHOWN,
        "if it runs with another group",
        "kerno start does not start while there is such a group",
        false,
    ),
    privilege(
        "HTTP on a port below 1024",
        CapabilitySet::NET_BIND_SERVICE,
        "if such a port is set",
        "kerno start does not start",
        false,
    ),
    privilege(
        "a store that belongs to another user",
        CapabilitySet::DAC_OVERRIDE,
        "if the store does",
        "nothing is kept",
        false,
    ),
];

impl Privilege {
    /// As capabilities(7) has them.
    pub(super) fn names(&self) -> Vec<String> {
        self.needs.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
    }
}

/// A privilege on this machine.
#[derive(Debug, Serialize)]
struct Fact {
    feature: &'static str,
    needs: Vec<String>,
    when: Option<&'static str>,
    without: &'static str,
    kept_by_start: bool,
    present: bool,
}

fn facts() -> Vec<Fact> {
    let effective = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let fact = |privilege: &Privilege| Fact {
        feature: privilege.feature,
        needs: privilege.names(),
        when: Some(privilege.when).filter(|when| !when.is_empty()),
        without: privilege.without,
        kept_by_start: privilege.kept,
        present: effective.contains(privilege.needs),
    };
    PRIVILEGES.iter().map(fact).collect()
}

/// For programs.
pub(super) fn json() -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(&facts())? + "\n")
}

/// For people.
pub(super) fn text(style: Style) -> String {
    let mut text = String::new();
    for fact in facts() {
        let (on, answer) = if fact.present { (style.green(), "yes") } else { (style.red(), "no") };
        let when = fact.when.map_or_else(String::new, |when| format!(" ({when})"));
        let _ = writeln!(text, "{on}{answer:<4}{}{}{}{}", style.reset(), style.bold(), fact.feature, style.reset());
        let _ = writeln!(text, "    needs {}{when}", fact.needs.join(" and "));
        let _ = writeln!(text, "    without it: {}", fact.without);
    }
    text.push_str(
        "\nkerno start keeps for its watching threads what those above need all the time, and gives up the rest.\n",
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_start_keeps_is_what_the_table_says() {
        let kept = PRIVILEGES.iter().filter(|one| one.kept).fold(CapabilitySet::empty(), |all, one| all | one.needs);
        assert_eq!(kept & !CapabilitySet::SYS_RESOURCE, kerno_daemon::confine::WATCHING);
    }

    #[test]
    fn names_are_those_of_the_manual() {
        assert_eq!(PRIVILEGES[0].names(), ["CAP_PERFMON", "CAP_BPF"]);
        let page = include_str!("../../../../docs/privileges.md");
        for privilege in PRIVILEGES {
            let names: Vec<_> = privilege.names().iter().map(|name| format!("`{name}`")).collect();
            let row = format!("| {} | {} |", privilege.feature, names.join(", "));
            assert!(page.contains(&row), "docs/privileges.md lacks {row}");
        }
    }
}
