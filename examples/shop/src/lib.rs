//! The sample system: five small services, a message broker and a load generator.
//!
//! It exists to have something behind the mesh: every protocol that the mesh carries, calls that depend on each
//! other, writes that must not happen twice, and a failure that has to be undone. It knows nothing of the mesh. An
//! application here sends its requests to an HTTP proxy on loopback (its sidecar) or, in tests, straight to its
//! peers; both look the same to it.
//!
//! | service | offers | asks |
//! |---|---|---|
//! | `user` | users; what it heard of their orders | broker (MQTT, subscribes) |
//! | `product` | the catalogue, with what is in stock; versions v1 and v2 | inventory (gRPC) |
//! | `order` | orders: a saga | user, product, inventory, payment (HTTP), broker (MQTT, publishes) |
//! | `payment` | takes and voids payments; declines large ones with 402 | |
//! | `inventory` | stock and reservations (HTTP), stock (gRPC) | |
//!
//! Start with [`app::run`], then `order.rs`: everything interesting happens there. State that replicas of one
//! service share, and that outlives them, is kept in [`ledger`]s: append-only files. Each POST that is executed is
//! written to the service's [`journal`] first, so that a test can see whether one was executed twice.
//!
//! May depend on: tokio, hyper, tonic, rumqttc. Never on the mesh.

pub mod app;
mod application;
pub mod broker;
pub mod client;
pub mod context;
mod events;
pub mod inventory;
pub mod journal;
pub mod ledger;
pub mod load;
pub mod manifests;
mod message;
mod order;
mod payment;
mod product;
mod recent;
pub mod server;
mod user;

pub use app::{Config, Service};

/// Generated from `proto/shop/v1/inventory.proto`.
#[allow(missing_docs, clippy::pedantic, unreachable_pub, unused_qualifications)]
pub mod proto {
    tonic::include_proto!("shop.v1");
}
