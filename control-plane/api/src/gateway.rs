//! The Gateway API's routes, under one roof: the crate's bindings lag the API by a version or two, and which of
//! their structs stands for which kind is decided here and nowhere else.
//!
//! HTTPRoute is taken from the bindings' experimental module because only that one knows `retry`, which the
//! standard channel has since 1.7. What is experimental in it beyond that is refused by [`crate::validate`].

pub use gateway_api::apis::experimental::httproutes as http;
pub use gateway_api::apis::standard::grpcroutes as grpc;

pub use grpc::{GrpcRoute, GrpcRouteSpec};
pub use http::{HttpRoute, HttpRouteSpec};

/// Group of the Gateway API's kinds.
pub const GROUP: &str = "gateway.networking.k8s.io";
