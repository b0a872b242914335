//! Names that both sides must spell alike.
//!
//! | resource | name |
//! |---|---|
//! | outbound listener, route table | the authority asked for: `<service>.<namespace>.svc.<domain>:<port>`, or `<ip>:<port>` |
//! | cluster, endpoints | `<service>.<namespace>.svc.<domain>:<port>` |
//! | a workload's own inbound listener | `inbound/<node id>` |
//! | trust bundle (a Secret) | `spiffe://<trust domain>` |
//! | hints | `hints/<node id>` |

/// Key of our typed extensions in `metadata.typed_filter_metadata`.
pub const METADATA_KEY: &str = "weft.dev";

/// A backend that names nothing: its share of the traffic is answered with 500. No such cluster is ever served.
pub const INVALID_BACKEND: &str = "weft.dev/invalid-backend";

/// The pattern of a `regex_rewrite` that replaces the whole path.
pub const FULL_PATH_PATTERN: &str = "^.*$";

/// `node.user_agent_name` of our own proxy.
pub const USER_AGENT: &str = "weft";

/// Prefix of the name of a workload's own inbound listener.
pub const INBOUND_PREFIX: &str = "inbound/";

/// Prefix of the name of a workload's hints.
pub const HINTS_PREFIX: &str = "hints/";

/// Name of the inbound listener of the workload `node_id` (`<namespace>/<name>`).
pub fn inbound(node_id: &str) -> String {
    format!("{INBOUND_PREFIX}{node_id}")
}

/// Name of the hints for the workload `node_id`.
pub fn hints(node_id: &str) -> String {
    format!("{HINTS_PREFIX}{node_id}")
}

/// Name of the Secret that holds the trust bundle of `trust_domain`.
pub fn trust_bundle(trust_domain: &str) -> String {
    format!("spiffe://{trust_domain}")
}
