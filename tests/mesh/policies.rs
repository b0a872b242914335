//! What a TrafficPolicy says, kept by real processes: limits, the breaker, slow start, zones.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_tests::app::{Echo, TcpEcho};
use weft_tests::client::{Answer, Ask, http1};
use weft_tests::mesh::{Mesh, Sidecar, Spec};
use weft_tests::process::PATIENCE;

use crate::manifests::SERVICES;

const QUEUE: &str = "queue.shop.svc.cluster.local:1883";

/// A mesh whose Service `service` has a policy.
async fn mesh(service: &str, spec: &str) -> Mesh {
    let policy = format!(
        "apiVersion: weft.dev/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: policy, namespace: shop}}\nspec:\n  \
         targetRefs: [{{group: '', kind: Service, name: {service}}}]\n{spec}"
    );
    Mesh::start(&[("services.yaml", SERVICES), ("policy.yaml", &policy)], &[]).await
}

/// A replica of the Service `user` with this application.
fn replica(number: usize, app: SocketAddr) -> Spec {
    Spec::new("shop", "user", &format!("user-{number}")).serves("user:80", app)
}

async fn client(mesh: &Mesh) -> Sidecar {
    mesh.sidecar(&Spec::new("shop", "order", "order-0")).await
}

async fn get(proxy: SocketAddr) -> Answer {
    http1(proxy, Ask::get("http://user/"))
        .await
        .expect("the sidecar answers")
}

/// How often each replica answers, and what else there was.
async fn answers(client: &Sidecar, requests: usize) -> BTreeMap<String, usize> {
    let mut answers = BTreeMap::new();
    for _ in 0..requests {
        *answers.entry(get(client.outbound).await.text()).or_default() += 1;
    }
    answers
}

/// An application that gives the same answer to all requests, but none before it may.
struct Raw {
    address: SocketAddr,
    asked: watch::Receiver<usize>,
    may: watch::Sender<bool>,
}

impl Raw {
    async fn start(status: u16, body: &'static str, may: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (may, permission) = watch::channel(may);
        let (asked, seen) = watch::channel(0);
        let answer = format!(
            "HTTP/1.1 {status} OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_all(
                    stream,
                    answer.clone(),
                    asked.clone(),
                    permission.clone(),
                ));
            }
        });
        Self {
            address,
            asked: seen,
            may,
        }
    }

    async fn asked(&mut self, times: usize) {
        let asked = self.asked.wait_for(|asked| *asked >= times);
        let waited = tokio::time::timeout(PATIENCE, asked).await;
        assert!(waited.is_ok(), "it was not asked {times} times");
    }
}

/// Ends with its client.
async fn answer_all(
    mut stream: TcpStream,
    answer: String,
    asked: watch::Sender<usize>,
    mut permission: watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while stream.read_buf(&mut head).await? > 0 {
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            asked.send_modify(|asked| *asked += 1);
            // Without the test there is nothing to wait for.
            let _ = permission.wait_for(|may| *may).await;
            stream.write_all(answer.as_bytes()).await?;
        }
    }
    Ok(())
}

/// Waits until no thread of a process that was told to stop runs any more.
fn stands(pid: u32) {
    let deadline = Instant::now() + PATIENCE;
    let runs = |pid| {
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there");
        threads.flatten().any(|thread| {
            let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            !status.contains("State:\tT")
        })
    };
    while runs(pid) {
        assert!(Instant::now() < deadline, "it does not stop");
        std::thread::yield_now();
    }
}

fn assert_refused(answer: &Answer, reason: &str) {
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    let said = answer.proxy_status().unwrap_or_default();
    assert!(said.contains(reason), "{said}");
}

#[tokio::test]
async fn no_more_requests_run_at_once_than_the_policy_allows() {
    let mesh = mesh("user", "  limits: {requests: 2}\n  retry: {attempts: 0}\n").await;
    let mut app = Raw::start(200, "held", false).await;
    let _server = mesh.sidecar(&replica(0, app.address)).await;
    let client = client(&mesh).await;
    let mut running = JoinSet::new();
    for number in 1..=2 {
        running.spawn(get(client.outbound));
        app.asked(number).await;
    }
    assert_refused(&get(client.outbound).await, "connection_limit_reached");
    app.may.send_replace(true);
    for answer in running.join_all().await {
        assert_eq!(answer.text(), "held");
    }
    assert_eq!(get(client.outbound).await.text(), "held", "there is room again");
}

#[tokio::test]
async fn no_more_requests_wait_for_a_connection_than_the_policy_allows() {
    let mesh = mesh(
        "user",
        "  limits: {pending: 1}\n  connectTimeout: 30s\n  retry: {attempts: 0}\n",
    )
    .await;
    let app = Echo::start("user-0").await;
    let server = mesh.sidecar(&replica(0, app.address)).await;
    let client = client(&mesh).await;
    // Its kernel accepts, but nobody shakes hands.
    server.process.signal(libc::SIGSTOP);
    stands(server.process.pid());
    let mut asked = JoinSet::new();
    for _ in 0..3 {
        asked.spawn(get(client.outbound));
    }
    for _ in 0..2 {
        let refused = asked
            .join_next()
            .await
            .expect("three were asked")
            .expect("no panic");
        assert_refused(&refused, "connection_limit_reached");
    }
    server.process.signal(libc::SIGCONT);
    let waited = asked
        .join_next()
        .await
        .expect("three were asked")
        .expect("no panic");
    assert_eq!(waited.text(), "user-0");
}

