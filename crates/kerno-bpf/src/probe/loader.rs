use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use super::error::LoadError;
use super::group::Group;
use super::handle::{Handle, Prepared, Shared};
use super::options::{FilterKind, Options};
use super::plan::{Plan, RING};
use super::programs::{Programs, Share};
use super::signal::Signal;
use super::stream::{Events, StreamError};
use super::{CancelToken, Host, Object};
use crate::EventType;

pub(super) mod sealed {
    use super::{Group, LoadError, Plan, Prepared};
    use crate::probe::programs::Share;

    /// Loading needs the crate's own parts, so loaders are the crate's own.
    pub trait Sealed {
        /// The signals that it can share programs with, and its number among them.
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "nobody else can name this trait")]
        fn group(&self) -> Option<(&'static Group, usize)>;

        /// What a load here and now would do.
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "as above")]
        fn plan_load(&self) -> Result<Plan, LoadError>;

        /// Takes its share of programs that were loaded for several, with the ring of that name.
        #[doc(hidden)]
        #[allow(private_interfaces, reason = "as above")]
        fn join(&mut self, programs: Share, ring: &str) -> Result<Prepared, LoadError>;
    }
}

/// Puts one signal's programs into the kernel and hands out its events. Implemented by the signals of this crate only.
pub trait Loader: sealed::Sealed + Send + Sync + fmt::Debug {
    /// The signal's name, such as `syscall_latency`.
    fn name(&self) -> &'static str;

    /// The type of its events.
    fn event_type(&self) -> EventType;

    /// The filters that fit this signal.
    fn filters(&self) -> &'static [FilterKind];

    /// Checks the options: filters, their values, size of the ring. Loads nothing and needs no privilege.
    ///
    /// # Errors
    /// The [`LoadError`] that [`load`](Self::load) would give for them.
    fn validate(&self) -> Result<(), LoadError>;

    /// Checks whether it can be loaded here, and with which hooks. Loads nothing.
    fn check(&self, host: &Host) -> Availability;

    /// Uses this host instead of the one that [`Host::detect`] finds.
    #[doc(hidden)]
    fn set_host(&mut self, host: Host);

    /// Does the slow part of [`load`](Self::load), and attaches nothing. Prepare all signals before you attach the first: then they start
    /// together, and no ring fills while others load.
    ///
    /// # Errors
    /// [`LoadError`]; then nothing of it is left in the kernel.
    fn prepare(&mut self) -> Result<Prepared, LoadError>;

    /// Loads the programs and attaches them. They stay until the handle is closed or dropped.
    ///
    /// # Errors
    /// [`LoadError`]; then nothing of it is left in the kernel.
    fn load(&mut self) -> Result<Handle, LoadError> {
        self.prepare()?.attach()
    }

    /// The events, from the oldest not yet read; ends when the handle is closed or `cancel` fires.
    ///
    /// # Errors
    /// [`StreamError::NotLoaded`] before [`load`](Self::load) and after the handle was closed.
    fn events(&self, cancel: &CancelToken) -> Result<Events, StreamError>;
}

/// Whether a signal can run here.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Availability {
    /// Yes, attached to these hooks.
    Available {
        /// Such as `tp_btf/sys_enter`; `a|b` where the kernel will be asked for `a` first and for `b` when it refuses.
        hooks: Vec<String>,
    },
    /// No.
    Unavailable {
        /// What is missing.
        reason: String,
        /// The hooks it would use.
        hooks: Vec<String>,
    },
}

/// The loader of one signal. Use it by the signal's own name, such as [`SyscallLatencyLoader`](crate::SyscallLatencyLoader).
pub struct SignalLoader<S> {
    options: Options,
    host: Option<Host>,
    shared: Option<Arc<Shared>>,
    signal: PhantomData<fn() -> S>,
}

#[allow(private_bounds, reason = "the signals are the crate's own; users name them through the aliases")]
impl<S: Signal> SignalLoader<S> {
    /// A loader that is not loaded yet.
    pub const fn new(options: Options) -> Self {
        Self { options, host: None, shared: None, signal: PhantomData }
    }

    /// Its own object.
    const OBJECT: Object = Object { name: S::NAME, data: S::OBJECT };

