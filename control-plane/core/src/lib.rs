//! Every decision of the control plane, pure: the world goes in, resources and answers come out.
//!
//! No client, no clock, no I/O: `now` is an argument. The shell (`weft-control-plane`) watches, serves and signs.
//! A test holds the list of what this crate may depend on. Start at [`resource`], what translation produces.

pub mod resource;
