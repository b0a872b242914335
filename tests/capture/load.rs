//! Rules replaced under load: no connection is lost, and none slips by the proxy.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::Scope;
use std::time::{Duration, Instant};

use crate::app::{get, web};
use crate::pod::{Cluster, Pod, cluster_ips};

/// New connections a second, over all clients.
const RATE: u32 = 200;
/// How long.
const TIME: Duration = Duration::from_secs(10);
/// Clients, each on a thread of its own.
const CLIENTS: u32 = 32;
/// Times that rules must have been replaced meanwhile, or the test has shown nothing.
const MIN_REPLACED: u32 = 20;

/// Asks the Service at the rate of one client, and returns what went wrong.
fn client(order: &Pod, sent: &AtomicU32) -> Vec<String> {
    let to = cluster_ips(1, 80)[0];
    let started = Instant::now();
    let dues = (0..).map(|number| Duration::from_secs(1) * CLIENTS / RATE * number);
    let mut failures = Vec::new();
    for due in dues.take_while(|due| *due < TIME) {
        std::thread::sleep(due.saturating_sub(started.elapsed()));
        sent.fetch_add(1, Ordering::Relaxed);
        match get(&order.namespace, to, "user") {
            Ok(reply) if reply.app == "user" && reply.client == order.identity() => {}
            other => failures.push(format!("{other:?}")),
        }
    }
    failures
}

/// Replaces the pod's rules by others, again and again.
fn replace<'scope>(
    scope: &'scope Scope<'scope, '_>,
    pod: &'scope Pod,
    done: &'scope AtomicBool,
    replaced: &'scope AtomicU32,
) {
    scope.spawn(move || {
        let flags = ["--skip-outbound-ports=1-9", "--skip-inbound-ports=9-19"];
        for flag in flags.iter().cycle() {
            if done.load(Ordering::Relaxed) {
                return;
            }
            pod.init(&[flag]);
            replaced.fetch_add(1, Ordering::Relaxed);
        }
    });
}

#[tokio::test]
async fn rules_are_replaced_under_200_connections_a_second_and_nothing_fails() {
    let mut cluster = Cluster::new();
    let (mut user, mut order) = (cluster.pod("user"), cluster.pod("order"));
    cluster.service("user", 1, &[("http", 80, 8080, None)], &[&user]);
    cluster.start().await;
    web(&user.namespace, 8080, "user");
    cluster.mesh(&mut user, &[], &[]).await;
    cluster.mesh(&mut order, &[], &[]).await;
    let (done, sent, replaced) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let began = Instant::now();
    let failures = std::thread::scope(|scope| {
        replace(scope, &order, &done, &replaced);
        replace(scope, &user, &done, &replaced);
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| client(&order, &sent)))
            .collect();
        let failures = clients
            .into_iter()
            .flat_map(|client| client.join().expect("a client counts"));
        let failures: Vec<String> = failures.collect();
        done.store(true, Ordering::Relaxed);
        failures
    });
    let (took, sent, replaced) = (began.elapsed(), sent.into_inner(), replaced.into_inner());
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
    assert!(replaced >= MIN_REPLACED, "{replaced}");
}
