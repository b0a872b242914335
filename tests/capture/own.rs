//! A pod that calls itself.

use crate::app::{get, shown, web};
use crate::pod::{Cluster, cluster_ips};

#[tokio::test]
async fn a_pod_reaches_itself_through_its_service_and_by_its_own_address() {
    let mut cluster = Cluster::new();
    let mut user = cluster.pod("user");
    cluster.service(
        "user",
        1,
        &[("http", 80, 8080, None), ("free", 81, 9000, None)],
        &[&user],
    );
    cluster.start().await;
    web(&user.namespace, 8080, "user");
    web(&user.namespace, 9000, "user");
    cluster.mesh(&mut user, &["--skip-inbound-ports=9000"], &[]).await;
    for to in cluster_ips(1, 80) {
        let reply = get(&user.namespace, to, "user").expect("answers");
        assert_eq!(
            (reply.status, reply.app.as_str()),
            (200, "user"),
            "{to}: {reply:?}"
        );
        assert_eq!(
            reply.client,
            user.identity(),
            "{to}: through its own inbound side"
        );
    }
    for (to, own) in user
        .both(8080)
        .into_iter()
        .zip([user.addresses.ipv4, user.addresses.ipv6])
    {
        let reply = get(&user.namespace, to, "user").expect("answers");
        assert_eq!(
            (reply.app.as_str(), reply.client.as_str()),
            ("user", ""),
            "{to}: past the proxy"
        );
        assert_eq!(reply.peer, shown(own));
    }
}
