//! Probes under Strict: kubelet, who has no certificate, asks the status port, and the original runs inside the pod.

use std::net::TcpStream;

use crate::app::{ask, connect, web};
use crate::pod::Cluster;

const PROBES: &str = r#"--probes={
    "app/liveness": {"httpGet": {"port": 8080, "path": "/"}},
    "app/readiness": {"tcpSocket": {"port": 8080}},
    "app/startup": {"httpGet": {"port": 8082}}
}"#;

#[tokio::test]
async fn probes_reach_the_application_under_strict() {
    let mut cluster = Cluster::new();
    let mut user = cluster.pod("user");
    let kubelet = cluster.stranger("kubelet");
    cluster.start().await;
    web(&user.namespace, 8080, "user");
    let own = format!("--pod-ips={},{}", user.addresses.ipv4, user.addresses.ipv6);
    cluster.mesh(&mut user, &[], &[PROBES, &own]).await;
    let direct = ask(
        connect(&kubelet.namespace, user.at(8080)).expect("connects"),
        "user",
    );
    assert_eq!(direct.expect("answers").status, 403, "Strict is in force");
    let probe = |stream: TcpStream, path: &str| {
        use std::io::{Read, Write};
        let mut stream = stream;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        )
        .expect("writes");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("answers");
        text
    };
    for to in user.both(15020) {
        for (path, status, said) in [
            ("/probe/app/liveness", "200", "ok"),
            ("/probe/app/readiness", "200", "ok"),
            ("/probe/app/startup", "503", "does not accept connections"),
            ("/probe/app/other", "404", "no such probe"),
            ("/ready", "200", "\"ready\": true"),
        ] {
            let text = probe(connect(&kubelet.namespace, to).expect("connects"), path);
            assert!(
                text.starts_with(&format!("HTTP/1.1 {status}")),
                "{to} {path}: {text}"
            );
            assert!(text.contains(said), "{to} {path}: {text}");
        }
    }
}
