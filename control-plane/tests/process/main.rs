//! The control plane over real sockets, real TLS and a real client.

mod client;
mod delta;
mod identity;
mod registry;
mod state_of_the_world;
