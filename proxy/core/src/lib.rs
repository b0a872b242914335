//! Every decision of the proxy, pure: no I/O, no clock, no locks, no randomness of its own.
//!
//! `now` ([`time::Now`]) and the random generator are arguments, outputs are data. The shell (`weft-proxy`) awaits,
//! this crate decides. It may depend on `http`, `bytes` and small pure crates only; a test holds the list.
//! Start at [`resource`], the vocabulary.

pub mod authority;
pub mod hygiene;
pub mod outcome;
pub mod protocol;
pub mod resource;
pub mod time;
