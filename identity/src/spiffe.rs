//! SPIFFE ids, parsed strictly: `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
//!
//! Ids are compared as bytes, so there must be one spelling of each: no upper case, no percent encoding, no port, no
//! user, no query, no empty or dotted segment. What Kubernetes wouldn't take as the name of a namespace or of a
//! service account isn't one here either, which is stricter than the SPIFFE specification and leaves nothing to
//! normalise.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Longest id in bytes (SPIFFE ID specification, section 2.3).
pub const MAX_ID_BYTES: usize = 2048;
/// Longest trust domain in bytes (SPIFFE ID specification, section 2.3).
pub const MAX_TRUST_DOMAIN_BYTES: usize = 255;
/// Longest namespace in bytes (a DNS label, RFC 1123).
pub const MAX_NAMESPACE_BYTES: usize = 63;
/// Longest service account in bytes (a DNS name, RFC 1123).
pub const MAX_SERVICE_ACCOUNT_BYTES: usize = 253;

const SCHEME: &str = "spiffe://";

/// Why a text is no SPIFFE id of a workload.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SpiffeError {
    /// Longer than [`MAX_ID_BYTES`].
    #[error("the SPIFFE id is {0} bytes long, at most {MAX_ID_BYTES} are allowed")]
    TooLong(usize),
    /// Another scheme, or none.
    #[error("`{0}` does not begin with `spiffe://`, in lower case")]
    Scheme(String),
    /// The trust domain breaks the rules.
    #[error("`{0}` is no trust domain: 1 to {MAX_TRUST_DOMAIN_BYTES} of a-z, 0-9, `.`, `-` and `_`")]
    TrustDomain(String),
    /// The path isn't the one of a workload.
    #[error("`{0}` does not have the form spiffe://<trust domain>/ns/<namespace>/sa/<service account>")]
    Path(String),
    /// The namespace breaks the rules.
    #[error("`{0}` is no namespace: a DNS label of a-z, 0-9 and `-`, at most {MAX_NAMESPACE_BYTES} bytes")]
    Namespace(String),
    /// The service account breaks the rules.
    #[error(
        "`{0}` is no service account: DNS labels of a-z, 0-9 and `-` joined by `.`, at most \
         {MAX_SERVICE_ACCOUNT_BYTES} bytes"
    )]
    ServiceAccount(String),
}

/// The domain of one certificate authority: ids of different trust domains never mean the same workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// The domain as written, such as `cluster.local`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of a workload of this domain.
    pub fn workload(&self, namespace: &str, service_account: &str) -> Result<SpiffeId, SpiffeError> {
        SpiffeId::new(self, namespace, service_account)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > MAX_TRUST_DOMAIN_BYTES || !text.bytes().all(allowed) {
            return Err(SpiffeError::TrustDomain(printable(text)));
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeError;

    fn try_from(text: String) -> Result<Self, SpiffeError> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0.as_ref().to_owned()
    }
}

/// The identity of a workload. Cheap to clone.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    /// The whole id.
    text: Arc<str>,
    /// Where the trust domain ends in `text`.
    domain_end: usize,
    /// Where the namespace ends in `text`.
    namespace_end: usize,
}

const NAMESPACE_MARK: &str = "/ns/";
const ACCOUNT_MARK: &str = "/sa/";

impl SpiffeId {
    /// The id of the service account `service_account` in `namespace`.
    pub fn new(domain: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, SpiffeError> {
        if !is_label(namespace) {
            return Err(SpiffeError::Namespace(printable(namespace)));
        }
        if service_account.len() > MAX_SERVICE_ACCOUNT_BYTES || !service_account.split('.').all(is_label) {
            return Err(SpiffeError::ServiceAccount(printable(service_account)));
        }
        let domain_end = SCHEME.len() + domain.0.len();
        Ok(Self {
            text: format!("{SCHEME}{domain}{NAMESPACE_MARK}{namespace}{ACCOUNT_MARK}{service_account}")
                .into(),
            domain_end,
            namespace_end: domain_end + NAMESPACE_MARK.len() + namespace.len(),
        })
    }

    /// The whole id, as it stands in a certificate.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its trust domain.
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.domain_end]
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        &self.text[self.domain_end + NAMESPACE_MARK.len()..self.namespace_end]
    }

    /// Its service account.
    pub fn service_account(&self) -> &str {
        &self.text[self.namespace_end + ACCOUNT_MARK.len()..]
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeError;

    fn from_str(text: &str) -> Result<Self, SpiffeError> {
        if text.len() > MAX_ID_BYTES {
            return Err(SpiffeError::TooLong(text.len()));
        }
        let rest = text
            .strip_prefix(SCHEME)
            .ok_or_else(|| SpiffeError::Scheme(printable(text)))?;
        let mut parts = rest.split('/');
        let domain: TrustDomain = parts.next().unwrap_or_default().parse()?;
        match (
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
            parts.next(),
        ) {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Self::new(&domain, namespace, account)
            }
            _ => Err(SpiffeError::Path(printable(text))),
        }
    }
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeError;

    fn try_from(text: String) -> Result<Self, SpiffeError> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.text.as_ref().to_owned()
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

