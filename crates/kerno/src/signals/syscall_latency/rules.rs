//! What this signal's summary says is wrong.

use crate::doctor::Rule;

/// The rules of this signal.
pub(crate) const RULES: &[Rule] = &[];
