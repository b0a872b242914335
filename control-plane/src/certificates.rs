//! The certificate service: a key, and a token that says whose it is, become a leaf.
//!
//! It is the only service that answers without a client certificate.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls_pki_types::CertificateDer;
use thiserror::Error;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use weft_control_plane_core::issue::{Bounds, Issuer, LeafSpec, Refusal};
use weft_control_plane_core::rights::Account;
use weft_identity::bundle::TrustBundle;
use weft_ops::guests::Guests;
use weft_xds_proto::weft::certificate_service_server::CertificateService;
use weft_xds_proto::weft::{SignRequest, SignResponse};

use crate::ca::{CaError, CertificateAuthority, ProvenKey, RequestError};
use crate::clock::unix_now;
use crate::config::OwnName;
use crate::peer::peer;
use crate::tokens::TokenChecker;

/// Tokens of one address that are checked at once. In a cluster that means to ask the API server, a few at a time: who
/// shows ever new bad ones doesn't keep the others waiting.
const CHECKS_PER_ADDRESS_MAX: usize = 8;

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

/// Decides and signs: the root together with the rules for using it. Both the authority and the roots may be replaced
/// while it runs.
pub struct Issuing {
    current: ArcSwap<Current>,
    issuer: Mutex<Issuer>,
    changed: watch::Sender<u64>,
}

/// What counts at a moment. The roots are those to trust: the authority's own, and further ones while roots are
/// exchanged.
struct Current {
    authority: Arc<CertificateAuthority>,
    bundle: TrustBundle,
}

impl Issuing {
    /// Issues leaves of `lifetime` under `authority`, whose roots are the ones to trust.
    pub fn new(authority: CertificateAuthority, lifetime: Duration) -> Self {
        let issuer = Issuer::new(lifetime, authority.not_after());
        let bundle = authority.bundle().clone();
        Self {
            current: ArcSwap::from_pointee(Current {
                authority: Arc::new(authority),
                bundle,
            }),
            issuer: Mutex::new(issuer),
            changed: watch::Sender::new(0),
        }
    }

    /// From now on `authority` signs, and the roots of `bundle` are trusted: the authority's have to be among them.
    pub fn adopt(&self, authority: Arc<CertificateAuthority>, bundle: TrustBundle) {
        let not_after = authority.not_after();
        self.current.store(Arc::new(Current { authority, bundle }));
        self.issuer().root_ends(not_after);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Changes whenever the authority or the roots do.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What signs now.
    pub fn authority(&self) -> Arc<CertificateAuthority> {
        Arc::clone(&self.current.load().authority)
    }

    /// The roots to trust now.
    pub fn bundle(&self) -> TrustBundle {
        self.current.load().bundle.clone()
    }

    /// The roots to trust now, DER.
    pub fn roots(&self) -> Vec<Arc<[u8]>> {
        let current = self.current.load();
        current
            .bundle
            .roots()
            .iter()
            .map(|root| Arc::from(root.as_ref()))
            .collect()
    }

    /// Issues a leaf to `account` for the key of a request (PKCS#10, DER); `names`: further names, for the control
    /// plane's own. Returns the chain, leaf first.
    pub fn issue(
        &self,
        account: Account,
        csr: &[u8],
        names: &[OwnName],
    ) -> Result<Vec<CertificateDer<'static>>, IssueError> {
        let (_, chain) = self.issue_within(account, csr, names, Bounds::default())?;
        Ok(chain)
    }

    /// The same, with other bounds; returns what the leaf says, too.
    pub fn issue_within(
        &self,
        account: Account,
        csr: &[u8],
        names: &[OwnName],
        bounds: Bounds,
    ) -> Result<(LeafSpec, Vec<CertificateDer<'static>>), IssueError> {
        let admitted = self.issuer().admit(account, unix_now())?;
        let key = ProvenKey::from_csr(csr)?;
        let spec = self.issuer().leaf(admitted, key.kind(), bounds, unix_now())?;
        let chain = self.current.load().authority.sign(&spec, &key, names)?;
        Ok((spec, chain))
    }

