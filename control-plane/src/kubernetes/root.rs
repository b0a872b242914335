//! The root in a cluster: Secret `weft-ca` of the control plane's namespace, in the form that cert-manager writes.
//!
//! `tls.crt` is the authority that signs, followed by what leads to its root; `tls.key` its key; `ca.crt` the roots to
//! trust. Where nothing is supplied the first replica makes one; of two that race, the API server takes one, and both
//! use that. What is there is never replaced by a new root. A Secret that can't be used is told and waited for: the
//! control plane isn't ready until it is mended.

use std::collections::BTreeMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{ListParams, ObjectMeta, PostParams};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use thiserror::Error;
use tokio::sync::watch;
use weft_control_plane_core::rotation::MARGIN;
use weft_identity::bundle::{BundleError, TrustBundle, fingerprint};
use weft_identity::spiffe::TrustDomain;

use super::replicas::Known;
use super::trust::{CONFIG_MAP, KEY as BUNDLE_KEY};
use super::{Cluster, labels};
use crate::ca::{CaError, CertificateAuthority, Material, Origin, make_root};
use crate::certificates::Issuing;
use crate::publish::Publisher;
use crate::replica::own_roots;

/// Name of the Secret.
pub const SECRET: &str = "weft-ca";

/// Its type.
const TYPE: &str = "kubernetes.io/tls";

/// The annotation that names the root that we made: as long as it signs, it is ours to exchange.
pub(super) const MADE: &str = "weft.dev/root";

/// Key of the signing certificate, with what leads to its root.
pub(super) const CERTIFICATE: &str = "tls.crt";

/// Key of the private key.
pub(super) const KEY: &str = "tls.key";

/// Key of the roots.
pub(super) const ROOTS: &str = "ca.crt";

/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(2);

/// The Secret can't be used, yet.
#[derive(Debug, Error)]
pub enum RootError {
    /// The API server.
    #[error("Secret {SECRET} can't be read or made: {0}; check the control plane's Role")]
    Api(#[from] kube::Error),
    /// Something is missing in it.
    #[error(
        "Secret {SECRET} has no {0}; it needs {CERTIFICATE}, {KEY} and {ROOTS}, as cert-manager writes them"
    )]
    Incomplete(&'static str),
    /// What is in it.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// It is to be supplied, and isn't there.
    #[error("Secret {SECRET} is not there, and --supplied-root says that somebody else makes it")]
    Absent,
}

