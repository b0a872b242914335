//! Pods of IPv6 alone, and pods of both families.

use weft_tests::kube::Kubernetes;
use weft_tests::node::{apply, forget, kubectl, meshed_namespace, pod, ready, rolled_out};

use crate::pods::{ask, echo, mesh};

/// `echo` with a Service of some families.
fn of_families(namespace: &str, name: &str, families: &str) -> String {
    let selector = format!("selector: {{app: {name}}}\n");
    echo(namespace, name, 1).replacen(&selector, &format!("{selector}  {families}\n"), 1)
}

async fn addresses(cluster: &Kubernetes, namespace: &str, pod: &str) -> String {
    let addresses = format!("get pod {pod} -n {namespace} -o jsonpath={{.status.podIPs[*].ip}}");
    kubectl(cluster, &addresses).await
}

#[tokio::test]
async fn pods_of_ipv6_alone_and_of_both_families_reach_each_other_through_the_mesh() {
    let cluster = mesh().await;
    // The node gives pods of such a namespace no IPv4 address.
    let six = meshed_namespace(cluster, "six").await;
    let both = meshed_namespace(cluster, "both").await;
    let outside = cluster.namespace("six-outside").await;
    let (ipv6, dual) = ("ipFamilies: [IPv6]", "ipFamilyPolicy: RequireDualStack");
    // A pod of both families is dialled by the first of its Service.
    let ipv6_first = "ipFamilyPolicy: RequireDualStack\n  ipFamilies: [IPv6, IPv4]";
    for yaml in [
        of_families(&six, "six", ipv6),
        of_families(&both, "single", ipv6),
        of_families(&both, "ipv6-first", ipv6_first),
        of_families(&both, "ipv4-first", dual),
        pod(&six, "member"),
        pod(&both, "member"),
        pod(&outside, "stranger"),
    ] {
        apply(cluster, &yaml).await;
    }
    for namespace in [&six, &both] {
        rolled_out(cluster, namespace).await;
        ready(cluster, namespace, "member").await;
    }
    ready(cluster, &outside, "stranger").await;
    let alone = addresses(cluster, &six, "member").await;
    assert!(alone.contains(':') && !alone.contains('.'), "IPv6 alone: {alone}");
    assert!(
        addresses(cluster, &both, "member").await.contains('.'),
        "both families"
    );

    let servers = [
        ("six", &six),
        ("single", &both),
        ("ipv6-first", &both),
        ("ipv4-first", &both),
    ];
    // The mesh dials the first family of a Service, so the last of these is out of reach for who has no IPv4 address;
    // a cluster of IPv6 alone has no such Service.
    for (client, servers) in [(&six, &servers[..3]), (&both, &servers[..])] {
        for (name, namespace) in servers {
            for (protocol, port) in [("http", 80), ("tcp", 82)] {
                let authority = format!("{name}.{namespace}.svc.cluster.local:{port}");
                ask(cluster, (client, "member"), &[protocol, &authority])
                    .await
                    .unwrap_or_else(|why| panic!("{client}: {protocol} to {authority}: {why}"));
            }
        }
    }
    let strict = format!("six.{six}.svc.cluster.local:80");
    let answer = ask(cluster, (&outside, "stranger"), &["http", &strict]).await;
    assert!(answer.is_err(), "Strict serves a stranger: {answer:?}");
    for namespace in [six, both, outside] {
        forget(cluster, &namespace).await;
    }
}
