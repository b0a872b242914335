//! Who a stream speaks for, and what it may read.
//!
//! The identity comes from the verified client certificate; everything the client says about itself is checked
//! against it. A client reads outbound resources as its namespace sees them, its own inbound listener, its own hints
//! and the trust bundle. All else is refused, and the stream with it: a client of ours never asks for more, so whoever
//! does is either misconfigured or not what it says. Within one account node ids may be exchanged: the account is the
//! identity.

use std::fmt;

use thiserror::Error;

use crate::dialect::Dialect;
use crate::names::{HINTS_PREFIX, INBOUND_PREFIX, Settings};
use crate::resource::{Kind, Name};
use crate::world::ObjectName;

/// A service account: what an identity names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    /// Its namespace.
    pub namespace: Name,
    /// Its name within.
    pub name: Name,
}

impl Account {
    /// From its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/sa/{}", self.namespace, self.name)
    }
}

/// What a node id names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// `<namespace>/<name>`: a Pod, or a workload that registered.
    Workload(ObjectName),
    /// `<namespace>/sa/<account>`: a client without inbound.
    Account(Account),
}

impl Node {
    /// Reads a node id. `None`: it has neither of the two forms.
    pub fn parse(id: &str) -> Option<Self> {
        let parts: Vec<&str> = id.split('/').collect();
        if !parts.iter().all(|part| is_part(part)) {
            return None;
        }
        match parts[..] {
            [namespace, name] => Some(Self::Workload(ObjectName::new(namespace, name))),
            [namespace, "sa", account] => Some(Self::Account(Account::new(namespace, account))),
            _ => None,
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name) => name.fmt(f),
            Self::Account(account) => account.fmt(f),
        }
    }
}

/// Bytes of one part of a node id: Kubernetes' longest name.
const PART_BYTES_MAX: usize = 253;

/// Whether `part` can be the name of an object (RFC 1123: lower case, digits, `-` and `.`).
pub(crate) fn is_part(part: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'.';
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte != b'-' && byte != b'.');
    let mut bytes = part.bytes();
    part.len() <= PART_BYTES_MAX && part.bytes().all(inner) && edge(bytes.next()) && edge(part.bytes().last())
}

/// A stream's client, admitted: only [`Client::admit`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    account: Account,
    node: Node,
    dialect: Dialect,
}

/// Why a client, or a request of it, is refused.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No such form.
    #[error(
        "node id {0:?} is neither `<namespace>/<workload>` nor `<namespace>/sa/<service account>`; check the client's \
         --namespace and --workload, or the `node.id` of its bootstrap"
    )]
    NodeId(String),
    /// A client of a kind we don't know.
    #[error("{0:?} is no client we speak to; `node.user_agent_name` has to be `weft`, `envoy` or `gRPC …`")]
    UserAgent(String),
    /// Another account's node id.
    #[error(
        "{account} may not speak for {node}, which belongs to {owner}; its token is for another service account"
    )]
    Foreign {
        /// Who it is.
        account: Account,
        /// Whom it claims to be.
        node: Node,
        /// Whose that is.
        owner: Account,
    },
    /// Nobody's node id.
    #[error(
        "{node} is no workload that {account} could be: no Pod of that name is known and none registered; register \
         it, or use the node id `{account}`"
    )]
    Unknown {
        /// Who it is.
        account: Account,
        /// Whom it claims to be.
        node: Node,
    },
    /// Someone else's resource.
    #[error("{node} may not read {kind:?} {name:?}: it is not its own")]
    Resource {
        /// Who asks.
        node: Node,
        /// The type.
        kind: Kind,
        /// For what.
        name: Name,
    },
    /// The node changed on a stream.
    #[error("the stream began as {before} and goes on as {after:?}; one stream is one node")]
    Changed {
        /// At first.
        before: Node,
        /// Now.
        after: String,
    },
}

impl Client {
    /// Admits a client with the identity `account` that calls itself `node` and `user_agent`; `owner`: the account of
    /// the workload that `node` names, if there is such a workload.
    pub fn admit(
        account: Account,
        node: Node,
        user_agent: &str,
        owner: Option<&Account>,
    ) -> Result<Self, Refusal> {
        let dialect =
            Dialect::from_user_agent(user_agent).ok_or_else(|| Refusal::UserAgent(excerpt(user_agent)))?;
        let owner = match &node {
            Node::Account(claimed) => Some(claimed),
            Node::Workload(_) => owner,
        };
        match owner {
            Some(owner) if *owner == account => Ok(Self {
                account,
                node,
                dialect,
            }),
            Some(owner) => Err(Refusal::Foreign {
                account,
                owner: owner.clone(),
                node,
            }),
            None => Err(Refusal::Unknown { account, node }),
        }
    }

