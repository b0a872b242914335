//! Annotations and labels that the mesh reads, each name once.

/// Group of our own kinds.
pub const GROUP: &str = "weft.dev";

/// On an EndpointSlice: the service account that its endpoints run as, in the slice's namespace. For endpoints that
/// no Pod in the manifests stands behind; an endpoint with neither is not meshed and is dialled in plaintext.
pub const SERVICE_ACCOUNT: &str = "weft.dev/service-account";

/// Kubernetes' label on an EndpointSlice: the Service that it belongs to.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The account of a Pod that names none.
pub const DEFAULT_SERVICE_ACCOUNT: &str = "default";

/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";
