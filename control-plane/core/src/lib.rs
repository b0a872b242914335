//! Every decision of the control plane, pure: the world goes in, resources and answers come out.
//!
//! No client, no clock, no I/O: `now` is an argument. The shell (`weft-control-plane`) watches, serves and signs.
//! A test holds the list of what this crate may depend on.
//!
//! Config flows one way: objects -> [`ingest`] -> [`world`] -> [`translate`] -> [`resource`], kept up to date by
//! [`catalog`], sent by [`stream`]. Start at [`resource`], what translation produces, then [`catalog`].

pub mod acks;
pub mod catalog;
pub mod conditions;
pub mod dialect;
pub mod ingest;
pub mod inject;
pub mod issue;
pub mod leader;
pub mod meshed;
pub mod names;
pub mod pod_certificate;
pub mod precedence;
pub mod registry;
pub mod relist;
pub mod replicas;
pub mod resource;
pub mod review;
pub mod rights;
pub mod rotation;
pub mod status;
pub mod stream;
#[cfg(test)]
mod testing;
pub mod time;
pub mod translate;
pub mod trust;
pub mod version;
pub mod world;
