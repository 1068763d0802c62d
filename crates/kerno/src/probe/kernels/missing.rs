//! What not every kernel has, and the programs ask for before they use it.

use crate::probe::KernelVersion;

/// Which kernels have it. Long-term kernels may have got it later than the version says: then it says so here, and the programs are
/// right all the same.
#[derive(Clone, Copy, Debug)]
pub(super) enum Has {
    Since(KernelVersion),
    Until(KernelVersion),
    /// Other architectures.
    Never,
}

use Has::{Never, Since, Until};

impl Has {
    pub(super) fn there(self, line: KernelVersion) -> bool {
        match self {
            Since(version) => line >= version,
            Until(version) => line < version,
            Never => false,
        }
    }
}

const fn v(major: u32, minor: u32) -> KernelVersion {
    KernelVersion::new(major, minor)
}

/// By what relocations name. All else must be in every kernel.
pub(super) const MISSING: &[(&str, Has)] = &[];
