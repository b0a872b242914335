//! Our certificate: asked for, kept, renewed.
//!
//! The key is made here and stays here; the control plane gets a signing request and the service-account token, and
//! answers with a chain and the trust bundle. Renewal is at half of the life, with jitter, by the wall clock, looked at
//! every minute (a suspended machine's timers stand still). A renewal that fails leaves everything as it was and is
//! tried again until it works. Leaf and bundle lie in the state directory, so that a restart needs nobody.
//!
//! This task is the only one that publishes an [`Identity`].

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::timeout;
use tonic::metadata::AsciiMetadataValue;
use weft_identity::bundle::{BundleError, TrustBundle};
use weft_identity::files::{self, FileError};
use weft_identity::leaf::{KeyPair, Leaf, LeafError};
use weft_identity::spiffe::SpiffeId;
use weft_identity::tls::{self, Expected, TlsError, alpn};
use weft_ops::health::Health;
use weft_xds_proto::weft::SignRequest;
use weft_xds_proto::weft::certificate_service_client::CertificateServiceClient;

use crate::config::Config;
use crate::control_plane::{self, ConnectError};
use crate::identity::Identity;
use crate::published::Published;

mod schedule;

pub use schedule::Schedule;

/// Name of the readiness condition.
pub const CONDITION: &str = "certificate";

/// Chain and key, in the state directory.
const LEAF_FILE: &str = "leaf.pem";
/// The newest trust bundle, in the state directory.
const BUNDLE_FILE: &str = "trust-bundle.pem";
/// Time for the control plane to sign.
const SIGN_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the wall clock is looked at.
const LOOK_INTERVAL: Duration = Duration::from_mins(1);

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The control plane can't be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The token file can't be read.
    #[error("the service-account token: {0}")]
    TokenFile(#[from] FileError),
    /// There is no token in the file, or no readable one.
    #[error("{} holds no token; make one with `weft token create`", .0.display())]
    NoToken(PathBuf),
    /// The control plane refused.
    #[error("the control plane did not sign: {} ({:?})", .0.message(), .0.code())]
    Refused(Box<tonic::Status>),
    /// The control plane took too long.
    #[error("the control plane did not sign within {SIGN_TIMEOUT:?}")]
    Timeout,
    /// What came back is no leaf for our key.
    #[error("the control plane's answer holds no usable certificate: {0}")]
    Leaf(#[from] LeafError),
    /// What came back is no trust bundle.
    #[error("the control plane's answer holds no usable trust bundle: {0}")]
    Bundle(#[from] BundleError),
    /// Leaf and bundle don't fit, or the leaf isn't valid now.
    #[error("the new certificate would be refused by our peers: {0}; are the clocks of both machines right?")]
    Tls(#[from] TlsError),
    /// The token belongs to another namespace.
    #[error(
        "the token makes us {id}, but --namespace says {namespace}: the token file belongs to another workload"
    )]
    Namespace {
        /// Who the control plane says we are.
        id: SpiffeId,
        /// Who we should be.
        namespace: String,
    },
}

/// What signing yields.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The new certificate and its key.
    pub leaf: Leaf,
    /// The roots to trust from now on.
    pub bundle: TrustBundle,
}

/// Makes a key and has it certified by the control plane at `address`, which must prove to be `expected` under
/// `trust`. The identity comes from `token` alone.
pub async fn sign(
    address: &str,
    expected: &SpiffeId,
    trust: &TrustBundle,
    token: &str,
) -> Result<Signed, SignError> {
    let key = KeyPair::generate()?;
    let mut request = tonic::Request::new(SignRequest {
        csr_der: key.csr_der()?,
    });
    let bearer = AsciiMetadataValue::try_from(format!("Bearer {token}"));
    let mut bearer = bearer.map_err(|_| SignError::NoToken(PathBuf::from("the token file")))?;
    bearer.set_sensitive(true);
    request.metadata_mut().insert("authorization", bearer);
    let config = tls::client_config(None, trust, Expected::from(expected.clone()), &[alpn::FOREIGN_H2])?;
    let mut client = CertificateServiceClient::new(control_plane::connect(address, config).await?);
    let answer = timeout(SIGN_TIMEOUT, client.sign(request))
        .await
        .map_err(|_| SignError::Timeout)?;
    let answer = answer
        .map_err(|status| SignError::Refused(Box::new(status)))?
        .into_inner();
    let leaf = Leaf::new(answer.chain_der.into_iter().map(Into::into).collect(), &key)?;
    let roots = answer.roots_der.into_iter().map(Into::into).collect();
    let bundle = TrustBundle::new(trust.trust_domain().clone(), roots)?;
    tls::vouches(&bundle, &leaf, SystemTime::now())?;
    Ok(Signed { leaf, bundle })
}

