//! A control plane in a test's cluster, as a process of this machine.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use weft_tests::kube::PATIENCE;
use weft_tests::process::{Process, weft_binary};

/// Between two looks at what can't be watched.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A control plane in a cluster, as a process of this machine.
pub(crate) struct ControlPlane {
    pub(crate) process: Process,
    pub(crate) pod: String,
    listening: Value,
}

impl ControlPlane {
    /// Starts the replica `pod` with the rights of a kubeconfig, on the address `host`, with its state and its log in
    /// `folder`. It listens then, and may not be ready yet.
    pub(crate) async fn start(
        kubeconfig: &Path,
        folder: &Path,
        pod: &str,
        host: &str,
        more: &[&str],
    ) -> Self {
        let mut line = vec![
            format!("KUBECONFIG={}", kubeconfig.display()),
            weft_binary().display().to_string(),
            "control-plane".to_owned(),
            "--kubernetes".to_owned(),
            format!("--pod={pod}"),
            format!("--state-dir={}", folder.join(pod).display()),
            format!("--listen={host}:0"),
            format!("--webhook={host}:0"),
            "--status=127.0.0.1:0".to_owned(),
            "--admin=127.0.0.1:0".to_owned(),
        ];
        line.extend(more.iter().map(ToString::to_string));
        let process = Process::start_program(Path::new("/usr/bin/env"), folder, pod, &line);
        let mut process = process.expect("a control plane can be started");
        let listening = process.says("listening").await;
        Self {
            process,
            pod: pod.to_owned(),
            listening,
        }
    }

    /// Waits until it has read everything.
    pub(crate) async fn ready(mut self) -> Self {
        self.process.says("ready").await;
        self
    }

    /// Where its listener `name` is.
    pub(crate) fn address(&self, name: &str) -> SocketAddr {
        let address = self.listening[name].as_str().expect("an address");
        address.parse().expect("an address")
    }
}

/// Waits until `look` finds something, where nothing tells.
pub(crate) async fn found<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let looking = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let found = tokio::time::timeout(PATIENCE, looking).await;
    found.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}
