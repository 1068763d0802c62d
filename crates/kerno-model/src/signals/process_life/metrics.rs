use super::LifeSummary;
use crate::metric::{Describe, Described};

const ROOM: &str = "for findings: a node has room for no more series";

impl Describe for LifeSummary {
    const ABOUT: &'static str = "Processes that begin and end";
    const METRICS: &'static [Described<Self>] = &[];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("forks", ROOM),
        ("execs", ROOM),
        ("ends", ROOM),
        ("failed", ROOM),
        ("killed", ROOM),
        ("core_dumps", ROOM),
        ("oom_killed", "those of `kerno.memory.oom_kills`"),
        ("ends_not_told", "says how much of the list below is missing"),
        ("programs[].*", "evidence, for findings"),
        ("programs[].endings[].*", "evidence, for findings"),
        ("starters[].*", "evidence, for findings"),
        ("starters[].programs[].*", "evidence, for findings"),
        ("zombies[].*", "evidence, for findings"),
    ];
}