/// Reads the root, or makes it unless it is supplied; waits until that succeeds.
pub async fn open(cluster: &Cluster, trust_domain: &TrustDomain) -> CertificateAuthority {
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let mut told = String::new();
    loop {
        let error = match read_or_make(cluster, &secrets, trust_domain).await {
            Ok(authority) => return authority,
            Err(error) => error.to_string(),
        };
        if error != told {
            tracing::error!(
                error,
                "there is no root yet, and nobody is answered; it is tried again"
            );
            told = error;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn read_or_make(
    cluster: &Cluster,
    secrets: &Api<Secret>,
    trust_domain: &TrustDomain,
) -> Result<CertificateAuthority, RootError> {
    if let Some(secret) = secrets.get_opt(SECRET).await? {
        return authority(&secret, trust_domain);
    }
    if cluster.supplied_root {
        return Err(RootError::Absent);
    }
    let made = new_secret(cluster.owner_reference().await, trust_domain)?;
    match secrets.create(&PostParams::default(), &made).await {
        Ok(secret) => {
            tracing::info!("root made in Secret {SECRET}");
            authority(&secret, trust_domain)
        }
        // Another replica was first.
        Err(kube::Error::Api(status)) if status.is_already_exists() => {
            authority(&secrets.get(SECRET).await?, trust_domain)
        }
        Err(error) => Err(error.into()),
    }
}

/// The authority that a Secret describes.
pub fn authority(secret: &Secret, trust_domain: &TrustDomain) -> Result<CertificateAuthority, RootError> {
    let origin = |key: &str| format!("Secret {SECRET} ({key})");
    let material = Material {
        certificate: value(secret, CERTIFICATE)?,
        key: value(secret, KEY)?,
        roots: Some(value(secret, ROOTS)?),
        origin: Origin {
            certificate: &origin(CERTIFICATE),
            key: &origin(KEY),
            roots: &origin(ROOTS),
        },
    };
    Ok(CertificateAuthority::new(&material, trust_domain)?)
}

fn value<'a>(secret: &'a Secret, key: &'static str) -> Result<&'a [u8], RootError> {
    let value = secret.data.as_ref().and_then(|data| data.get(key));
    let value = value.filter(|value| !value.0.is_empty());
    value
        .map(|value| value.0.as_slice())
        .ok_or(RootError::Incomplete(key))
}

fn new_secret(owner: Option<OwnerReference>, trust_domain: &TrustDomain) -> Result<Secret, RootError> {
    let root = make_root(trust_domain)?;
    let certificate = ByteString(root.certificate.into_bytes());
    let fingerprint = fingerprint_of(&certificate.0).unwrap_or_default();
    let data = [
        (CERTIFICATE.to_owned(), certificate.clone()),
        (ROOTS.to_owned(), certificate),
        (KEY.to_owned(), ByteString(root.key.into_bytes())),
    ];
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            labels: Some(labels()),
            annotations: Some(BTreeMap::from([(MADE.to_owned(), fingerprint)])),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(data.into()),
        ..Secret::default()
    })
}

/// Names the first certificate of a PEM file.
pub(super) fn fingerprint_of(pem: &[u8]) -> Option<String> {
    let certificate = CertificateDer::from_pem_slice(pem).ok()?;
    Some(fingerprint(&certificate))
}

/// Whether the authority in a Secret was made here, and isn't somebody else's who took the Secret over.
pub(super) fn is_ours(secret: &Secret) -> bool {
    let made = secret.metadata.annotations.as_ref().and_then(|all| all.get(MADE));
    let signs = value(secret, CERTIFICATE).ok().and_then(fingerprint_of);
    signs.is_some() && made == signs.as_ref()
}

/// The Secret as it is.
pub type Seen = watch::Receiver<Option<Arc<Secret>>>;

/// How long a supplied authority waits for the proxies to confirm its root. Then it signs: the old one may not be valid
/// much longer.
const TAKEOVER_MAX: Duration = Duration::from_mins(10);

/// Follows the Secret: what it says is what signs and what is trusted.
///
/// Our own exchange of roots goes step by step, and each step is followed as it is written. A supplied authority is
/// replaced in one go by somebody who doesn't know the mesh; then its root is published beside those in force, it signs
/// once the proxies have confirmed, and the former roots stay until the last leaf under them has expired.
pub struct Follower {
    /// The cluster.
    pub cluster: Cluster,
    /// What signs and is trusted.
    pub issuing: Arc<Issuing>,
    /// Knows how far the own proxies are.
    pub publisher: Publisher,
    /// Know how far theirs are.
    pub others: Known,
    /// How long leaves live.
    pub leaf_lifetime: Duration,
}

impl Follower {
    /// The Secret as it is seen, and the task that follows it, for ever.
    pub fn follow(self) -> (Seen, impl Future<Output = ()> + Send) {
        let (sender, seen) = watch::channel(None);
        (seen, self.run(sender))
    }

    async fn run(self, seen: watch::Sender<Option<Arc<Secret>>>) {
        let secrets: Api<Secret> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        let named = watcher::Config::default().fields(&format!("metadata.name={SECRET}"));
        let mut events = pin!(watcher(secrets, named).default_backoff());
        let (mut retiring, mut begun) = (never(), false);
        loop {
            let secret = tokio::select! {
                event = events.next() => match event {
                    Some(Ok(Event::Apply(secret) | Event::InitApply(secret))) => secret,
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => {
                        tracing::warn!(%error, "Secret {SECRET} can't be watched now");
                        continue;
                    }
                    None => return,
                },
                () = &mut retiring => {
                    retiring = never();
                    self.retire();
                    continue;
                }
            };
            let read = authority(&secret, self.issuing.bundle().trust_domain());
            match read {
                Ok(authority) if is_ours(&secret) => self.adopt(authority),
                Ok(authority) => {
                    let kept = !std::mem::replace(&mut begun, true) && self.keep_former_roots().await;
                    if self.take_over(authority).await || kept {
                        retiring = Box::pin(tokio::time::sleep(self.leaf_lifetime + MARGIN));
                    }
                }
                Err(error) => tracing::error!(%error, "what was in Secret {SECRET} before stays in force"),
            }
            seen.send_replace(Some(Arc::new(secret)));
        }
    }

    /// Takes what a Secret of ours says.
    fn adopt(&self, authority: CertificateAuthority) {
        let same = authority.fingerprint() == self.issuing.authority().fingerprint()
            && *authority.bundle() == self.issuing.bundle();
        if !same {
            let bundle = authority.bundle().clone();
            tracing::info!(
                issuer = authority.fingerprint(),
                roots = bundle.roots().len(),
                "root"
            );
            self.issuing.adopt(Arc::new(authority), bundle);
        }
    }

    /// Takes a supplied authority over; whether it, or its roots, are new.
    async fn take_over(&self, authority: CertificateAuthority) -> bool {
        let (current, trusted) = (self.issuing.authority(), self.issuing.bundle());
        let known = authority
            .bundle()
            .roots()
            .iter()
            .all(|root| trusted.roots().contains(root));
        if known && authority.fingerprint() == current.fingerprint() {
            return false;
        }
        let Ok(both) = union(&trusted, authority.bundle()) else {
            tracing::error!(
                "too many roots are in force: Secret {SECRET} is not followed before some have expired"
            );
            return false;
        };
        tracing::info!(
            issuer = authority.fingerprint(),
            "a supplied authority is taken over"
        );
        if !known {
            self.issuing.adopt(current, both.clone());
            if tokio::time::timeout(TAKEOVER_MAX, self.confirmed())
                .await
                .is_err()
            {
                tracing::warn!(
                    "not every proxy has confirmed the supplied root after {TAKEOVER_MAX:?}; it signs now"
                );
            }
        }
        self.issuing.adopt(Arc::new(authority), both);
        true
    }

    /// Waits until every proxy has the roots in force.
    async fn confirmed(&self) {
        let wanted = self.issuing.bundle().fingerprint();
        loop {
            tokio::time::sleep(PAUSE).await;
            let Ok(own) = own_roots(&self.publisher, &self.issuing).await else {
                return;
            };
            let others = self.others.borrow().clone();
            let taken = others.map(|others| others.roots(&own));
            if let Some(taken) = taken
                && own.bundle == wanted
                && taken.unreachable.is_empty()
                && taken.count.confirmed == taken.count.proxies
            {
                return;
            }
        }
    }

    /// After a restart in the midst of a takeover: the roots that were published before are kept. Whether there are any.
    async fn keep_former_roots(&self) -> bool {
        let maps: Api<ConfigMap> = Api::namespaced(self.cluster.client.clone(), &self.cluster.namespace);
        // Listed by name: the rights that publishing needs are enough.
        let named = ListParams::default().fields(&format!("metadata.name={CONFIG_MAP}"));
        let published = loop {
            match maps.list(&named).await {
                Ok(maps) => {
                    break maps
                        .items
                        .into_iter()
                        .find_map(|map| map.data?.remove(BUNDLE_KEY));
                }
                Err(error) => {
                    tracing::warn!(%error, "the published roots can't be read; it is tried again");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        };
        let own = self.issuing.bundle();
        let published =
            published.and_then(|pem| TrustBundle::from_pem(own.trust_domain().clone(), pem.as_bytes()).ok());
        let Some(both) = published.and_then(|published| union(&own, &published).ok()) else {
            return false;
        };
        let more = both != own;
        if more {
            self.issuing.adopt(self.issuing.authority(), both);
        }
        more
    }

    /// The former roots go.
    fn retire(&self) {
        let authority = self.issuing.authority();
        let bundle = authority.bundle().clone();
        if bundle != self.issuing.bundle() {
            tracing::info!(
                roots = bundle.roots().len(),
                "former roots are not trusted any longer"
            );
            self.issuing.adopt(authority, bundle);
        }
    }
}

fn union(one: &TrustBundle, other: &TrustBundle) -> Result<TrustBundle, BundleError> {
    let roots = one.roots().iter().chain(other.roots()).cloned().collect();
    TrustBundle::new(one.trust_domain().clone(), roots)
}

fn never() -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(std::future::pending())
}
