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

/// Programs that run a build: they start a process for each of its steps, however small, and fail when a step does.
pub(crate) fn builds(comm: &str) -> bool {
    const BUILDERS: &[&str] = &[
        "bazel",
        "bmake",
        "cmake",
        "configure",
        "ctest",
        "gmake",
        "make",
        "meson",
        "ninja",
        "prove",
        "pytest",
        "samu",
        "scons",
        "tox",
    ];
    BUILDERS.contains(&comm)
}

/// Programs that run another one again and again because somebody wants to see what it says.
pub(crate) fn repeats_on_purpose(comm: &str) -> bool {
    matches!(comm, "watch" | "entr" | "hyperfine" | "stress-ng")
}

/// Programs that answer a question with their exit code, or try whether something works: scripts wait with them. And the tools that scripts are
/// made of: where these fail, what they work on is the matter, which other rules tell.
pub(crate) fn answers_by_exit_code(comm: &str) -> bool {
    const ANSWERS: &[&str] = &[
        "[",
        "awk",
        "basename",
        "bzip2",
        "cat",
        "chgrp",
        "chmod",
        "chown",
        "cmp",
        "command",
        "cp",
        "curl",
        "cut",
        "date",
        "dd",
        "df",
        "diff",
        "dig",
        "dirname",
        "docker",
        "du",
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
        "gunzip",
        "gzip",
        "head",
        "host",
        "id",
        "inotifywait",
        "install",
        "ip",
        "jq",
        "kill",
        "killall",
        "kubectl",
        "ln",
        "ls",
        "lsof",
        "mkdir",
        "mount",
        "mountpoint",
        "mv",
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
        "rm",
        "rmdir",
        "rsync",
        "scp",
        "sed",
        "seq",
        "sftp",
        "sleep",
        "sort",
        "ss",
        "ssh",
        "stat",
        "sync",
        "systemctl",
        "tail",
        "tar",
        "tee",
        "telnet",
        "test",
        "timeout",
        "touch",
        "tr",
        "true",
        "umount",
        "unzip",
        "wait-for-it",
        "wait-for-it.s",
        "wc",
        "wget",
        "which",
        "xargs",
        "xz",
        "zgrep",
        "zip",
        "zstd",
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
