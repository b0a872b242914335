//! What every process of the mesh has beside its work: how it is watched, asked, told and ended.
//!
//! - [`status`]: `GET /live /ready /metrics`, for kubelets and Prometheus, on an address that others reach.
//! - [`admin`]: questions and commands as JSON, on loopback only. [`log`]: JSON lines on stderr, at a level that can
//!   be changed while running. [`recorder`]: metrics. [`panics`]: none goes uncounted.
//! - [`health`]: whether the process is ready, and what is missing. [`signal`]: the first and the second SIGTERM.
//! - [`descriptors`]: as many open files as the process may have. [`guests`]: no address keeps the others out.
//! - [`announce`]: the lines on stdout that tell a parent process where the listeners are and when all is ready.
//!
//! It knows nothing about meshes: both shells use it, it uses neither. It may depend on tokio, hyper, metrics and
//! tracing. Start at [`health`].

pub mod admin;
pub mod announce;
pub mod descriptors;
pub mod guests;
pub mod health;
mod http;
pub mod log;
pub mod panics;
pub mod recorder;
pub mod signal;
pub mod status;
