use kerno::Host;
use kerno::probe::Capability;

/// The privileges that this process lacks for this subcommand, and how to get them; `None` if it lacks none.
pub(crate) fn lacking(host: &Host, subcommand: &str) -> Option<String> {
    let missing = host.missing_privileges()?;
    if !host.initial_user_namespace {
        return Some(format!(
            "kerno {subcommand} {missing}; run it on the host, or in a container that has the host's user namespace"
        ));
    }
    let limited = host.missing_capabilities.contains(&Capability::CapSysResource);
    let limit = if limited {
        "; instead of CAP_SYS_RESOURCE, unlimited locked memory will do (LimitMEMLOCK=infinity in the unit)"
    } else {
        ""
    };
    if rustix::process::geteuid().is_root() {
        let flags: Vec<_> = host.missing_capabilities.iter().map(|capability| flag_of_engines(*capability)).collect();
        return Some(format!(
            "kerno {subcommand} {missing}, which root lacks here; add them to the container (docker run {}), or run it on the host{limit}",
            flags.join(" ")
        ));
    }
    // The full path: sudo has a PATH of its own, and setcap needs the file.
    let kerno = std::env::current_exe().map_or_else(|_| "kerno".to_owned(), |path| path.display().to_string());
    Some(format!(
        "kerno {subcommand} {missing}; run `sudo {kerno} {subcommand} ...`, or run `sudo setcap cap_bpf,cap_perfmon{}+ep {kerno}` once{limit}",
        if limited { ",cap_sys_resource" } else { "" },
    ))
}

/// Container engines name capabilities without `CAP_`.
fn flag_of_engines(capability: Capability) -> String {
    format!("--cap-add {}", capability.to_string().trim_start_matches("CAP_"))
}