    /// Checks the node id of a later request on the stream; empty: not said again.
    pub fn check_node(&self, id: &str) -> Result<(), Refusal> {
        if id.is_empty() || id == self.node.to_string() {
            return Ok(());
        }
        Err(Refusal::Changed {
            before: self.node.clone(),
            after: excerpt(id),
        })
    }

    /// Whether it may read the resource of this type and name (not `*`, which stands for what its namespace may see).
    pub fn check_read(&self, kind: Kind, name: &Name, settings: &Settings) -> Result<(), Refusal> {
        let own = |prefix: &str| {
            name.strip_prefix(prefix)
                .is_some_and(|id| id == self.node.to_string())
        };
        let allowed = match kind {
            Kind::Listener if name.starts_with(INBOUND_PREFIX) => own(INBOUND_PREFIX),
            Kind::Listener | Kind::Route | Kind::Cluster | Kind::Endpoints => true,
            Kind::Secret => *name == settings.trust_bundle(),
            Kind::Hints => own(HINTS_PREFIX),
        };
        if allowed {
            return Ok(());
        }
        Err(Refusal::Resource {
            node: self.node.clone(),
            kind,
            name: name.clone(),
        })
    }

    /// Its identity. Views follow its namespace.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// What it calls itself.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// How it is spoken to.
    pub fn dialect(&self) -> Dialect {
        self.dialect
    }
}

/// Bytes of a client's words that go into an error.
const EXCERPT_BYTES_MAX: usize = 128;

/// The beginning of what a client said.
fn excerpt(text: &str) -> String {
    text[..text.floor_char_boundary(EXCERPT_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn settings() -> Settings {
        Settings {
            trust_domain: "mesh.test".into(),
            cluster_domain: "cluster.local".into(),
        }
    }

    fn client(account: &str, node: &str) -> Result<Client, Refusal> {
        let owner = Account::new("shop", "order");
        let owner = (node == "shop/order-1").then_some(&owner);
        let node = Node::parse(node).ok_or_else(|| Refusal::NodeId(node.into()))?;
        Client::admit(Account::new("shop", account), node, "weft", owner)
    }

    #[test]
    fn a_node_id_is_for_its_own_account() {
        assert!(client("order", "shop/order-1").is_ok());
        assert!(client("order", "shop/sa/order").is_ok());
        assert!(matches!(
            client("user", "shop/order-1"),
            Err(Refusal::Foreign { .. })
        ));
        assert!(matches!(
            client("user", "shop/sa/order"),
            Err(Refusal::Foreign { .. })
        ));
        assert!(matches!(
            client("order", "other/sa/order"),
            Err(Refusal::Foreign { .. })
        ));
        assert!(matches!(
            client("order", "shop/order-2"),
            Err(Refusal::Unknown { .. })
        ));
        let stranger = Client::admit(
            Account::new("a", "b"),
            Node::Account(Account::new("a", "b")),
            "curl",
            None,
        );
        assert_eq!(stranger, Err(Refusal::UserAgent("curl".into())));
    }

    #[test]
    fn only_two_forms_are_node_ids() {
        for id in [
            "", "/", "a", "a/", "/a", "a/b/c", "a/sa/", "a/sa/b/c", "a/../b", "A/b", "a/b c", "a/-b", "a/b\n",
        ] {
            assert_eq!(Node::parse(id), None, "{id:?}");
        }
        assert_eq!(
            Node::parse("a/sa"),
            Some(Node::Workload(ObjectName::new("a", "sa")))
        );
    }

    #[test]
    fn a_stream_is_one_node() {
        let client = client("order", "shop/order-1").unwrap();
        assert!(client.check_node("").is_ok() && client.check_node("shop/order-1").is_ok());
        assert!(client.check_node("shop/sa/order").is_err());
    }

    const NODES: [&str; 4] = ["shop/order-1", "shop/sa/order", "shop/order-10", "other/order-1"];

    proptest! {
        /// Every cell of the matrix of clients and resources, against the rule spelled out name by name.
        #[test]
        fn a_client_reads_its_own(
            node in prop::sample::select(vec!["shop/order-1", "shop/sa/order"]),
            about in prop::sample::select(NODES.to_vec()),
            kind in prop::sample::select(crate::stream::KINDS.to_vec()),
            form in 0_u8..4,
        ) {
            let name: String = match form {
                0 => format!("inbound/{about}"),
                1 => format!("hints/{about}"),
                2 => "spiffe://mesh.test".into(),
                _ => "spiffe://other.test".into(),
            };
            let expected = match (kind, form) {
                (Kind::Listener, 0) | (Kind::Hints, 1) => about == node,
                (Kind::Secret, 2) => true,
                (Kind::Secret | Kind::Hints, _) => false,
                _ => true,
            };
            let client = client("order", node).unwrap();
            let checked = client.check_read(kind, &name.as_str().into(), &settings());
            prop_assert_eq!(checked.is_ok(), expected);
        }
    }
}
