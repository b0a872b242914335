//! The object types of the mesh: our CRDs, Gateway API aliases, their validation.
//!
//! What people write, as types and as rules. There is no client here and no decision about traffic: the control
//! plane's core turns these objects into configuration, the command line checks them before anybody applies them,
//! and a cluster gets the very same schemas as CRDs. One source for all three is the point of this crate.
//!
//! Start at [`object::Object`], the closed set of kinds that the mesh reads; then [`traffic_policy`] and
//! [`mesh_tls_policy`], our own kinds; then [`validate`], which turns text into objects and findings.
//!
//! It may depend on the Kubernetes and Gateway API types, serde, and a YAML reader; never on a client, a runtime
//! or another crate of the mesh.

pub mod annotation;
pub mod crd;
pub mod duration;
pub mod gateway;
pub mod kubernetes;
pub mod mesh_tls_policy;
pub mod object;
mod pointer;
pub mod policy;
pub mod traffic_policy;
pub mod validate;
pub mod yaml;
