//! The certificate service: a key, and a token that says whose it is, become a leaf.
//!
//! It is the only service that answers without a client certificate.

use std::sync::{Arc, Mutex, PoisonError};

use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tonic::{Request, Response, Status};
use weft_control_plane_core::issue::{Issuer, Refusal};
use weft_control_plane_core::rights::Account;
use weft_identity::bundle::TrustBundle;
use weft_xds_proto::weft::certificate_service_server::CertificateService;
use weft_xds_proto::weft::{SignRequest, SignResponse};

use crate::ca::{CaError, CertificateAuthority, ProvenKey, RequestError};
use crate::clock::unix_now;
use crate::config::OwnName;
use crate::tokens::TokenChecker;

/// A certificate isn't issued.
#[derive(Debug, Error)]
pub enum IssueError {
    /// The request is unusable.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// It is refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Signing failed.
    #[error(transparent)]
    Sign(#[from] CaError),
}

/// Decides and signs: the root together with the rules for using it.
pub struct Issuing {
    authority: CertificateAuthority,
    issuer: Mutex<Issuer>,
}

impl Issuing {
    /// Issues by the rules of `issuer` under `authority`.
    pub fn new(authority: CertificateAuthority, issuer: Issuer) -> Self {
        Self {
            authority,
            issuer: Mutex::new(issuer),
        }
    }

    /// The roots to trust.
    pub fn bundle(&self) -> &TrustBundle {
        self.authority.bundle()
    }

    /// Issues a leaf to `account` for the key of a request (PKCS#10, DER); `names`: further names, for the control
    /// plane's own.
    pub fn issue(
        &self,
        account: Account,
        csr: &[u8],
        names: &[OwnName],
    ) -> Result<CertificateDer<'static>, IssueError> {
        let key = ProvenKey::from_csr(csr)?;
        let decided = {
            let mut issuer = self.issuer.lock().unwrap_or_else(PoisonError::into_inner);
            issuer.decide(account, key.kind(), unix_now())
        };
        Ok(self.authority.sign(&decided?, &key, names)?)
    }
}

/// The service.
pub struct Certificates {
    issuing: Arc<Issuing>,
    tokens: Arc<TokenChecker>,
}

impl Certificates {
    /// The service with this root and these tokens.
    pub fn new(issuing: Arc<Issuing>, tokens: Arc<TokenChecker>) -> Self {
        Self { issuing, tokens }
    }
}

#[tonic::async_trait]
impl CertificateService for Certificates {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let token = bearer(&request).ok_or_else(|| {
            Status::unauthenticated("`authorization: Bearer <service-account token>` is missing")
        })?;
        let bearer = self.tokens.check(token).await;
        let bearer = bearer.map_err(|error| Status::unauthenticated(error.to_string()))?;
        let account = bearer.account;
        match self
            .issuing
            .issue(account.clone(), &request.get_ref().csr_der, &[])
        {
            Ok(leaf) => {
                tracing::info!(%account, "certificate issued");
                metrics::counter!("weft_control_plane_certificates_total", "result" => "issued").increment(1);
                let roots = self.issuing.bundle().roots().iter();
                Ok(Response::new(SignResponse {
                    chain_der: vec![leaf.to_vec()],
                    roots_der: roots.map(|root| root.to_vec()).collect(),
                }))
            }
            Err(error) => {
                tracing::warn!(%account, %error, "certificate refused");
                metrics::counter!("weft_control_plane_certificates_total", "result" => "refused")
                    .increment(1);
                Err(refusal(&error))
            }
        }
    }
}

fn bearer<T>(request: &Request<T>) -> Option<&str> {
    let value = request.metadata().get("authorization")?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn refusal(error: &IssueError) -> Status {
    let message = error.to_string();
    match error {
        IssueError::Request(_) | IssueError::Refused(Refusal::Key) => Status::invalid_argument(message),
        IssueError::Refused(Refusal::Rate { .. }) => Status::resource_exhausted(message),
        IssueError::Refused(Refusal::RootExpired) => Status::unavailable(message),
        // What went wrong with the root is for the log.
        IssueError::Sign(_) => Status::internal("the certificate could not be signed; the log says why"),
    }
}
