//! From the application to the mesh and to the world: the original destination decides.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::app::{connect, get, refused, shown, web};
use crate::net::{OUTSIDE, OUTSIDE_IPV6};
use crate::pod::{Cluster, Pod, cluster_ips};

/// Longest wait for the control plane's answer about an address.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// A pod `user` behind the Service 1 and `cart` behind 2, and a client `order`, all meshed.
async fn cluster(init: &[&str], run: &[&str]) -> (Cluster, [Pod; 3]) {
    let mut cluster = Cluster::new();
    let (mut user, mut cart, mut order) = (cluster.pod("user"), cluster.pod("cart"), cluster.pod("order"));
    cluster.service("user", 1, &[("http", 80, 8080, None)], &[&user]);
    cluster.service("cart", 2, &[("http", 80, 8080, None)], &[&cart]);
    cluster.start().await;
    for pod in [&mut user, &mut cart] {
        web(&pod.namespace, 8080, &pod.name);
        cluster.mesh(pod, &[], &[]).await;
    }
    for port in [80, 8888, 9999] {
        web(&cluster.node.namespace, port, "world");
    }
    cluster.mesh(&mut order, init, run).await;
    (cluster, [user, cart, order])
}

#[tokio::test]
async fn a_service_is_reached_by_mtls_over_both_families() {
    let (_cluster, [user, _cart, order]) = cluster(&[], &[]).await;
    for (to, own) in cluster_ips(1, 80)
        .into_iter()
        .zip([user.addresses.ipv4, user.addresses.ipv6])
    {
        let reply = get(&order.namespace, to, "user").expect("answers");
        assert_eq!(
            (reply.status, reply.app.as_str()),
            (200, "user"),
            "{to}: {reply:?}"
        );
        assert_eq!(reply.client, order.identity(), "{to}");
        let seen = [shown(user.addresses.ipv4), shown(user.addresses.ipv6)];
        assert!(
            seen.contains(&reply.peer),
            "the application sees its own pod ({own}), not {}",
            reply.peer
        );
    }
}

#[tokio::test]
async fn a_pods_address_is_reached_by_mtls_too() {
    let (_cluster, [user, _cart, order]) = cluster(&[], &[]).await;
    for to in user.both(8080) {
        let reply = get(&order.namespace, to, "user").expect("answers");
        assert_eq!(
            (reply.app.as_str(), reply.client),
            ("user", order.identity()),
            "{to}"
        );
    }
}

#[tokio::test]
async fn a_host_header_chooses_no_other_destination() {
    let (_cluster, [_user, _cart, order]) = cluster(&[], &[]).await;
    let [user, _] = cluster_ips(1, 80);
    for host in [
        "cart",
        "cart.shop.svc.cluster.local",
        "10.96.0.2",
        "203.0.113.1",
        "127.0.0.1:15000",
    ] {
        let reply = get(&order.namespace, user, host).expect("answers");
        assert_eq!((reply.app.as_str(), reply.host.as_str()), ("user", host));
    }
    for target in ["http://cart/", "cart:80"] {
        let method = if target.contains("//") { "GET" } else { "CONNECT" };
        let mut stream = connect(&order.namespace, user).expect("connects");
        let asked = format!("{method} {target} HTTP/1.1\r\nHost: cart\r\nConnection: close\r\n\r\n");
        stream.write_all(asked.as_bytes()).expect("writes");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answers");
        assert!(!text.contains("app=cart"), "{method}: {text}");
    }
}

#[tokio::test]
async fn what_is_no_part_of_the_mesh_is_passed_as_it_is() {
    let (_cluster, [_user, _cart, order]) = cluster(&[], &[]).await;
    for ip in [OUTSIDE, OUTSIDE_IPV6] {
        let reply = get(&order.namespace, SocketAddr::new(ip, 80), "world.example").expect("answers");
        assert_eq!(
            (reply.app.as_str(), reply.host.as_str()),
            ("world", "world.example")
        );
        assert_eq!(reply.client, "", "nothing is added");
        let own = [shown(order.addresses.ipv4), shown(order.addresses.ipv6)];
        assert!(own.contains(&reply.peer));
    }
    let mut stream = connect(&order.namespace, SocketAddr::new(OUTSIDE, 8888)).expect("connects");
    stream
        .write_all(b"GET / HTTP/1.1\nhOST: odd\n\n")
        .expect("writes");
    drop(stream);
    assert!(
        refused(&order.namespace, SocketAddr::new(OUTSIDE, 81)),
        "nobody listens there"
    );
}

#[tokio::test]
async fn excluded_ports_and_blocks_do_not_pass_the_proxy() {
    let flags = ["--skip-outbound-ports=8888", "--skip-outbound-cidrs=10.77.1.0/24"];
    let (_cluster, [user, _cart, mut order]) = cluster(&flags, &[]).await;
    // Strict: without the proxy there is no certificate.
    let reply = get(&order.namespace, user.at(8080), "user").expect("answers");
    assert_eq!((reply.status, reply.app.as_str()), (403, ""));
    if let Some(proxy) = &mut order.proxy {
        proxy.kill().await;
    }
    let skipped = SocketAddr::new(OUTSIDE, 8888);
    assert_eq!(get(&order.namespace, skipped, "a").expect("answers").app, "world");
    assert!(
        refused(&order.namespace, SocketAddr::new(OUTSIDE, 9999)),
        "captured, and nobody is there"
    );
    order.init(&["--remove"]);
    assert_eq!(
        get(&order.namespace, SocketAddr::new(OUTSIDE, 9999), "a")
            .expect("answers")
            .app,
        "world"
    );
}

#[tokio::test]
async fn without_a_control_plane_the_outside_passes_at_once_and_the_inside_waits_and_is_closed() {
    let (mut cluster, [_user, _cart, order]) = cluster(&[], &["--mesh-cidrs=10.0.0.0/8,fc00::/7"]).await;
    let known = cluster_ips(1, 80)[0];
    assert_eq!(get(&order.namespace, known, "user").expect("answers").app, "user");
    let mut control_plane = cluster.control_plane.take().expect("it runs");
    control_plane.kill().await;
    order.disconnected();
    for ip in [OUTSIDE, OUTSIDE_IPV6] {
        let started = Instant::now();
        let reply = get(&order.namespace, SocketAddr::new(ip, 80), "a").expect("answers");
        assert_eq!(reply.app, "world");
        assert!(started.elapsed() < MAX_WAIT / 2, "{ip}: {:?}", started.elapsed());
    }
    assert_eq!(
        get(&order.namespace, known, "user").expect("answers").app,
        "user",
        "what is known stays"
    );
    let started = Instant::now();
    let inside = SocketAddr::new("10.99.0.1".parse().expect("an address"), 80);
    assert!(
        refused(&order.namespace, inside),
        "never plaintext past unknown policy"
    );
    let waited = started.elapsed();
    assert!(waited >= MAX_WAIT && waited < MAX_WAIT * 2, "{waited:?}");
}
