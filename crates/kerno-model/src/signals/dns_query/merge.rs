use std::cmp::{Ordering, Reverse};

use crate::merge::{Entry, Joint, Part, Selected, add, cut_lists, earliest, join_list, latest, latest_text};
use crate::merged::Merged;
use crate::{DnsNameUse, DnsServer, DnsSummary};

/// Waits in one window.
const MAX_WAITS: usize = 64;

impl Part for DnsSummary {
    const SIGNAL: &'static str = "dns_query";

    fn cuts(&self, notes: &mut Merged) {
        cut_lists(notes, [&self.servers]);
        cut_lists(notes, [&self.names]);
        if self.waits.len() >= MAX_WAITS {
            notes.cut("dns_query.waits", None);
        }
    }

    fn merge(&mut self, later: &Self, joint: &mut Joint<'_>) {
        join_list(&mut self.servers, &later.servers, joint);
        join_list(&mut self.names, &later.names, joint);
        // One that waited at the end is the later window's now, or has been answered.
        join_list(&mut self.waits, &later.waits, joint);
    }

    fn shift(&mut self, _seconds: f64) {}
}

impl Entry for DnsServer {
    const LIST: &'static str = "dns_query.servers";
    const MAX: usize = 128;
    const SELECTED: Selected = Selected::Top { full: 64, top: 64, field: "answers" };

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        (self.server, self.net_namespace) == (later.server, later.net_namespace)
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        add(&mut self.answers, later.answers);
        add(&mut self.missing, later.missing);
        add(&mut self.servfail, later.servfail);
        add(&mut self.refused, later.refused);
        add(&mut self.other_errors, later.other_errors);
        add(&mut self.unanswered, later.unanswered);
        add(&mut self.abandoned, later.abandoned);
        add(&mut self.failed, later.failed);
        self.latency_ns.merge(&later.latency_ns);
        self.pid = later.pid;
        latest_text(&mut self.comm, &later.comm);
        latest(&mut self.server_pid, &later.server_pid);
        latest_text(&mut self.server_comm, &later.server_comm);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |server: &Self| {
            (Reverse(server.answers.saturating_add(server.unanswered)), server.server, server.net_namespace)
        };
        key(self).cmp(&key(other))
    }

    fn weight(&self) -> u64 {
        self.answers
    }
}

impl Entry for DnsNameUse {
    const LIST: &'static str = "dns_query.names";
    const MAX: usize = 256;
    const SELECTED: Selected = Selected::Top { full: 128, top: 128, field: "queries" };

    fn is(&self, later: &Self, _joint: &Joint<'_>) -> bool {
        self.net_namespace == later.net_namespace && self.name == later.name && self.comm == later.comm
    }

    fn join(&mut self, later: &Self, _joint: &mut Joint<'_>) {
        let another = later.processes.saturating_sub(u64::from(self.pid == later.pid));
        add(&mut self.processes, another);
        (self.pid, self.parent_pid) = (later.pid, later.parent_pid);
        latest(&mut self.server, &later.server);
        add(&mut self.queries, later.queries);
        add(&mut self.found, later.found);
        add(&mut self.missing, later.missing);
        add(&mut self.errors, later.errors);
        add(&mut self.unanswered, later.unanswered);
        add(&mut self.waited_ns, later.waited_ns);
        self.first_ns = earliest(self.first_ns, later.first_ns);
    }

    fn order(&self, other: &Self) -> Ordering {
        let key = |name: &Self| (Reverse(name.queries), name.name.clone(), name.comm.clone(), name.net_namespace);
        key(self).cmp(&key(other))
    }

    fn weight(&self) -> u64 {
        self.queries
    }
}
