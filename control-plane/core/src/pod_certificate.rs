//! Whether the cluster's signer requests (`PodCertificateRequest`) are answered, and how: there the kubelet makes a key
//! and asks, for a pod that mounts a certificate, and the leaf says what every leaf of the mesh says.
//!
//! A kubelet's words have been checked by the API server: its node, the pod, the account, and that it has the key. Who
//! else may make such requests is not checked there, so [`screen`] holds each against the pod that it names. Then it is
//! admitted and decided like every other request ([`crate::issue`]), within the [`Bounds`] that the API server sets.

use std::time::Duration;

use thiserror::Error;

use crate::issue::{Bounds, LeafSpec, UnixTime};
use crate::resource::Name;
use crate::rights::Account;

/// Whose requests are ours. The trust bundle is published under the same name.
pub const SIGNER: &str = "weft.dev/mesh";

/// The shortest certificate that the API server takes.
pub const SPAN_MIN: Duration = Duration::from_hours(1);

/// How far a leaf's validity begins before its issue: the API server allows less than five minutes.
pub const BACKDATE: Duration = Duration::from_mins(2);

/// A pod, as a request names it, and as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its unique id.
    pub uid: Name,
    /// Whose rights it has.
    pub account: Name,
    /// Where it runs.
    pub node: Name,
}

/// What matters of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who is to sign.
    pub signer: String,
    /// The namespace of the pod, and of the request.
    pub namespace: Name,
    /// The name of the pod.
    pub name: Name,
    /// The pod.
    pub pod: Pod,
    /// How long the certificate may last at most.
    pub span_max: Duration,
    /// The keys of what the pod's author has to say to the signer.
    pub annotations: Vec<String>,
    /// The request proper (PKCS#10, DER).
    pub csr: Vec<u8>,
    /// Whether it has been answered.
    pub answered: bool,
}

/// Why a request is denied.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Denial {
    /// Words that no signer of ours knows.
    #[error("this signer takes no userAnnotations, and {0:?} is one; remove it from the volume")]
    Annotation(String),
    /// Only the older form of a request.
    #[error("the request has no stubPKCS10Request; it takes kubelets of Kubernetes 1.36 or newer")]
    Form,
    /// A key that isn't certified.
    #[error("{0}; use keyType ECDSAP256 or ECDSAP384")]
    Key(String),
    /// The control plane's own account: whoever had its identity could speak for it to every proxy.
    #[error(
        "{0} is the control plane's own account, and nobody else is given its identity; use another service account"
    )]
    Own(Account),
    /// No such pod.
    #[error("no pod {name} with uid {uid} is on node {node} with service account {account}")]
    Pod {
        /// Its name.
        name: Name,
        /// Its unique id.
        uid: Name,
        /// Its node.
        node: Name,
        /// Its account.
        account: Name,
    },
}

impl Denial {
    /// The reason in one word for programs; those of annotations and of a key are the cluster's own.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Annotation(_) => "InvalidUnverifiedUserAnnotations",
            Self::Form => "UnsupportedRequest",
            Self::Key(_) => "UnsupportedKeyType",
            Self::Own(_) => "AccountReserved",
            Self::Pod { .. } => "PodMismatch",
        }
    }
}

impl Request {
    /// Whether it waits for us.
    pub fn is_open(&self) -> bool {
        self.signer == SIGNER && !self.answered
    }

    /// The identity that it is for.
    pub fn account(&self) -> Account {
        Account {
            namespace: self.namespace.clone(),
            name: self.pod.account.clone(),
        }
    }

    /// What the API server demands of a certificate for it. [`SPAN_MIN`] holds of every request that is there.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            backdate: BACKDATE,
            span_min: SPAN_MIN,
            span_max: self.span_max,
        }
    }
}

/// Holds a request against the pod that has the name it gives; none is granted for `own`, the control plane's account.
pub fn screen(request: &Request, pod: Option<&Pod>, own: &Account) -> Result<(), Denial> {
    if request.account() == *own {
        return Err(Denial::Own(request.account()));
    }
    if let Some(key) = request.annotations.first() {
        return Err(Denial::Annotation(key.clone()));
    }
    if request.csr.is_empty() {
        return Err(Denial::Form);
    }
    if pod != Some(&request.pod) {
        return Err(Denial::Pod {
            name: request.name.clone(),
            uid: request.pod.uid.clone(),
            node: request.pod.node.clone(),
            account: request.pod.account.clone(),
        });
    }
    Ok(())
}

