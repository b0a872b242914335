//! The root in a cluster: Secret `weft-ca` of the control plane's namespace, in the form that cert-manager writes.
//!
//! `tls.crt` is the authority that signs, followed by what leads to its root; `tls.key` its key; `ca.crt` the roots to
//! trust. Where nothing is supplied the first replica makes one; of two that race, the API server takes one, and both
//! use that. What is there is never replaced by a new root. A Secret that can't be used is told and waited for: the
//! control plane isn't ready until it is mended.

use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use thiserror::Error;
use weft_identity::spiffe::TrustDomain;

use super::{Cluster, labels};
use crate::ca::{CaError, CertificateAuthority, Material, Origin, make_root};

/// Name of the Secret.
pub const SECRET: &str = "weft-ca";

/// Its type.
const TYPE: &str = "kubernetes.io/tls";

/// Key of the signing certificate, with what leads to its root.
const CERTIFICATE: &str = "tls.crt";

/// Key of the private key.
const KEY: &str = "tls.key";

/// Key of the roots.
const ROOTS: &str = "ca.crt";

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
    let data = [
        (CERTIFICATE.to_owned(), certificate.clone()),
        (ROOTS.to_owned(), certificate),
        (KEY.to_owned(), ByteString(root.key.into_bytes())),
    ];
    Ok(Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            labels: Some(labels()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        type_: Some(TYPE.to_owned()),
        data: Some(data.into()),
        ..Secret::default()
    })
}
