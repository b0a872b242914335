//! Every decision of the proxy, pure: no I/O, no clock, no locks, no randomness of its own.
//!
//! `now` ([`time::Now`]) and the random generator are arguments, outputs are data. The shell (`weft-proxy`) awaits,
//! this crate decides. It may depend on `http`, `bytes` and small pure crates only; a test holds the list.
//! Start at [`resource`], the vocabulary.

pub mod authority;
mod balance;
pub mod breaker;
pub mod budget;
pub mod capture;
pub mod cidr;
pub mod cluster;
pub mod deadline;
pub mod drain;
pub mod endpoint;
pub mod exchange;
pub mod framing;
pub mod hygiene;
pub mod latency;
pub mod lease;
pub mod limit;
pub mod locality;
pub mod outcome;
pub mod outlier;
pub mod pool;
pub mod protocol;
pub mod resource;
pub mod retry;
pub mod ring;
pub mod route;
mod selection;
pub mod snapshot;
pub mod subscription;
pub mod time;
pub mod trace;