#[tokio::test]
async fn no_more_connections_are_open_than_the_policy_allows() {
    let mesh = mesh("queue", "  limits: {connections: 1}\n").await;
    let app = TcpEcho::start("hello").await;
    let server = Spec::new("shop", "queue", "queue-0").serves("queue:1883", app.address);
    let _server = mesh.sidecar(&server).await;
    let bind = Spec::new("shop", "order", "order-0").flag("bind", "127.0.0.1:0=queue:1883");
    let client = mesh.sidecar(&bind).await;
    // One that is refused may be reset before it knows that it is connected.
    let greeted = || async {
        let mut stream = TcpStream::connect(client.bound(QUEUE)).await.ok()?;
        let mut banner = [0; 5];
        stream.read_exact(&mut banner).await.ok()?;
        Some(stream)
    };
    let first = greeted().await.expect("there is room for one");
    assert!(greeted().await.is_none(), "there is no room for a second");
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    while greeted().await.is_none() {
        assert!(Instant::now() < deadline, "the room was not given back");
    }
}

#[tokio::test]
async fn a_breaker_opens_spares_the_service_and_closes_again() {
    const OPEN_FOR: Duration = Duration::from_secs(2);
    let policy = "  breaker: {service: {consecutiveFailures: 3, openFor: 2s}}\n  outlier: {consecutiveFailures: 0}\n  \
                  retry: {attempts: 0}\n";
    let mesh = mesh("user", policy).await;
    let app = Echo::start("user-0").await;
    let _server = mesh.sidecar(&replica(0, app.address)).await;
    let client = client(&mesh).await;
    let started = Instant::now();
    for _ in 0..3 {
        let failing = Ask::get("http://user/").header("x-status", "500");
        let answer = http1(client.outbound, failing).await.expect("answers");
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (StatusCode::INTERNAL_SERVER_ERROR, "user-0")
        );
    }
    let mut refused = 0;
    loop {
        let answer = get(client.outbound).await;
        if answer.status == StatusCode::OK {
            break;
        }
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
        assert!(started.elapsed() < PATIENCE, "it did not close");
        refused += 1;
    }
    assert!(
        started.elapsed() >= OPEN_FOR,
        "it closed after {:?}",
        started.elapsed()
    );
    assert!(refused > 0, "nothing was refused");
    assert_eq!(
        app.journal().len(),
        4,
        "while it was open the application saw nothing"
    );
    assert_eq!(answers(&client, 5).await, [("user-0".to_owned(), 5)].into());
}

#[tokio::test]
async fn a_new_replica_gets_its_share_slowly() {
    let mesh = mesh("user", "  balancer: {algorithm: Random, slowStart: 1h}\n").await;
    let (old, new) = (Echo::start("old").await, Echo::start("new").await);
    let _first = mesh.sidecar(&replica(0, old.address)).await;
    let client = client(&mesh).await;
    assert_eq!(get(client.outbound).await.text(), "old");
    let _second = mesh.sidecar(&replica(1, new.address)).await;
    let deadline = Instant::now() + PATIENCE;
    while new.journal().is_empty() {
        assert!(Instant::now() < deadline, "the new replica gets nothing at all");
        get(client.outbound).await;
    }
    // A tenth of the other's weight: 27 of 300 expected, 150 without slow start.
    let answers = answers(&client, 300).await;
    assert!((1..80).contains(&answers["new"]), "{answers:?}");
}

#[tokio::test]
async fn traffic_stays_in_its_zone_while_that_can_carry_it() {
    let policy = "  balancer: {algorithm: Random, locality: PreferSameZone}\n  retry: {attempts: 0}\n  outlier: \
                  {consecutiveFailures: 2, baseEjection: 5m, maxEjection: 5m, maxEjectedPercent: 100}\n";
    let mesh = mesh("user", policy).await;
    let (near, far) = (Echo::start("near").await, Echo::start("far").await);
    let failing = Raw::start(500, "failing", true).await;
    let good = mesh.sidecar(&replica(0, near.address).flag("zone", "a")).await;
    let _bad = mesh.sidecar(&replica(1, failing.address).flag("zone", "a")).await;
    let _far = mesh.sidecar(&replica(2, far.address).flag("zone", "b")).await;
    let client = mesh
        .sidecar(&Spec::new("shop", "order", "order-0").flag("zone", "a"))
        .await;
    // Until the one that fails has failed twice and is left out, all of it stays.
    let deadline = Instant::now() + PATIENCE;
    while *failing.asked.borrow() < 2 {
        assert!(
            Instant::now() < deadline,
            "one of two replicas near is never asked"
        );
        get(client.outbound).await;
    }
    assert!(far.journal().is_empty(), "two replicas near are enough");
    // One of two near can carry 70 of 100: 210 of 300 expected, and the rest goes.
    let answers = answers(&client, 300).await;
    assert_eq!(answers.get("failing"), None, "{answers:?}");
    assert!((160..260).contains(&answers["near"]), "{answers:?}");
    let mut good = good;
    good.process.signal(libc::SIGTERM);
    good.process.ended().await;
    assert_eq!(self::answers(&client, 20).await, [("far".to_owned(), 20)].into());
}
