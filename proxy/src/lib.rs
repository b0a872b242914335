//! The sidecar proxy: the I/O shell around `weft-proxy-core`. The shell awaits, the core decides.
//!
//! A request, in six files: [`app`] binds and wires, [`listener`] accepts, [`outbound`] or [`inbound`] is one function
//! per direction, `proxy/core/exchange` decides, [`upstream`] holds the connections, [`mod@http`] speaks.
//!
//! Configuration, in five: [`xds`] brings it, `proxy/core/snapshot` links it, [`published`] hands it to the workers;
//! [`certificate`] keeps our identity, [`registration`] says that we are there.
//!
//! May depend on the core, `xds-proto`, `identity`, `ops`, tokio, hyper, h2, rustls and tonic; never on Kubernetes and
//! never on the control plane. Start at [`app`].

pub mod admin;
pub mod app;
pub mod backoff;
pub mod capture;
pub mod certificate;
pub mod config;
pub mod control_plane;
pub mod dial;
pub mod drain;
pub mod finish;
pub mod health_check;
pub mod http;
pub mod identity;
pub mod inbound;
pub mod listener;
pub mod local;
pub mod memory;
pub mod outbound;
pub mod probe;
pub mod protocol;
pub mod published;
pub mod registration;
pub mod runtime;
pub mod serve;
pub mod socket;
pub mod sockets;
pub mod stream;
pub mod tcp;
pub mod telemetry;
pub mod upgraded;
pub mod upstream;
pub mod worker;
pub mod xds;

pub use app::run;
