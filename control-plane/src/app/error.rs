//! Why a control plane can't start.

use std::io;
use std::net::SocketAddr;

use thiserror::Error;
use weft_identity::files::FileError;
use weft_identity::token::TokenError;
use weft_ops::admin::AdminError;
use weft_ops::log::LogError;
use weft_ops::recorder::RecorderError;

use crate::ca::CaError;
use crate::kubernetes::ConnectError;
use crate::kubernetes::webhook::values::ValuesError;
use crate::own::OwnError;
use crate::standalone::WatchError;
use crate::state::StateError;

/// The control plane can't start.
#[derive(Debug, Error)]
pub enum StartError {
    /// The state directory.
    #[error(transparent)]
    File(#[from] FileError),
    /// The root.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// The token key.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The own certificate.
    #[error(transparent)]
    Own(#[from] OwnError),
    /// The registrations.
    #[error(transparent)]
    State(#[from] StateError),
    /// The manifests.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The cluster.
    #[error(transparent)]
    Cluster(#[from] ConnectError),
    /// The values for injection.
    #[error(transparent)]
    Injection(#[from] ValuesError),
    /// A listener.
    #[error("cannot listen on {address}: {source}; is something else listening there?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The admin listener.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// Metrics.
    #[error(transparent)]
    Recorder(#[from] RecorderError),
    /// The operating system.
    #[error("the process can't be set up: {0}")]
    System(#[from] io::Error),
}
