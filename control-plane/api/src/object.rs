//! The closed set of objects that the mesh reads.
//!
//! Everything downstream (loader, world, status) speaks of objects through [`Object`] and names them by
//! [`ObjectRef`]; a new kind is added here, and the compiler shows where it must be thought of.

use std::fmt;
use std::sync::Arc;

use crate::annotation::DEFAULT_NAMESPACE;
use crate::gateway::{GrpcRoute, HttpRoute};
use crate::kubernetes::{EndpointSlice, Namespace, ObjectMeta, Pod, Service};
use crate::mesh_tls_policy::MeshTlsPolicy;
use crate::traffic_policy::TrafficPolicy;

/// The kinds that the mesh reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Namespace, `v1`.
    Namespace,
    /// Service, `v1`.
    Service,
    /// Pod, `v1`.
    Pod,
    /// EndpointSlice, `discovery.k8s.io/v1`.
    EndpointSlice,
    /// HTTPRoute, `gateway.networking.k8s.io/v1`.
    HttpRoute,
    /// GRPCRoute, `gateway.networking.k8s.io/v1`.
    GrpcRoute,
    /// TrafficPolicy, `weft.dev/v1alpha1`.
    TrafficPolicy,
    /// MeshTLSPolicy, `weft.dev/v1alpha1`.
    MeshTlsPolicy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Namespace,
        Self::Service,
        Self::Pod,
        Self::EndpointSlice,
        Self::HttpRoute,
        Self::GrpcRoute,
        Self::TrafficPolicy,
        Self::MeshTlsPolicy,
    ];

    /// The name as manifests write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Service => "Service",
            Self::Pod => "Pod",
            Self::EndpointSlice => "EndpointSlice",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::TrafficPolicy => "TrafficPolicy",
            Self::MeshTlsPolicy => "MeshTLSPolicy",
        }
    }

    /// The version that the mesh reads, with its group.
    pub const fn api_version(self) -> &'static str {
        match self {
            Self::Namespace | Self::Service | Self::Pod => "v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::HttpRoute | Self::GrpcRoute => "gateway.networking.k8s.io/v1",
            Self::TrafficPolicy | Self::MeshTlsPolicy => "weft.dev/v1alpha1",
        }
    }

    /// The API group; empty for the core group.
    pub fn group(self) -> &'static str {
        self.api_version().split_once('/').map_or("", |(group, _)| group)
    }

    /// Whether its objects live in a namespace.
    pub const fn namespaced(self) -> bool {
        !matches!(self, Self::Namespace)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace; empty for a kind that has none.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// Names an object. The namespace is dropped for a kind that has none.
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Self {
        let namespace = if kind.namespaced() { namespace } else { "" };
        Self {
            kind,
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
        }
    }
}

/// An object, valid by every rule of [`crate::validate`] when it came from there. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// See [`Kind::Namespace`].
    Namespace(Arc<Namespace>),
    /// See [`Kind::Service`].
    Service(Arc<Service>),
    /// See [`Kind::Pod`].
    Pod(Arc<Pod>),
    /// See [`Kind::EndpointSlice`].
    EndpointSlice(Arc<EndpointSlice>),
    /// See [`Kind::HttpRoute`].
    HttpRoute(Arc<HttpRoute>),
    /// See [`Kind::GrpcRoute`].
    GrpcRoute(Arc<GrpcRoute>),
    /// See [`Kind::TrafficPolicy`].
    TrafficPolicy(Arc<TrafficPolicy>),
    /// See [`Kind::MeshTlsPolicy`].
    MeshTlsPolicy(Arc<MeshTlsPolicy>),
}

impl Object {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Service(_) => Kind::Service,
            Self::Pod(_) => Kind::Pod,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::HttpRoute(_) => Kind::HttpRoute,
            Self::GrpcRoute(_) => Kind::GrpcRoute,
            Self::TrafficPolicy(_) => Kind::TrafficPolicy,
            Self::MeshTlsPolicy(_) => Kind::MeshTlsPolicy,
        }
    }

    /// Its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        match self {
            Self::Namespace(object) => &object.metadata,
            Self::Service(object) => &object.metadata,
            Self::Pod(object) => &object.metadata,
            Self::EndpointSlice(object) => &object.metadata,
            Self::HttpRoute(object) => &object.metadata,
            Self::GrpcRoute(object) => &object.metadata,
            Self::TrafficPolicy(object) => &object.metadata,
            Self::MeshTlsPolicy(object) => &object.metadata,
        }
    }

    /// Its name among all objects. An object without a namespace is in `default`, as with kubectl.
    pub fn object_ref(&self) -> ObjectRef {
        let metadata = self.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or(DEFAULT_NAMESPACE);
        ObjectRef::new(
            self.kind(),
            namespace,
            metadata.name.as_deref().unwrap_or_default(),
        )
    }
}

macro_rules! from_object {
    ($($kind:ident($type:ty)),+ $(,)?) => {$(
        impl From<$type> for Object {
            fn from(object: $type) -> Self {
                Self::$kind(Arc::new(object))
            }
        }
    )+};
}

from_object!(
    Namespace(Namespace),
    Service(Service),
    Pod(Pod),
    EndpointSlice(EndpointSlice),
    HttpRoute(HttpRoute),
    GrpcRoute(GrpcRoute),
    TrafficPolicy(TrafficPolicy),
    MeshTlsPolicy(MeshTlsPolicy),
);
