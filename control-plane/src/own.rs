//! The control plane's own certificate: issued by its own root, with the names under which it is reached, and renewed
//! at half its life, and when the root is exchanged, without touching live connections.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use thiserror::Error;
use weft_control_plane_core::rights::Account;
use weft_identity::leaf::{KeyPair, Leaf, LeafError};
use weft_identity::tls::{ClientAuth, TlsError, alpn, server_config};

use crate::certificates::{IssueError, Issuing};
use crate::config::{ACCOUNT, OwnName};

/// Longest sleep: the clock of the day may jump.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);

/// The own certificate can't be made.
#[derive(Debug, Error)]
pub enum OwnError {
    /// Issuing.
    #[error("the control plane's own certificate can't be issued: {0}")]
    Issue(#[from] IssueError),
    /// Its key.
    #[error("the control plane's own certificate is unusable: {0}")]
    Leaf(#[from] LeafError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// Issues the own certificate; returns what to accept connections with, and when half of its life is over. As this is done
/// whenever the authority changes, the end of that one is told here, too.
pub fn issue(issuing: &Issuing, names: &[OwnName]) -> Result<(Arc<ServerConfig>, SystemTime), OwnError> {
    #[allow(clippy::cast_precision_loss, reason = "a date in seconds is far below 2^53")]
    let end = issuing.authority().not_after().0 as f64;
    metrics::gauge!("weft_control_plane_root_expiry_seconds").set(end);
    let key = KeyPair::generate()?;
    let account = Account::new(ACCOUNT.0, ACCOUNT.1);
    let chain = issuing.issue(account, &key.csr_der()?, names)?;
    let leaf = Leaf::new(chain, &key)?;
    let now = SystemTime::now();
    let rest = leaf.not_after().duration_since(now).unwrap_or_default();
    let config = server_config(
        &leaf,
        &issuing.bundle(),
        ClientAuth::Optional,
        &[alpn::FOREIGN_H2],
    )?;
    Ok((config, now + rest / 2))
}

/// Renews it when it is due and whenever the authority or the roots change, for ever.
pub async fn renew(
    issuing: Arc<Issuing>,
    names: Vec<OwnName>,
    tls: Arc<ArcSwap<ServerConfig>>,
    mut due: SystemTime,
) {
    let mut changes = issuing.changes();
    loop {
        let pause = CHECK_INTERVAL.min(due.duration_since(SystemTime::now()).unwrap_or_default());
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // The sender is in `issuing` and outlives this task.
            _ = changes.changed() => due = SystemTime::now(),
        }
        if SystemTime::now() < due {
            continue;
        }
        match issue(&issuing, &names) {
            Ok((config, next)) => {
                tls.store(config);
                due = next;
            }
            Err(error) => {
                tracing::error!(%error, "the own certificate is not renewed; another attempt follows");
                due = SystemTime::now() + CHECK_INTERVAL;
            }
        }
    }
}
