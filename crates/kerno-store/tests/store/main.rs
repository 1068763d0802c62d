//! The store on real files.

mod made;

mod tiers;