/// Keeps our identity published and fresh.
#[derive(Debug)]
pub struct Certificates {
    config: Arc<Config>,
    published: Arc<Published>,
    health: Health,
    rng: fastrand::Rng,
    /// From --trust-bundle; trusted for signing together with the current one.
    first: Option<TrustBundle>,
    current: Option<Signed>,
    schedule: Schedule,
    generation: u64,
}

impl Certificates {
    /// Reads the trust bundle, and takes over the leaf of an earlier process if it is still good. Without any bundle
    /// there is nobody to ask for a certificate, which is an error.
    pub fn load(config: Arc<Config>, published: Arc<Published>, health: Health) -> Result<Self, SignError> {
        let saved = TrustBundle::load(config.trust_domain.clone(), &config.state_dir.join(BUNDLE_FILE)).ok();
        let first = match TrustBundle::load(config.trust_domain.clone(), &config.trust_bundle) {
            Ok(bundle) => Some(bundle),
            Err(error) if saved.is_some() => {
                tracing::warn!(%error, "going on with the trust bundle of the state directory");
                None
            }
            Err(error) => return Err(error.into()),
        };
        let mut rng = fastrand::Rng::new();
        let mut certificates = Self {
            schedule: Schedule::now(),
            current: None,
            generation: 0,
            config,
            published,
            health,
            first,
            rng: rng.fork(),
        };
        if let Some(bundle) = saved {
            certificates.take_over(bundle);
        }
        Ok(certificates)
    }

    fn take_over(&mut self, bundle: TrustBundle) {
        let path = self.config.state_dir.join(LEAF_FILE);
        let leaf = match Leaf::load(&path) {
            Ok(Some(leaf)) => leaf,
            Ok(None) => return,
            Err(error) => {
                return tracing::warn!(%error, "the saved certificate is unusable; a new one is asked for");
            }
        };
        let good = tls::vouches(&bundle, &leaf, SystemTime::now()).map_err(SignError::from);
        match good.and_then(|()| self.check_namespace(&leaf)) {
            Ok(()) => self.put_in_force(Signed { leaf, bundle }),
            Err(error) => tracing::warn!(%error, "the saved certificate is not used; a new one is asked for"),
        }
    }

