use kerno::Host;
use kerno::probe::Capability;

/// What this process lacks for this subcommand and what to type to have it; `None` when it lacks nothing.
pub(crate) fn lacking(host: &Host, subcommand: &str) -> Option<String> {
    let missing = host.missing_privileges()?;
    if !host.initial_user_namespace {
        return Some(format!(
            "kerno {subcommand} {missing}; run it on the host, or in a container that has the host's user namespace"
        ));
    }
    let limited = host.missing_capabilities.contains(&Capability::CapSysResource);
    let limit = if limited {
        ", or instead of CAP_SYS_RESOURCE no limit of locked memory: LimitMEMLOCK=infinity in its unit"
    } else {
        ""
    };
    if rustix::process::geteuid().is_root() {
        let flags: Vec<_> = host.missing_capabilities.iter().map(|capability| flag_of_engines(*capability)).collect();
        return Some(format!(
            "kerno {subcommand} {missing}, which root lacks here: give the container more (docker run {}), or run it on the host{limit}",
            flags.join(" ")
        ));
    }
    // Not by its name alone: sudo has a PATH of its own, and setcap wants the file.
    let kerno = std::env::current_exe().map_or_else(|_| "kerno".to_owned(), |path| path.display().to_string());
    Some(format!(
        "kerno {subcommand} {missing}; type `sudo {kerno} {subcommand} ...`, or once `sudo setcap cap_bpf,cap_perfmon{}+ep {kerno}`{limit}",
        if limited { ",cap_sys_resource" } else { "" },
    ))
}

/// Container engines name capabilities without `CAP_`.
fn flag_of_engines(capability: Capability) -> String {
    format!("--cap-add {}", capability.to_string().trim_start_matches("CAP_"))
}
