//! The kinds that are watched.

use kube::core::ApiResource;
use weft_api::object::Kind;

/// A kind that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Watched {
    /// `CustomResourceDefinition`: which of the other kinds the server has at all.
    Definition,
    /// A kind that the mesh reads.
    Object(Kind),
}

impl Watched {
    pub(super) const ALL: [Self; 9] = [
        Self::Definition,
        Self::Object(Kind::Namespace),
        Self::Object(Kind::Service),
        Self::Object(Kind::Pod),
        Self::Object(Kind::EndpointSlice),
        Self::Object(Kind::HttpRoute),
        Self::Object(Kind::GrpcRoute),
        Self::Object(Kind::TrafficPolicy),
        Self::Object(Kind::MeshTlsPolicy),
    ];

    /// Its name as manifests write it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Definition => "CustomResourceDefinition",
            Self::Object(kind) => kind.name(),
        }
    }

    /// Its name in paths and rights. It is the condition too that holds once all objects of the kind are known.
    pub(super) const fn plural(self) -> &'static str {
        match self {
            Self::Definition => "customresourcedefinitions",
            Self::Object(Kind::Namespace) => "namespaces",
            Self::Object(Kind::Service) => "services",
            Self::Object(Kind::Pod) => "pods",
            Self::Object(Kind::EndpointSlice) => "endpointslices",
            Self::Object(Kind::HttpRoute) => "httproutes",
            Self::Object(Kind::GrpcRoute) => "grpcroutes",
            Self::Object(Kind::TrafficPolicy) => "trafficpolicies",
            Self::Object(Kind::MeshTlsPolicy) => "meshtlspolicies",
        }
    }

    /// Where the server has it.
    pub(super) fn resource(self) -> ApiResource {
        let (group, version) = match self {
            Self::Definition => ("apiextensions.k8s.io", "v1"),
            Self::Object(kind) => kind
                .api_version()
                .rsplit_once('/')
                .unwrap_or(("", kind.api_version())),
        };
        let api_version = if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        };
        ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version,
            kind: self.name().to_owned(),
            plural: self.plural().to_owned(),
        }
    }

    /// Whether its metadata are all that is needed.
    pub(super) const fn metadata_only(self) -> bool {
        matches!(self, Self::Definition | Self::Object(Kind::Namespace))
    }

    /// The name of the definition that a kind needs which no server has by itself.
    pub(super) fn definition(self) -> Option<String> {
        match self {
            Self::Object(
                kind @ (Kind::HttpRoute | Kind::GrpcRoute | Kind::TrafficPolicy | Kind::MeshTlsPolicy),
            ) => Some(format!("{}.{}", self.plural(), kind.group())),
            Self::Definition | Self::Object(_) => None,
        }
    }
}

/// The conditions that the kinds have to fulfil: each has been read once.
pub(crate) fn conditions() -> impl Iterator<Item = &'static str> {
    Watched::ALL.into_iter().map(Watched::plural)
}
