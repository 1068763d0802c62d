//! Programs that start others, and programs whose exit code is an answer.

/// Programs that start a service again when it has ended: what they start is meant to stay.
pub(crate) fn is_supervisor(comm: &str) -> bool {
    const SUPERVISORS: &[&str] = &[
        "circusd",
        "conmon",
        "dinit",
        "forever",
        "foreman",
        "god",
        "init",
        "launchd",
        "monit",
        "nodaemon",
        "perpd",
        "procd",
        "runsv",
        "s6-supervise",
        "supervise",
        "supervisord",
        "systemd",
    ];
    SUPERVISORS.contains(&comm) || comm.starts_with("PM2")
}

/// Programs that run another one again and again because somebody wants to see what it says.
pub(crate) fn repeats_on_purpose(comm: &str) -> bool {
    matches!(comm, "watch" | "entr" | "hyperfine" | "stress-ng")
}

/// Programs that answer a question with their exit code, or try whether something works: scripts wait with them.
pub(crate) fn answers_by_exit_code(comm: &str) -> bool {
    const ANSWERS: &[&str] = &[
        "[",
        "basename",
        "cat",
        "cmp",
        "command",
        "curl",
        "diff",
        "dig",
        "dirname",
        "docker",
        "egrep",
        "expr",
        "false",
        "fgrep",
        "find",
        "flock",
        "fping",
        "fuser",
        "getent",
        "git",
        "grep",
        "host",
        "id",
        "inotifywait",
        "ip",
        "jq",
        "kill",
        "killall",
        "kubectl",
        "ls",
        "lsof",
        "mkdir",
        "mountpoint",
        "mysqladmin",
        "nc",
        "ncat",
        "netcat",
        "nslookup",
        "pg_isready",
        "pgrep",
        "pidof",
        "ping",
        "ping6",
        "pkill",
        "podman",
        "ps",
        "read",
        "redis-cli",
        "rg",
        "rmdir",
        "sleep",
        "ss",
        "ssh",
        "stat",
        "systemctl",
        "tail",
        "telnet",
        "test",
        "timeout",
        "true",
        "wait-for-it",
        "wait-for-it.s",
        "wget",
        "which",
        "xargs",
        "zgrep",
    ];
    ANSWERS.contains(&comm)
        || ["check_", "check-", "wait-", "wait_", "is-", "healthcheck"].iter().any(|part| comm.starts_with(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_who() {
        assert!(is_supervisor("runsv") && is_supervisor("PM2 v5.3.0: God") && !is_supervisor("sh"));
        assert!(answers_by_exit_code("grep") && answers_by_exit_code("check_http") && !answers_by_exit_code("app"));
        assert!(repeats_on_purpose("watch") && !repeats_on_purpose("bash"));
    }
}