/// When the kubelet should ask again: at half of the leaf's life, as every sidecar does.
pub fn begin_refresh(leaf: &LeafSpec) -> UnixTime {
    let span = leaf.not_after.0.saturating_sub(leaf.not_before.0);
    UnixTime(leaf.not_before.0.saturating_add(span / 2))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::issue::{Issuer, LIFETIME_MAX, PublicKey, Refusal};

    /// How far the API server wants a refresh from both ends.
    const REFRESH_MARGIN: u64 = 600;

    fn request() -> Request {
        Request {
            signer: SIGNER.to_owned(),
            namespace: "shop".into(),
            name: "order-1".into(),
            pod: Pod {
                uid: "u".into(),
                account: "order".into(),
                node: "n".into(),
            },
            span_max: Duration::from_hours(24),
            annotations: Vec::new(),
            csr: vec![1],
            answered: false,
        }
    }

    fn own() -> Account {
        Account::new("weft-system", "weft-control-plane")
    }

    #[test]
    fn nobody_is_given_the_control_planes_own_identity() {
        let pod = request().pod;
        let denied = screen(&request(), Some(&pod), &request().account()).unwrap_err();
        assert_eq!(denied.reason(), "AccountReserved");
        assert!(denied.to_string().contains("another service account"), "{denied}");
    }

    #[test]
    fn only_ours_and_only_once() {
        assert!(request().is_open());
        for signer in ["weft.dev/mesh2", "kubernetes.io/kube-apiserver-client-pod", ""] {
            let other = Request {
                signer: signer.to_owned(),
                ..request()
            };
            assert!(!other.is_open(), "{signer}");
        }
        let answered = Request {
            answered: true,
            ..request()
        };
        assert!(!answered.is_open());
    }

    #[test]
    fn a_request_is_for_the_pod_that_there_is() {
        let pod = request().pod;
        assert_eq!(screen(&request(), Some(&pod), &own()), Ok(()));
        let others = [
            Pod {
                uid: "another".into(),
                ..pod.clone()
            },
            Pod {
                account: "bank".into(),
                ..pod.clone()
            },
            Pod {
                node: "elsewhere".into(),
                ..pod.clone()
            },
        ];
        for other in others.iter().map(Some).chain([None]) {
            let denied = screen(&request(), other, &own()).unwrap_err();
            assert_eq!(denied.reason(), "PodMismatch", "{other:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_denied_by_name() {
        let pod = request().pod;
        let annotated = Request {
            annotations: vec!["example.com/san".to_owned()],
            ..request()
        };
        let denied = screen(&annotated, Some(&pod), &own()).unwrap_err();
        assert_eq!(denied.reason(), "InvalidUnverifiedUserAnnotations");
        assert!(denied.to_string().contains("example.com/san"), "{denied}");
        let old = Request {
            csr: Vec::new(),
            ..request()
        };
        assert_eq!(screen(&old, Some(&pod), &own()), Err(Denial::Form));
    }

    proptest! {
        /// Whatever is configured and asked for, what is issued is what the API server takes, and no leaf lives longer
        /// from now than any other of the mesh: the exchange of a root waits for no longer.
        #[test]
        fn every_leaf_is_taken_by_the_api_server(
            lifetime in SPAN_MIN.as_secs()..=LIFETIME_MAX.as_secs(),
            span_max in SPAN_MIN.as_secs()..=91 * 24 * 3_600,
            root in 0..30 * 24 * 3_600_u64,
        ) {
            let now = UnixTime(1_800_000_000);
            let request = Request { span_max: Duration::from_secs(span_max), ..request() };
            let mut issuer = Issuer::new(Duration::from_secs(lifetime), UnixTime(now.0 + root));
            let admitted = issuer.admit(request.account(), now).unwrap();
            match issuer.leaf(admitted, PublicKey::EcP256, request.bounds(), now) {
                Ok(leaf) => {
                    let span = leaf.not_after.0 - leaf.not_before.0;
                    prop_assert!(now.0 - leaf.not_before.0 < 300);
                    prop_assert!(span >= SPAN_MIN.as_secs() && span <= span_max);
                    prop_assert!(leaf.not_after.0 <= now.0 + lifetime.min(root));
                    let refresh = begin_refresh(&leaf).0;
                    prop_assert!(refresh >= leaf.not_before.0 + REFRESH_MARGIN);
                    prop_assert!(refresh <= leaf.not_after.0 - REFRESH_MARGIN);
                    prop_assert_eq!(leaf.account, Account::new("shop", "order"));
                }
                Err(refusal) => {
                    prop_assert_eq!(refusal, Refusal::RootExpired);
                    prop_assert!(root < SPAN_MIN.as_secs());
                }
            }
        }
    }
}
