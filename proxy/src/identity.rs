//! The identity that this proxy has at a moment: leaf, trust bundle, and the TLS configurations made of them.
//!
//! An [`Identity`] never changes; renewal publishes another one. A connection keeps the one it was made with, so a
//! renewal touches no live connection. Configurations for dialling depend on whom is dialled; each worker keeps its
//! own small cache of them ([`ClientConfigs`]), so that no lock is shared.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::{ClientConfig, ServerConfig};
use weft_identity::bundle::TrustBundle;
use weft_identity::leaf::Leaf;
use weft_identity::spiffe::SpiffeId;
use weft_identity::tls::{self, ClientAuth, Expected, TlsError, alpn};

/// What an inbound connection may speak inside TLS, best first.
const INBOUND_ALPN: &[&[u8]] = &[alpn::H2, alpn::TCP, alpn::H1, alpn::FOREIGN_H2, alpn::FOREIGN_H1];

/// Most configurations in one [`ClientConfigs`]; beyond it the cache begins anew.
const MAX_CACHED_CONFIGS: usize = 4096;

/// Leaf and trust bundle of one moment.
#[derive(Debug)]
pub struct Identity {
    /// Our own certified key.
    pub leaf: Leaf,
    /// The roots that peers are checked against.
    pub bundle: TrustBundle,
    /// Counts up with each published identity.
    pub generation: u64,
    server: Arc<ServerConfig>,
}

impl Identity {
    /// Makes the server's configuration; fails if a root is unusable.
    pub fn new(leaf: Leaf, bundle: TrustBundle, generation: u64) -> Result<Self, TlsError> {
        let server = tls::server_config(&leaf, &bundle, ClientAuth::Required, INBOUND_ALPN)?;
        Ok(Self {
            leaf,
            bundle,
            generation,
            server,
        })
    }

    /// For inbound connections: a mesh certificate is required, every ALPN name of the mesh is offered.
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For a connection to `expected`, speaking `protocol` (one of [`alpn`]). Not cached; see [`ClientConfigs`].
    pub fn client_config(
        &self,
        expected: &SpiffeId,
        protocol: &'static [u8],
    ) -> Result<Arc<ClientConfig>, TlsError> {
        let expected = Expected::from(expected.clone());
        tls::client_config(Some(&self.leaf), &self.bundle, expected, &[protocol])
    }
}

/// One worker's configurations for dialling, by peer and protocol, of the newest identity that it has seen.
#[derive(Debug, Default)]
pub struct ClientConfigs {
    generation: u64,
    configs: HashMap<(SpiffeId, &'static [u8]), Arc<ClientConfig>>,
}

impl ClientConfigs {
    /// The configuration of `identity` for a connection to `expected`, speaking `protocol`.
    pub fn get(
        &mut self,
        identity: &Identity,
        expected: &SpiffeId,
        protocol: &'static [u8],
    ) -> Result<Arc<ClientConfig>, TlsError> {
        if self.generation != identity.generation || self.configs.len() >= MAX_CACHED_CONFIGS {
            self.generation = identity.generation;
            self.configs.clear();
        }
        let key = (expected.clone(), protocol);
        if let Some(config) = self.configs.get(&key) {
            return Ok(Arc::clone(config));
        }
        let config = identity.client_config(expected, protocol)?;
        self.configs.insert(key, Arc::clone(&config));
        Ok(config)
    }
}
