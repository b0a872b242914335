//! From the network to the application: who may connect, and to which port.

use crate::app::{address, get, listen, refused, shown, web};
use crate::net::Namespace;
use crate::pod::{Cluster, Pod};

/// A pod `user` with a web application on 8080 (declared by a Service), 8081 (by nobody) and 9000.
async fn cluster(policy: &str, init: &[&str]) -> (Cluster, Pod, Pod) {
    let mut cluster = Cluster::new();
    let mut user = cluster.pod("user");
    let stranger = cluster.stranger("stranger");
    cluster.service("user", 1, &[("http", 80, 8080, Some("http"))], &[&user]);
    cluster.manifest(policy);
    cluster.start().await;
    for port in [8080, 8081, 9000] {
        web(&user.namespace, port, "user");
    }
    cluster.mesh(&mut user, init, &[]).await;
    (cluster, user, stranger)
}

fn policy(target: &str) -> String {
    format!(
        "apiVersion: weft.dev/v1alpha1\nkind: MeshTLSPolicy\nmetadata: {{name: open, namespace: shop}}\n\
         spec: {{targetRefs: [{target}], mode: Permissive}}\n"
    )
}

#[tokio::test]
async fn strict_refuses_plaintext_on_every_port_but_the_excluded() {
    let (_cluster, user, stranger) = cluster("", &["--skip-inbound-ports=9000"]).await;
    for index in [0, 1] {
        let declared = get(&stranger.namespace, user.both(8080)[index], "user").expect("answers");
        assert_eq!(
            (declared.status, declared.app.as_str()),
            (403, ""),
            "{declared:?}"
        );
        let undeclared = get(&stranger.namespace, user.both(8081)[index], "user").expect("answers");
        assert_eq!(
            (undeclared.status, undeclared.app.as_str()),
            (403, ""),
            "{undeclared:?}"
        );
        let excluded = get(&stranger.namespace, user.both(9000)[index], "user").expect("answers");
        assert_eq!((excluded.status, excluded.app.as_str()), (200, "user"));
        let own = [stranger.addresses.ipv4, stranger.addresses.ipv6][index];
        assert_eq!(excluded.peer, shown(own), "no proxy in between");
    }
}

#[tokio::test]
async fn permissive_for_the_namespace_holds_for_undeclared_ports_too() {
    let namespace = policy("{group: '', kind: Namespace, name: shop}");
    let (_cluster, user, stranger) = cluster(&namespace, &[]).await;
    for port in [8080, 8081, 9000] {
        for to in user.both(port) {
            let reply = get(&stranger.namespace, to, "user").expect("answers");
            assert_eq!(
                (reply.status, reply.app.as_str(), reply.client.as_str()),
                (200, "user", ""),
                "{to}"
            );
        }
    }
}

#[tokio::test]
async fn permissive_for_a_service_holds_for_its_ports_only() {
    let service = policy("{group: '', kind: Service, name: user}");
    let (_cluster, user, stranger) = cluster(&service, &[]).await;
    let reply = get(&stranger.namespace, user.at(8080), "user").expect("answers");
    assert_eq!((reply.status, reply.app.as_str()), (200, "user"));
    let reply = get(&stranger.namespace, user.at(8081), "user").expect("answers");
    assert_eq!((reply.status, reply.app.as_str()), (403, ""));
}

#[tokio::test]
async fn the_proxys_own_ports_are_no_way_in() {
    let namespace = policy("{group: '', kind: Namespace, name: shop}");
    let (_cluster, user, stranger) = cluster(&namespace, &[]).await;
    for port in [15000, 15001, 15002, 15006] {
        for to in user.both(port) {
            assert!(refused(&stranger.namespace, to), "{to} from outside");
        }
    }
    // Within the pod there is no guard: the proxy itself refuses what was not led to it.
    for ip in ["127.0.0.1", "::1"] {
        for port in [15001, 15006] {
            assert!(refused(&user.namespace, address(ip, port)), "{ip} {port}");
        }
    }
    // Nor without the guard from outside: a rule that is missing opens nothing.
    user.namespace
        .must(&["nft", "flush", "chain", "inet", "weft", "guard"]);
    for port in [15001, 15006] {
        for to in user.both(port) {
            assert!(refused(&stranger.namespace, to), "{to} without the guard");
        }
    }
    let metrics = user.metrics();
    assert!(
        metrics.contains("weft_uncaptured_connections_total{direction=\"inbound\"}"),
        "{metrics}"
    );
    assert!(
        metrics.contains("weft_uncaptured_connections_total{direction=\"outbound\"}"),
        "{metrics}"
    );
    assert_eq!(user.page("/live").0, 200);
    let status = get(&stranger.namespace, user.at(15020), "user").expect("kubelet and Prometheus may ask");
    assert_eq!(status.status, 404, "there is no page /");
}

#[tokio::test]
async fn an_application_on_loopback_only_stays_unreachable() {
    let namespace = policy("{group: '', kind: Namespace, name: shop}");
    let (_cluster, user, stranger) = cluster(&namespace, &[]).await;
    local(&user.namespace);
    let own = get(&user.namespace, address("127.0.0.1", 7000), "user").expect("answers");
    assert_eq!(own.app, "local");
    let outside = get(&stranger.namespace, user.at(7000), "user").expect("the proxy answers");
    assert_eq!((outside.status, outside.app.as_str()), (503, ""), "{outside:?}");
}

fn local(namespace: &Namespace) {
    listen(namespace, address("127.0.0.1", 7000), crate::app::answer, "local");
}