    /// Renews for as long as it is awaited, and takes over trust bundles from `roots`.
    pub async fn run(mut self, mut roots: watch::Receiver<Option<TrustBundle>>) {
        loop {
            let wait = self
                .schedule
                .due()
                .duration_since(SystemTime::now())
                .unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(wait.min(LOOK_INTERVAL)) => self.look().await,
                Ok(()) = roots.changed() => {
                    let bundle = roots.borrow_and_update().clone();
                    if let Some(bundle) = bundle {
                        self.adopt(bundle);
                    }
                }
            }
        }
    }

    async fn look(&mut self) {
        if SystemTime::now() >= self.schedule.due() {
            self.try_to_renew().await;
        }
        let now = SystemTime::now();
        let current = self.current.as_ref();
        let valid = current.is_some_and(|current| current.leaf.is_valid_at(now));
        self.health.set(CONDITION, valid);
    }

    async fn try_to_renew(&mut self) {
        match self.renew().await {
            Ok(signed) => {
                metrics::counter!("weft_certificate_renewals_total", "result" => "success").increment(1);
                self.save(&signed);
                self.put_in_force(signed);
            }
            Err(error) => {
                metrics::counter!("weft_certificate_renewals_total", "result" => "failure").increment(1);
                tracing::warn!(%error, "no new certificate; the old one stays, if there is one");
                self.schedule.failed(&mut self.rng);
            }
        }
    }

    async fn renew(&mut self) -> Result<Signed, SignError> {
        let token = read_token(&self.config.token_file)?;
        let trust = self.trust()?;
        let signed = sign(
            &self.config.control_plane,
            &self.config.control_plane_id,
            &trust,
            &token,
        )
        .await?;
        self.check_namespace(&signed.leaf)?;
        Ok(signed)
    }

    /// Whom to believe when asking: the roots we were given at first and those we hold now.
    fn trust(&self) -> Result<TrustBundle, BundleError> {
        let bundles = self
            .first
            .iter()
            .chain(self.current.as_ref().map(|current| &current.bundle));
        let roots = bundles
            .flat_map(|bundle| bundle.roots().iter().cloned())
            .collect();
        TrustBundle::new(self.config.trust_domain.clone(), roots)
    }

    fn check_namespace(&self, leaf: &Leaf) -> Result<(), SignError> {
        if leaf.id().namespace() == self.config.namespace {
            return Ok(());
        }
        Err(SignError::Namespace {
            id: leaf.id().clone(),
            namespace: self.config.namespace.clone(),
        })
    }

    /// Takes over new roots. When our own leaf isn't of theirs, it is replaced at once.
    fn adopt(&mut self, bundle: TrustBundle) {
        let Some(current) = self.current.clone().filter(|current| current.bundle != bundle) else {
            return;
        };
        if let Err(error) = tls::vouches(&bundle, &current.leaf, SystemTime::now()) {
            tracing::warn!(%error, "the new trust bundle does not know our certificate, which is renewed now");
            self.schedule = Schedule::now();
        }
        let signed = Signed {
            leaf: current.leaf,
            bundle,
        };
        self.save(&signed);
        self.publish(signed);
    }

    fn put_in_force(&mut self, signed: Signed) {
        self.schedule = Schedule::new(&signed.leaf, &mut self.rng);
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        metrics::gauge!("weft_certificate_expiry_seconds")
            .set(seconds(signed.leaf.not_after()).as_secs_f64());
        metrics::gauge!("weft_certificate_renewal_due_seconds")
            .set(seconds(self.schedule.due()).as_secs_f64());
        tracing::info!(id = %signed.leaf.id(), serial = signed.leaf.serial(), "a certificate is in force");
        self.publish(signed);
    }

    fn publish(&mut self, signed: Signed) {
        self.generation += 1;
        match Identity::new(signed.leaf.clone(), signed.bundle.clone(), self.generation) {
            Ok(identity) => {
                self.published.publish_identity(identity);
                self.current = Some(signed);
                self.health.set(CONDITION, true);
            }
            Err(error) => tracing::error!(%error, "the new identity is unusable, the old one stays"),
        }
    }

    /// Without saved state only the next start is slower: no reason to stop.
    fn save(&self, signed: &Signed) {
        let bundle = signed.bundle.save(&self.config.state_dir.join(BUNDLE_FILE));
        let saved = bundle.map_err(SignError::from);
        let saved = saved.and_then(|()| Ok(signed.leaf.save(&self.config.state_dir.join(LEAF_FILE))?));
        if let Err(error) = saved {
            tracing::warn!(%error, "certificate and trust bundle can't be saved");
        }
    }
}

/// Reads the service-account token at `path`.
pub fn read_token(path: &Path) -> Result<String, SignError> {
    let bytes = files::read(path)?.unwrap_or_default();
    let token = String::from_utf8(bytes).unwrap_or_default().trim().to_owned();
    let usable = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    usable
        .then_some(token)
        .ok_or_else(|| SignError::NoToken(path.to_owned()))
}
