//! The shop's manifests: the YAML that kubectl would take.

/// File name and text of each manifest.
pub const ALL: [(&str, &str); 4] = [
    ("namespace.yaml", include_str!("../manifests/namespace.yaml")),
    ("policies.yaml", include_str!("../manifests/policies.yaml")),
    ("routes.yaml", include_str!("../manifests/routes.yaml")),
    ("services.yaml", include_str!("../manifests/services.yaml")),
];

/// The namespace of everything in them.
pub const NAMESPACE: &str = "shop";
