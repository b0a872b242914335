//! Against a real API server: what the control plane reads, writes and answers there.

mod check;
mod forged;
mod injection;
mod install;
mod installed;
mod leader;
mod line;
mod place;
mod pod_certificates;
mod replicas;
mod rights;
mod root;
mod rotation;
mod server;
mod status;
mod tokens;
mod trust;
mod validation;
mod watch;
