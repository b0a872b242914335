//! A control plane without a single file descriptor left. In a process of its own: the limit is the process's.

#[path = "../process/client.rs"]
#[allow(dead_code)]
mod client;

use std::net::TcpStream;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that stay free: enough to fill with connections, each of which takes two in this process.
const ROOM: u64 = 24;

fn limit(current: Option<u64>) {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current, ..limit }).expect("a limit below the highest");
}

#[tokio::test]
async fn the_accept_loop_survives_the_want_of_descriptors() {
    let site = client::Site::start(&[]).await;
    let token = site.token("user", &[]);
    let before = getrlimit(Resource::Nofile).current;
    let open = std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    limit(Some(open as u64 + ROOM));
    let mut connections = Vec::new();
    while let Ok(connection) = TcpStream::connect(site.address()) {
        connections.push(connection);
        // The server has its turn, so that its descriptors are spent too.
        tokio::task::yield_now().await;
    }
    assert!(!connections.is_empty() && connections.len() < usize::try_from(ROOM).expect("small"));
    drop(connections);
    limit(before);
    assert!(site.sign(&token).await.is_ok());
}
