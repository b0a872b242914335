//! What tests across processes stand on: the real binary, started and ended by the test, small applications to put
//! behind it, and clients to drive it.
//!
//! Tests wait on what a process says (its JSON lines on stdout, its status pages), never on time; every port is
//! chosen by the kernel; what a test started ends with it. May depend on everything of ours; nothing of ours may
//! depend on it. Start at [`mesh::Mesh`].

// A harness panics where a test fails: that is its one way to fail.
#![allow(clippy::missing_panics_doc)]

pub mod app;
pub mod client;
pub mod forge;
pub mod frames;
pub mod kube;
pub mod load;
pub mod mesh;
pub mod node;
pub mod process;
pub mod raw;
pub mod xds;
