//! What the demo starts, and which edges must then have traffic.

use weft_shop::Service;

/// The namespace of everything.
pub(crate) const NAMESPACE: &str = weft_shop::manifests::NAMESPACE;

/// Replicas per service and version.
const REPLICAS: usize = 2;

/// The broker's port in the mesh.
pub(crate) const BROKER_AUTHORITY: &str = "broker:1883";

/// What a replica's application is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// One of the five services.
    Service(Service),
    /// The message broker.
    Broker,
    /// The load generator.
    Load,
}

/// One application with its sidecar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) role: Role,
    /// Unique: `user-1`, `product-v2-1`.
    pub(crate) name: String,
    /// `v1` or `v2`.
    pub(crate) version: &'static str,
}

impl Replica {
    /// The service it belongs to, which is also its service account.
    pub(crate) fn service(&self) -> &'static str {
        match self.role {
            Role::Service(service) => service.name(),
            Role::Broker => "broker",
            Role::Load => "load",
        }
    }

    /// Whether it speaks with the broker.
    pub(crate) fn uses_broker(&self) -> bool {
        matches!(self.role, Role::Service(service) if service.uses_broker())
    }

    /// `SERVICE:PORT` for each of its application's listeners, in their order.
    pub(crate) fn offers(&self) -> &'static [&'static str] {
        match self.role {
            Role::Service(Service::User) => &["user:80"],
            Role::Service(Service::Product) => &["product:80"],
            Role::Service(Service::Order) => &["order:80"],
            Role::Service(Service::Payment) => &["payment:80"],
            Role::Service(Service::Inventory) => &["inventory:80", "inventory:81"],
            Role::Broker => &["broker:1883"],
            Role::Load => &[],
        }
    }
}

/// The broker and the five services. The load generator comes last, when all of them are there.
pub(crate) fn replicas() -> Vec<Replica> {
    let mut all = vec![Replica {
        role: Role::Broker,
        name: "broker-1".into(),
        version: "v1",
    }];
    for service in Service::ALL {
        let versions: &[&str] = match service {
            Service::Product => &["v1", "v2"],
            _ => &["v1"],
        };
        for version in versions {
            for number in 1..=REPLICAS {
                let name = match service {
                    Service::Product => format!("product-{version}-{number}"),
                    _ => format!("{}-{number}", service.name()),
                };
                let role = Role::Service(service);
                all.push(Replica { role, name, version });
            }
        }
    }
    all
}

/// The load generator.
pub(crate) fn load() -> Replica {
    Replica {
        role: Role::Load,
        name: "load-1".into(),
        version: "v1",
    }
}

/// The edges that must have traffic: source, destination, protocol.
pub(crate) const EDGES: [(&str, &str, &str); 11] = [
    ("load", "inventory", "http1"),
    ("load", "order", "http1"),
    ("load", "product", "http1"),
    ("load", "user", "http1"),
    ("order", "broker", "tcp"),
    ("order", "inventory", "http1"),
    ("order", "payment", "http1"),
    ("order", "product", "http1"),
    ("order", "user", "http1"),
    ("product", "inventory", "grpc"),
    ("user", "broker", "tcp"),
];

/// The service behind a cluster's name: `product` for `product-v1.shop.svc.cluster.local:80`.
pub(crate) fn service_of(cluster: &str) -> &str {
    match cluster.split(['.', ':']).next().unwrap_or(cluster) {
        "product-v1" | "product-v2" => "product",
        service => service,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_edge_ends_at_something_that_is_started() {
        let all: Vec<Replica> = replicas().into_iter().chain([load()]).collect();
        let services: BTreeSet<&str> = all.iter().map(Replica::service).collect();
        for (source, destination, _) in EDGES {
            assert!(services.contains(source) && services.contains(destination));
        }
        let names: BTreeSet<&String> = all.iter().map(|replica| &replica.name).collect();
        assert_eq!(names.len(), all.len());
        assert_eq!(all.len(), 14);
    }

    #[test]
    fn subsets_belong_to_their_service() {
        assert_eq!(service_of("product-v2.shop.svc.cluster.local:80"), "product");
        assert_eq!(service_of("inventory.shop.svc.cluster.local:81"), "inventory");
        assert_eq!(service_of("user:80"), "user");
    }
}
