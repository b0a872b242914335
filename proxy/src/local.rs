//! What everything on a worker uses: settings, published configuration, the clock, randomness, TLS set-ups.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use weft_proxy_core::time::Now;

use crate::config::Config;
use crate::identity::ClientConfigs;
use crate::published::Published;

/// See the module's head.
#[derive(Debug)]
pub struct Local {
    /// The settings.
    pub config: Arc<Config>,
    /// Configuration and identity.
    pub published: Arc<Published>,
    /// TLS set-ups for dialling.
    pub client_configs: RefCell<ClientConfigs>,
    /// The worker's own source of randomness.
    pub rng: RefCell<fastrand::Rng>,
    started: Instant,
}

impl Local {
    /// `started` is the start of time, the same for all workers.
    pub fn new(config: Arc<Config>, published: Arc<Published>, started: Instant) -> Self {
        Self {
            config,
            published,
            client_configs: RefCell::default(),
            rng: RefCell::new(fastrand::Rng::new()),
            started,
        }
    }

    /// The moment. Read once at the beginning of what an exchange does between two waits.
    pub fn now(&self) -> Now {
        Now::from_nanos(u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// A moment of the wall clock on the worker's own; one that is past counts as this one.
    pub fn at(&self, moment: SystemTime) -> Now {
        self.now() + moment.duration_since(SystemTime::now()).unwrap_or(Duration::ZERO)
    }

    /// The instant for timers.
    pub fn instant(&self, moment: Now) -> tokio::time::Instant {
        (self.started + Duration::from_nanos(moment.as_nanos())).into()
    }
}
