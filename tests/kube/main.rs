//! Against a real API server: what the control plane reads, writes and answers there.

mod check;
mod forged;
mod injection;
mod install;
mod leader;
mod place;
mod pod_certificates;
mod root;
mod server;
mod status;
mod tokens;
mod trust;
mod validation;
mod watch;