/// A DNS label (RFC 1123), lower case.
fn is_label(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=MAX_NAMESPACE_BYTES).contains(&text.len())
        && text.bytes().all(allowed)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// What a refused text looks like in a message: bounded, and without control characters.
fn printable(text: &str) -> String {
    const MAX_SHOWN_CHARS: usize = 128;
    text.chars()
        .take(MAX_SHOWN_CHARS)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_read_back() {
        let id: SpiffeId = "spiffe://cluster.local/ns/shop/sa/user.api".parse().unwrap();
        assert_eq!(id.trust_domain(), "cluster.local");
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.service_account(), "user.api");
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/user.api");
    }

    #[test]
    fn every_other_spelling_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe:///ns/shop/sa/user",
            "SPIFFE://cluster.local/ns/shop/sa/user",
            "https://cluster.local/ns/shop/sa/user",
            "spiffe://Cluster.local/ns/shop/sa/user",
            "spiffe://cluster.local:443/ns/shop/sa/user",
            "spiffe://u@cluster.local/ns/shop/sa/user",
            "spiffe://cluster%2elocal/ns/shop/sa/user",
            "spiffe://cluster.local",
            "spiffe://cluster.local/",
            "spiffe://cluster.local/ns/shop",
            "spiffe://cluster.local/ns/shop/sa/",
            "spiffe://cluster.local/ns//sa/user",
            "spiffe://cluster.local/ns/shop/sa/user/",
            "spiffe://cluster.local/ns/shop/sa/user/x",
            "spiffe://cluster.local/ns/shop/sa/user?x=1",
            "spiffe://cluster.local/ns/shop/sa/user#x",
            "spiffe://cluster.local/sa/shop/ns/user",
            "spiffe://cluster.local/ns/../sa/user",
            "spiffe://cluster.local/ns/shop/sa/.",
            "spiffe://cluster.local/ns/shop/sa/us%65r",
            "spiffe://cluster.local/ns/Shop/sa/user",
            "spiffe://cluster.local/ns/shop/sa/-user",
            "spiffe://cluster.local/ns/sh.op/sa/user",
            "spiffe://cluster.local/ns/shop/sa/user\0",
            "spiffe://cluster.local/ns/shop/sa/us\u{0435}r",
            " spiffe://cluster.local/ns/shop/sa/user",
        ] {
            assert!(text.parse::<SpiffeId>().is_err(), "{text:?} was accepted");
        }
        let long = format!("spiffe://cluster.local/ns/shop/sa/{}", "a.".repeat(1100));
        assert_eq!(long.parse::<SpiffeId>(), Err(SpiffeError::TooLong(long.len())));
    }

    #[test]
    fn serde_goes_through_the_parser() {
        let id: SpiffeId = serde_json::from_str("\"spiffe://td/ns/a/sa/b\"").unwrap();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"spiffe://td/ns/a/sa/b\"");
        assert!(serde_json::from_str::<SpiffeId>("\"spiffe://TD/ns/a/sa/b\"").is_err());
    }

    #[test]
    fn refused_text_is_shown_escaped() {
        let error = "\u{1b}[31m".parse::<SpiffeId>().unwrap_err().to_string();
        assert!(!error.contains('\u{1b}'), "{error:?}");
    }

    proptest! {
        #[test]
        fn parsing_is_the_inverse_of_display(
            td in "[a-z0-9._-]{1,40}", ns in "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", sa in "[a-z0-9]{1,9}(\\.[a-z0-9]{1,9}){0,3}"
        ) {
            let id = td.parse::<TrustDomain>().unwrap().workload(&ns, &sa).unwrap();
            let again: SpiffeId = id.as_str().parse().unwrap();
            prop_assert_eq!(again.namespace(), ns.as_str());
            prop_assert_eq!(again.service_account(), sa.as_str());
            prop_assert_eq!(again.trust_domain(), td.as_str());
            prop_assert_eq!(again, id);
        }

        #[test]
        fn what_parses_has_one_spelling(text in "(spiffe://)?[a-zA-Z0-9/._%:@-]{0,40}(/ns/[a-zA-Z.]{0,4}/sa/[a-z.]{0,4})?") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert_eq!(id.as_str(), text.as_str());
                prop_assert_eq!(text.to_ascii_lowercase(), text);
            }
        }
    }
}