    fn issuer(&self) -> MutexGuard<'_, Issuer> {
        self.issuer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The service.
pub struct Certificates {
    issuing: Arc<Issuing>,
    tokens: Arc<TokenChecker>,
    checks: Guests,
}

impl Certificates {
    /// The service with this root and these tokens.
    pub fn new(issuing: Arc<Issuing>, tokens: Arc<TokenChecker>) -> Self {
        Self {
            issuing,
            tokens,
            checks: Guests::new(CHECKS_PER_ADDRESS_MAX),
        }
    }

    /// Whose token a request shows.
    async fn account<T>(&self, request: &Request<T>) -> Result<Account, Status> {
        let token = bearer(request).ok_or_else(|| {
            Status::unauthenticated("`authorization: Bearer <service-account token>` is missing")
        })?;
        let address = peer(request)?.address.ip();
        let _check = self.checks.admit(address).ok_or_else(|| {
            let max = CHECKS_PER_ADDRESS_MAX;
            Status::unavailable(format!(
                "{max} tokens from {address} are being checked already; try again"
            ))
        })?;
        Ok(self.tokens.check(token).await?.account)
    }
}

#[tonic::async_trait]
impl CertificateService for Certificates {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let account = self.account(&request).await?;
        match self
            .issuing
            .issue(account.clone(), &request.get_ref().csr_der, &[])
        {
            Ok(chain) => {
                tracing::info!(%account, "certificate issued");
                metrics::counter!("weft_control_plane_certificates_total", "result" => "issued").increment(1);
                let der = |certificates: &[CertificateDer<'_>]| {
                    certificates
                        .iter()
                        .map(|certificate| certificate.to_vec())
                        .collect()
                };
                Ok(Response::new(SignResponse {
                    chain_der: der(&chain),
                    roots_der: der(self.issuing.bundle().roots()),
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::pending;
    use std::net::SocketAddr;

    use futures_util::FutureExt;
    use kube::client::Body;
    use tonic::Code;
    use weft_control_plane_core::issue::BURST;

    use super::*;
    use crate::ca::directory;
    use crate::kubernetes::review::Reviewer;
    use crate::peer::Peer;

    #[test]
    fn beyond_the_rate_a_request_is_not_even_read() {
        let folder = tempfile::tempdir().unwrap();
        let authority = directory::open(folder.path(), None, &"mesh.test".parse().unwrap()).unwrap();
        let issuing = Issuing::new(authority, Duration::from_hours(1));
        let mut refused = (0..100 * BURST).map(|_| {
            let garbage = issuing.issue(Account::new("shop", "greedy"), b"garbage", &[]);
            garbage.unwrap_err()
        });
        assert!(matches!(refused.next(), Some(IssueError::Request(_))));
        assert!(refused.any(|error| matches!(error, IssueError::Refused(Refusal::Rate { .. }))));
    }

    /// A token that only the API server can tell to be bad, from an address.
    fn shown_by(address: &str) -> Request<SignRequest> {
        let address: SocketAddr = address.parse().unwrap();
        let mut request = Request::new(SignRequest::default());
        let token = "Bearer e30.eyJleHAiOjk5OTk5OTk5OTl9.x".parse().unwrap();
        request.metadata_mut().insert("authorization", token);
        request.extensions_mut().insert(Peer {
            address,
            identity: None,
        });
        request
    }

    #[tokio::test]
    async fn one_address_does_not_have_all_checks() {
        let folder = tempfile::tempdir().unwrap();
        let authority = directory::open(folder.path(), None, &"mesh.test".parse().unwrap()).unwrap();
        let issuing = Arc::new(Issuing::new(authority, Duration::from_hours(1)));
        let silent =
            tower::service_fn(|_: http::Request<Body>| pending::<Result<http::Response<Body>, Infallible>>());
        let reviewer = Arc::new(Reviewer::new(kube::Client::new(silent, "default")));
        let service = Certificates::new(issuing, Arc::new(TokenChecker::Cluster(reviewer)));
        let mut waiting: Vec<_> = (0..CHECKS_PER_ADDRESS_MAX)
            .map(|_| service.sign(shown_by("10.0.0.1:1")))
            .collect();
        assert!(waiting.iter_mut().all(|check| check.now_or_never().is_none()));
        let refused = service.sign(shown_by("10.0.0.1:2")).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable, "{refused}");
        assert!(service.sign(shown_by("10.0.0.2:1")).now_or_never().is_none());
        waiting.pop();
        assert!(service.sign(shown_by("10.0.0.1:3")).now_or_never().is_none());
    }
}
