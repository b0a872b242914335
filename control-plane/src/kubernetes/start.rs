//! The parts of a control plane in a cluster, from top to bottom.

use tokio::task::JoinSet;
use weft_identity::token::SigningKey;

use super::{Cluster, watch};
use crate::app::{Foundation, Shared, StartError};
use crate::ca::CertificateAuthority;
use crate::config::Config;
use crate::tokens::TokenChecker;

/// The condition that holds once every kind has been read and published.
pub(crate) const READ: &str = "objects";

/// The key of standalone tokens, in the state directory.
const TOKEN_KEY_FILE: &str = "token-key.pem";

/// What has to hold before a control plane in a cluster is ready. Each part names its own.
pub(crate) fn conditions() -> Vec<&'static str> {
    watch::conditions().chain([READ]).collect()
}

/// The root, and who reviews tokens.
#[allow(clippy::unused_async)]
pub(crate) async fn foundation(config: &Config, _cluster: &Cluster) -> Result<Foundation, StartError> {
    let authority =
        CertificateAuthority::open(&config.state_dir, config.root.as_ref(), &config.trust_domain)?;
    let tokens = SigningKey::load_or_create(&config.state_dir.join(TOKEN_KEY_FILE))?;
    Ok(Foundation {
        authority,
        tokens: TokenChecker::Standalone(tokens.verifying_key()),
    })
}

/// Starts everything that talks to the API server.
#[allow(clippy::unnecessary_wraps)]
pub(crate) fn parts(cluster: &Cluster, shared: &Shared, tasks: &mut JoinSet<()>) -> Result<(), StartError> {
    watch::start(cluster, shared, tasks);
    Ok(())
}
