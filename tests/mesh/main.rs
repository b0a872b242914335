//! The mesh as users run it: the real binary, processes on loopback, no test double.

mod manifests;
mod control_plane;
mod faults;
mod identity;
mod routing;
mod tcp;
