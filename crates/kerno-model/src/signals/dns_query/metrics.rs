use super::DnsSummary;
use crate::metric::{Describe, Described};

/// Why none of its numbers is a metric.
const ROOM: &str = "the catalogue has no room for more series of a node; for findings";

impl Describe for DnsSummary {
    const ABOUT: &'static str = "DNS queries";
    const METRICS: &'static [Described<Self>] = &[];
    const LEFT_OUT: &'static [(&'static str, &'static str)] = &[
        ("servers[].*", ROOM),
        ("names[].*", "names have no bound; for findings"),
        ("waits[].*", "about single queries, without bound; for findings"),
    ];
}
