//! The wire contract of the mesh: what the two sides say to each other, and nothing about what it means.
//!
//! - [`mod@envoy`]: the Envoy v3 messages, as Envoy and gRPC speak them; [`google`]: the well-known types in them.
//! - [`weft`]: our own messages (`proto/weft/v1/weft.proto`): two services beside ADS, and typed extensions for
//!   what the standard types cannot say.
//! - [`types`]: type URLs. [`names`]: resource names.
//!
//! May depend on the message crates only. Seen by the two shells (`proxy`, `control-plane`), never by a core: its
//! messages bring tonic, and so tokio and hyper. Start at [`names`].

/// Envoy's v3 API (`envoy::config::cluster::v3::Cluster`, …) and the well-known types it is made of.
pub use envoy_types::pb::{envoy, google};
pub use envoy_types::util::pack_any;

pub mod names;
pub mod types;

/// Our own messages and services.
#[allow(
    missing_docs,
    clippy::pedantic,
    unreachable_pub,
    unused_qualifications,
    elided_lifetimes_in_paths
)]
pub mod weft {
    tonic::include_proto!("weft.v1");
}
