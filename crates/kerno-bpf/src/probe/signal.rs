use super::error::LoadError;
use super::group::Group;
use super::host::Host;
use super::options::{FilterKind, Options};
use super::plan::Plan;
use crate::EventType;

/// What differs between signals; the rest of loading is shared.
pub(crate) trait Signal: Send + 'static {
    /// Its name, the same as that of its folder.
    const NAME: &'static str;
    /// The type of its events.
    const TYPE: EventType;
    /// The compiled programs.
    const OBJECT: &'static [u8];
    /// The filters that fit.
    const FILTERS: &'static [FilterKind];
    /// Rare events wake the reader at once.
    const RARE: bool = false;
    /// The signals that it has hooks in common with.
    const GROUP: Option<&'static Group> = None;

    /// Which programs go where on this kernel.
    fn hooks(host: &Host, plan: &mut Plan) -> Result<(), LoadError>;

    /// Sets its own knobs and map sizes.
    fn knobs(_options: &Options, _plan: &mut Plan) -> Result<(), LoadError> {
        Ok(())
    }
}
