//! What one peer may take, and what is let go when memory is short.

use std::net::TcpStream;
use std::time::Instant;

use weft_proxy::listener::MAX_CONNECTIONS_PER_PEER;

use crate::app::{PATIENCE, get, refused, web};
use crate::pod::{Cluster, Pod, cluster_ips};

/// A pod `web` behind the Service of that name, both ready, and a client `order`.
async fn cluster(memory: Option<u64>) -> (Cluster, Pod, Pod) {
    let mut cluster = Cluster::new();
    let (mut server, mut order) = (cluster.pod("web"), cluster.pod("order"));
    cluster.service("web", 1, &[("http", 80, 8080, Some("http"))], &[&server]);
    cluster.start().await;
    web(&server.namespace, 8080, "web");
    server.memory = memory;
    cluster.mesh(&mut server, &[], &["--workers=1"]).await;
    cluster.mesh(&mut order, &[], &[]).await;
    (cluster, server, order)
}

fn served(order: &Pod) -> bool {
    get(&order.namespace, cluster_ips(1, 80)[0], "web").is_ok_and(|reply| reply.status == 200)
}

fn eventually(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
    }
}

#[tokio::test]
async fn one_peer_can_not_take_every_connection() {
    let (cluster, server, order) = cluster(None).await;
    let stranger = cluster.stranger("stranger");
    let to = server.at(8080);
    let held: Vec<TcpStream> = stranger.namespace.within(|| {
        let connect = |_| TcpStream::connect(to).expect("there is room");
        (0..MAX_CONNECTIONS_PER_PEER).map(connect).collect()
    });
    assert!(refused(&stranger.namespace, to), "one more than it may have");
    assert!(served(&order), "others have their own");
    drop(held);
    // It is told that the port takes mesh peers only, which is more than nothing.
    eventually("the room is not given back", || !refused(&stranger.namespace, to));
}

#[tokio::test]
async fn who_is_short_of_memory_takes_nothing_new_and_lives() {
    // Less than any process has, so that it is short from its first look on.
    let (cluster, server, order) = cluster(Some(1 << 20)).await;
    let stranger = cluster.stranger("stranger");
    eventually("connections are taken as before", || {
        refused(&stranger.namespace, server.at(8080))
    });
    assert!(!served(&order));
    assert_eq!(server.page("/live").0, 200);
}
