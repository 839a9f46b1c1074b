//! The loader and the programs against a real kernel: needs root and the built object, and fails without them.

mod clsact;
mod connections;
mod integrity;
mod lifecycle;
mod model;
mod openings;
mod orphans;
mod price;
mod rig;
mod takeover;
mod verdicts;
mod ways_round;
