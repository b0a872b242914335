//! A way to the API server that can be cut.

use std::net::SocketAddr;

use kube::config::Kubeconfig;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weft_tests::kube::Kubernetes;

/// Passes connections on to an API server, until it is dropped.
pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    /// Each cuts what is open.
    cuts: watch::Sender<()>,
    passing: JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.passing.abort();
    }
}

impl Line {
    pub(crate) async fn to(kubernetes: &Kubernetes) -> Self {
        let file = Kubeconfig::read_from(kubernetes.kubeconfig()).expect("a kubeconfig");
        let cluster = file.clusters[0].cluster.as_ref();
        let server = cluster.and_then(|cluster| cluster.server.clone());
        let server = server
            .expect("an address")
            .trim_start_matches("https://")
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (cuts, changes) = watch::channel(());
        let passing = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(pass(from, server.clone(), changes.clone()));
            }
        });
        Self {
            address,
            cuts,
            passing,
        }
    }

    /// Cuts every connection; new ones pass.
    pub(crate) fn cut(&self) {
        self.cuts.send_replace(());
    }
}

async fn pass(mut from: TcpStream, server: String, mut cuts: watch::Receiver<()>) {
    // What was cut before is none of this connection's business.
    cuts.mark_unchanged();
    let passed = async {
        let mut to = TcpStream::connect(server).await?;
        copy_bidirectional(&mut from, &mut to).await
    };
    tokio::select! {
        // Whoever closed first closes both.
        _ = passed => {}
        _ = cuts.changed() => {}
    }
}
