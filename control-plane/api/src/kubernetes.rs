//! The kinds of Kubernetes itself that the mesh reads, under one roof: which version of the API they come from is
//! decided here and nowhere else.

pub use k8s_openapi::api::core::v1::{Namespace, Pod, Service, ServicePort, ServiceSpec};
pub use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
