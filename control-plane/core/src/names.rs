//! Names of resources and identities: how they are spelt, and what a client may mean by one.
//!
//! | resource | name |
//! |---|---|
//! | outbound listener, route table, cluster, endpoints | `<service>.<namespace>.svc.<domain>:<port>`, or `<ip>:<port>` |
//! | a workload's own listener | `inbound/<node id>` |
//! | the trust bundle | `spiffe://<trust domain>` |
//! | hints | `hints/<node id>` |
//! | Envoy's one listener and its route table | [`WILDCARD`] |

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use crate::resource::Name;
use crate::world::ObjectName;

/// Name of the listener, and of the route table, that hold everything a namespace may see. No authority has a `/`.
pub const WILDCARD: &str = "weft.dev/outbound";

/// Prefix of the name of a workload's own listener.
pub const INBOUND_PREFIX: &str = "inbound/";

/// Prefix of the name of a workload's hints.
pub const HINTS_PREFIX: &str = "hints/";

/// The port of an authority that names none.
const DEFAULT_PORT: u16 = 80;

/// Longest name of a host (RFC 1035).
const HOST_BYTES_MAX: usize = 253;

/// Longest label of a host (RFC 1035).
const LABEL_BYTES_MAX: usize = 63;

/// The two domains of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Of identities: `spiffe://<trust domain>/…`.
    pub trust_domain: Name,
    /// Of Services: `<service>.<namespace>.svc.<cluster domain>`.
    pub cluster_domain: Name,
}

impl Settings {
    /// The SPIFFE id of a service account.
    pub fn identity(&self, namespace: &str, account: &str) -> Name {
        format!("spiffe://{}/ns/{namespace}/sa/{account}", self.trust_domain).into()
    }

    /// The name of the trust bundle.
    pub fn trust_bundle(&self) -> Name {
        format!("spiffe://{}", self.trust_domain).into()
    }

    /// The name of a Service's port.
    pub fn service(&self, service: &ObjectName, port: u16) -> Name {
        format!("{}:{port}", self.host(service)).into()
    }

    /// The full name of a Service's host.
    pub fn host(&self, service: &ObjectName) -> String {
        format!(
            "{}.{}.svc.{}",
            service.name, service.namespace, self.cluster_domain
        )
    }

    /// What a client of `namespace` means by `text`: `user`, `user.shop`, `user.shop.svc`,
    /// `user.shop.svc.<domain>`, each with a port or without (80), or an address with a port. `None`: nothing that
    /// can be part of the mesh.
    pub fn authority(&self, text: &str, namespace: &str) -> Option<Authority> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Authority::Address(canonical(address)));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
            None => (text, DEFAULT_PORT),
        };
        if let Ok(ip) = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .parse::<IpAddr>()
        {
            return Some(Authority::Address(canonical(SocketAddr::new(ip, port))));
        }
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let short = host
            .strip_suffix(&format!(".svc.{}", self.cluster_domain))
            .or(host.strip_suffix(".svc"));
        let (name, within) = match short.unwrap_or(&host).split_once('.') {
            Some((name, within)) => (name, within),
            None if short.is_none() => (host.as_str(), namespace),
            None => return None,
        };
        let valid = host.len() <= HOST_BYTES_MAX && is_label(name) && is_label(within);
        valid.then(|| Authority::Service(ObjectName::new(within, name), port))
    }
}

/// An IPv4 address that came in an IPv6 coat is one and the same.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether `text` can be the name of a Service or a namespace.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty()
        && text.len() <= LABEL_BYTES_MAX
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// What an authority names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Authority {
    /// A port of a Service, whether it exists or not.
    Service(ObjectName, u16),
    /// An address, as captured connections have it.
    Address(SocketAddr),
}

impl Authority {
    /// Its one spelling.
    pub fn name(&self, settings: &Settings) -> Name {
        match self {
            Self::Service(service, port) => settings.service(service, *port),
            Self::Address(address) => address_name(*address),
        }
    }
}

/// The name of an address.
pub fn address_name(address: SocketAddr) -> Name {
    Name::from(address.to_string())
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "trust domain {}, cluster domain {}",
            self.trust_domain, self.cluster_domain
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            trust_domain: "cluster.local".into(),
            cluster_domain: "cluster.local".into(),
        }
    }

    #[test]
    fn every_way_to_name_a_service_is_one_name() {
        for text in [
            "user",
            "user:80",
            "USER.shop",
            "user.shop:80",
            "user.shop.svc",
            "user.shop.svc:80",
            "user.shop.svc.cluster.local",
            "user.shop.svc.cluster.local.:80",
        ] {
            let authority = settings().authority(text, "shop").unwrap();
            assert_eq!(
                &*authority.name(&settings()),
                "user.shop.svc.cluster.local:80",
                "{text}"
            );
        }
    }

    #[test]
    fn a_short_name_is_in_the_namespace_of_who_asks() {
        let authority = settings().authority("user:8080", "other").unwrap();
        assert_eq!(&*authority.name(&settings()), "user.other.svc.cluster.local:8080");
    }

    #[test]
    fn an_address_has_one_spelling() {
        for (text, expected) in [
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("10.0.0.1", "10.0.0.1:80"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("[fd00:0::1]:443", "[fd00::1]:443"),
        ] {
            assert_eq!(
                &*settings().authority(text, "shop").unwrap().name(&settings()),
                expected
            );
        }
    }

    #[test]
    fn what_no_service_can_be_called_is_no_authority() {
        for text in [
            "",
            ":80",
            "user:",
            "user:0",
            "user:65536",
            "user:x",
            "a.b.c",
            "a..svc",
            ".svc",
            "a b",
            "-a",
            "a/b:80",
            "svc.cluster.local:80x",
        ] {
            assert_eq!(settings().authority(text, "shop"), None, "{text:?}");
        }
    }

    #[test]
    fn the_name_of_an_authority_names_it_again() {
        for text in ["user", "user.other:81", "10.0.0.1:9", "[fd00::1]:443"] {
            let authority = settings().authority(text, "shop").unwrap();
            assert_eq!(
                settings().authority(&authority.name(&settings()), "elsewhere"),
                Some(authority)
            );
        }
    }
}