    /// What is loaded on this kernel and onto which hooks, without the options' knobs.
    #[cfg(test)]
    pub(crate) fn hook_plan(host: &Host) -> Result<(Object, Plan), LoadError> {
        let mut plan = Plan::default();
        plan_hooks::<S>(host, &mut plan)?;
        Ok((Self::OBJECT, plan))
    }

    fn host(&self) -> Host {
        self.host.clone().unwrap_or_else(Host::detect)
    }

    /// Fails where nothing can be loaded, for the reason that a user can do most about.
    fn plan(&self, host: &Host) -> Result<Plan, LoadError> {
        if self.shared.as_ref().is_some_and(|shared| !shared.is_closed()) {
            return Err(LoadError::AlreadyLoaded);
        }
        let mut plan = self.plan_options()?;
        plan_hooks::<S>(host, &mut plan)?;
        match host.missing_privileges() {
            Some(missing) => Err(LoadError::Privileges(missing)),
            None => Ok(plan),
        }
    }

    fn take(&mut self, programs: Share, ring: &str) -> Result<Prepared, LoadError> {
        let shared = Arc::new(Shared::new(S::TYPE, programs, ring, self.options.ring_bytes)?);
        self.shared = Some(Arc::clone(&shared));
        Ok(Prepared::new(shared))
    }

    fn plan_options(&self) -> Result<Plan, LoadError> {
        let mut plan = Plan::default();
        for filter in self.options.filter.kinds() {
            if !S::FILTERS.contains(&filter) {
                let has: Vec<_> = S::FILTERS.iter().map(|kind| kind.name()).collect();
                return Err(LoadError::FilterMisfit { filter, signal: S::NAME, has: has.join(", ") });
            }
        }
        plan.set_shared(&self.options, if S::RARE { 0 } else { self.options.ring_bytes / 4 })?;
        S::knobs(&self.options, &mut plan)?;
        Ok(plan)
    }
}

fn plan_hooks<S: Signal>(host: &Host, plan: &mut Plan) -> Result<(), LoadError> {
    host.btf().map_err(|reason| LoadError::Kernel(reason.to_owned()))?;
    S::hooks(host, plan)?;
    plan.hooks_exist(host)
}

#[allow(private_interfaces, reason = "nobody else can name this trait")]
impl<S: Signal> sealed::Sealed for SignalLoader<S> {
    fn group(&self) -> Option<(&'static Group, usize)> {
        let group = S::GROUP?;
        Some((group, group.number(S::NAME)?))
    }

    fn plan_load(&self) -> Result<Plan, LoadError> {
        self.plan(&self.host())
    }

    fn join(&mut self, programs: Share, ring: &str) -> Result<Prepared, LoadError> {
        self.take(programs, ring)
    }
}

#[allow(private_bounds, reason = "as above")]
impl<S: Signal> Loader for SignalLoader<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn event_type(&self) -> EventType {
        S::TYPE
    }

    fn filters(&self) -> &'static [FilterKind] {
        S::FILTERS
    }

    fn validate(&self) -> Result<(), LoadError> {
        self.plan_options().map(drop)
    }

    fn check(&self, host: &Host) -> Availability {
        let mut plan = Plan::default();
        let planned = plan_hooks::<S>(host, &mut plan);
        let hooks = plan.display_hooks();
        match planned.map_err(|error| error.reason()).err().or_else(|| host.missing_privileges()) {
            None => Availability::Available { hooks },
            Some(reason) => Availability::Unavailable { reason, hooks },
        }
    }

    fn set_host(&mut self, host: Host) {
        self.host = Some(host);
    }

    fn prepare(&mut self) -> Result<Prepared, LoadError> {
        let host = self.host();
        let mut plan = self.plan(&host)?;
        let btf = host.btf().map_err(|reason| LoadError::Kernel(reason.to_owned()))?;
        super::host::lift_memlock(host.version);
        let programs = Programs::load(Self::OBJECT, &mut plan, btf)?;
        self.take(Share::whole(programs, &plan), RING)
    }

    fn events(&self, cancel: &CancelToken) -> Result<Events, StreamError> {
        let shared = self.shared.as_ref().filter(|shared| shared.is_loaded()).ok_or(StreamError::NotLoaded(S::NAME))?;
        Events::new(vec![Arc::clone(shared)], cancel)
    }
}

impl<S: Signal> fmt::Debug for SignalLoader<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignalLoader").field("signal", &S::NAME).field("options", &self.options).finish_non_exhaustive()
    }
}
