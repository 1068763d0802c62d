use kerno::Host;

/// What this process lacks for this subcommand and what to type to have it; `None` when it lacks nothing.
pub(crate) fn lacking(host: &Host, subcommand: &str) -> Option<String> {
    let missing = host.missing_privileges()?;
    if !host.initial_user_namespace {
        return Some(format!(
            "kerno {subcommand} {missing}; run it on the host, or in a container that has the host's user namespace"
        ));
    }
    let names: Vec<_> = host.missing_capabilities.iter().map(ToString::to_string).collect();
    // Not by its name alone: sudo has a PATH of its own, and setcap wants the file.
    let kerno = std::env::current_exe().map_or_else(|_| "kerno".to_owned(), |path| path.display().to_string());
    Some(format!(
        "kerno {subcommand} {missing}; type `sudo {kerno} {subcommand} ...`, or once `sudo setcap cap_bpf,cap_perfmon{}+ep {kerno}`",
        if names.iter().any(|name| name == "CAP_SYS_RESOURCE") { ",cap_sys_resource" } else { "" },
    ))
}
