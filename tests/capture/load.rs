//! Rules replaced under load: no connection is lost, and none slips by the proxy.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::app::{get, web};
use crate::pod::{Cluster, cluster_ips};

/// New connections a second, over all clients.
const RATE: u32 = 200;
/// How long.
const TIME: Duration = Duration::from_secs(10);
/// Clients, each on a thread of its own.
const CLIENTS: u32 = 32;

#[tokio::test]
async fn rules_are_replaced_under_200_connections_a_second_and_nothing_fails() {
    let mut cluster = Cluster::new();
    let (mut user, mut order) = (cluster.pod("user"), cluster.pod("order"));
    cluster.service("user", 1, &[("http", 80, 8080, None)], &[&user]);
    cluster.start().await;
    web(&user.namespace, 8080, "user");
    cluster.mesh(&mut user, &[], &[]).await;
    cluster.mesh(&mut order, &[], &[]).await;
    let to = cluster_ips(1, 80)[0];
    let identity = order.identity();
    let (done, sent, replaced) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let began = Instant::now();
    let failures = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut failures = Vec::new();
                    let started = Instant::now();
                    for number in 0.. {
                        let due = started + Duration::from_secs(1) * CLIENTS / RATE * number;
                        if due.duration_since(started) >= TIME {
                            return failures;
                        }
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        sent.fetch_add(1, Ordering::Relaxed);
                        match get(&order.namespace, to, "user") {
                            Ok(reply) if reply.app == "user" && reply.client == identity => {}
                            other => failures.push(format!("{other:?}")),
                        }
                    }
                    failures
                })
            })
            .collect();
        for pod in [&order, &user] {
            let (done, replaced) = (&done, &replaced);
            scope.spawn(move || {
                let flags = [&["--skip-outbound-ports=1-9"][..], &["--skip-inbound-ports=9-19"]];
                for flags in flags.iter().cycle() {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    pod.init(flags);
                    replaced.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let failures: Vec<String> = clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client counts its failures"))
            .collect();
        done.store(true, Ordering::Relaxed);
        failures
    });
    let took = began.elapsed();
    let (sent, replaced) = (sent.into_inner(), replaced.into_inner());
    println!(
        "{sent} connections in {took:?}, rules replaced {replaced} times, {} failures",
        failures.len()
    );
    let first = &failures[..failures.len().min(5)];
    assert!(failures.is_empty(), "{} of {sent}: {first:?}", failures.len());
    assert!(
        f64::from(sent) / took.as_secs_f64() > f64::from(RATE) * 0.9,
        "{sent} in {took:?}"
    );
    assert!(replaced >= 20, "{replaced}");
}
