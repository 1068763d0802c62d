//! The rules, by theme. A new one is a file in its theme and a line in [`ALL`].

use crate::Rule;

/// Every rule, in the order of the signals that they need.
pub static ALL: &[Rule] = &[
];
