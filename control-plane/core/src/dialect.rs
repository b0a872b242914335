//! The kinds of client that the control plane speaks to. What a kind can't express is left out or said differently
//! by the shell's encoding; what it may read is a matter of its identity, never of its kind.

use std::fmt;

/// A kind of client, by `node.user_agent_name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dialect {
    /// Our own proxy: delta, explicit names, typed extensions.
    Weft,
    /// gRPC's own client: state of the world, names as asked, certificates by provider instance.
    Grpc,
    /// Envoy: wildcards for listeners and clusters, certificates by SDS.
    Envoy,
}

impl Dialect {
    /// The dialect of a client that calls itself `user_agent`: `weft`, `envoy`, or `gRPC` and anything behind it
    /// (`gRPC Go`, `gRPC C-core linux`). `None`: a client whose dialect is not known, and which is refused.
    pub fn from_user_agent(user_agent: &str) -> Option<Self> {
        match user_agent {
            "weft" => Some(Self::Weft),
            "envoy" => Some(Self::Envoy),
            _ => {
                let rest = user_agent.strip_prefix("gRPC")?;
                (rest.is_empty() || rest.starts_with(' ')).then_some(Self::Grpc)
            }
        }
    }

    /// Whether such a client may ask for "everything" (`*`, or a first request without names).
    pub const fn wildcard(self) -> bool {
        matches!(self, Self::Envoy)
    }

    /// The name in logs, admin answers and versions.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Weft => "weft",
            Self::Grpc => "grpc",
            Self::Envoy => "envoy",
        }
    }
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::Dialect;

    #[test]
    fn a_client_is_known_by_its_whole_first_word() {
        assert_eq!(Dialect::from_user_agent("weft"), Some(Dialect::Weft));
        assert_eq!(Dialect::from_user_agent("envoy"), Some(Dialect::Envoy));
        assert_eq!(Dialect::from_user_agent("gRPC"), Some(Dialect::Grpc));
        assert_eq!(
            Dialect::from_user_agent("gRPC C-core linux 1.85.0"),
            Some(Dialect::Grpc)
        );
        for other in [
            "",
            "weft2",
            "Envoy",
            "grpc",
            "gRPCurl",
            " gRPC",
            "go-control-plane",
        ] {
            assert_eq!(Dialect::from_user_agent(other), None, "{other:?}");
        }
    }
}
