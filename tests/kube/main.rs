//! Against a real API server: what the control plane reads, writes and answers there.

mod install;
mod server;
