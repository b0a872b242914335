//! A way to the API server that can be cut.

use std::net::SocketAddr;

use kube::config::Kubeconfig;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use weft_tests::kube::Kubernetes;

/// What happens to connections.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// They pass.
    Open,
    /// They are taken, and wait.
    Held,
    /// They are cut at once.
    Closed,
}

/// Passes connections on to an API server, until it is dropped.
pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    /// Every change cuts what is open.
    state: watch::Sender<State>,
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
        let (state, changes) = watch::channel(State::Open);
        let passing = tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(pass(from, server.clone(), changes.clone()));
            }
        });
        Self {
            address,
            state,
            passing,
        }
    }

    /// Cuts every connection; new ones pass.
    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Open);
    }

    /// Cuts every connection; new ones are taken, and wait until it is mended.
    pub(crate) fn hold(&self) {
        self.state.send_replace(State::Held);
    }

    /// Cuts every connection, and new ones, until it is mended.
    pub(crate) fn close(&self) {
        self.state.send_replace(State::Closed);
    }

    /// Lets connections pass again.
    pub(crate) fn mend(&self) {
        self.state.send_replace(State::Open);
    }
}

async fn pass(mut from: TcpStream, server: String, mut state: watch::Receiver<State>) {
    let waited = state.wait_for(|state| *state != State::Held).await;
    if !waited.is_ok_and(|state| *state == State::Open) {
        return;
    }
    let passed = async {
        let mut to = TcpStream::connect(server).await?;
        copy_bidirectional(&mut from, &mut to).await
    };
    tokio::select! {
        // Whoever closed first closes both.
        _ = passed => {}
        _ = state.changed() => {}
    }
}
