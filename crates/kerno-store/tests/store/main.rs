//! The store on real files.

mod made;

mod clocks;
mod damage;
mod directory;
mod incidents;
mod processes;
mod room;
mod tiers;
