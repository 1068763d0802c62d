//! From the settings of a sink to what sends for it.

use std::time::Duration;

use super::deliver::Deliver;
use super::outbox::Manner;
use super::settings::{SinkKind, SinkSettings};
use super::{alertmanager, discord, http, journald, ntfy, pagerduty, slack, syslog, teams, webhook};

/// What sends.
pub(super) fn deliver(settings: &SinkSettings) -> Box<dyn Deliver> {
    let outbound = &settings.outbound;
    let http = |url, token: &Option<_>| http::Http::new(url, token.as_ref(), outbound);
    let timeout = outbound.timeout;
    match &settings.kind {
        SinkKind::Alertmanager { url, token, resend } => {
            Box::new(alertmanager::Alertmanager { http: http(url, token), resend: *resend })
        }
        SinkKind::Webhook { url, token, secret } => {
            Box::new(webhook::Webhook { http: http(url, token), sink: settings.name.clone(), secret: secret.clone() })
        }
        SinkKind::Slack { url, token, channel } => {
            Box::new(slack::Slack { http: http(url, token), channel: channel.clone() })
        }
        SinkKind::Discord { url } => Box::new(discord::Discord { http: http(url, &None) }),
        SinkKind::Teams { url } => Box::new(teams::Teams { http: http(url, &None) }),
        SinkKind::PagerDuty { url, key } => Box::new(pagerduty::PagerDuty { http: http(url, &None), key: key.clone() }),
        SinkKind::Ntfy { url, topic, token } => Box::new(ntfy::Ntfy { http: http(url, token), topic: topic.clone() }),
        SinkKind::Syslog { address, facility } => {
            Box::new(syslog::Syslog { address: address.clone(), facility: *facility, timeout })
        }
        SinkKind::Journald { socket } => Box::new(journald::Journald { socket: socket.clone(), timeout }),
    }
}

/// How it wants to be told.
pub(super) fn manner(settings: &SinkSettings) -> Manner {
    let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (batch, both, resend_ns) = match &settings.kind {
        SinkKind::Alertmanager { resend, .. } => (64, false, Some(ns(*resend))),
        SinkKind::Webhook { .. } => (50, true, None),
        SinkKind::Slack { .. } | SinkKind::Discord { .. } | SinkKind::Teams { .. } | SinkKind::Ntfy { .. } => {
            (100, false, None)
        }
        SinkKind::PagerDuty { .. } | SinkKind::Syslog { .. } | SinkKind::Journald { .. } => (1, true, None),
    };
    Manner { batch, both, resend_ns, group_wait_ns: ns(settings.group_wait) }
}
