//! Application and sidecar killed together, under load, again and again.
//!
//! What a SIGKILL may cost: the POSTs that were then running on the replica, each answered once with 502 or 503.
//! All else is executed again on the other replica, and no POST twice. The applications' journal, which outlives
//! them, is the witness.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use weft_tests::mesh::{Mesh, Sidecar, Spec};
use weft_tests::process::{PATIENCE, Process};

use crate::manifests::SERVICES;

const KILLS: usize = 20;
/// Requests that run at any time, half over HTTP/1.1 and half over one HTTP/2 connection.
const RUNNING: usize = 24;
/// How long the application takes: at the moment of a kill, half of what runs is on the replica that dies.
const DELAY_MS: u32 = 40;
/// Executions by a new replica that must be seen before it is killed.
const EXECUTED_BEFORE_KILL: usize = 20;
/// The largest body that is kept for another attempt.
const BODY_MAX: usize = 64 * 1024;

/// Application and sidecar.
struct Replica {
    name: String,
    app: Process,
    sidecar: Sidecar,
}

impl Replica {
    async fn start(mesh: &Mesh, workload: &str, round: usize) -> Self {
        let name = format!("{workload}.{round}");
        let flag = |name: &str, value: String| [format!("--{name}"), value];
        let arguments = [
            flag("replica", name.clone()),
            flag("journal", journal_of(mesh).display().to_string()),
            flag("delay-ms", DELAY_MS.to_string()),
        ];
        let program = Path::new(env!("CARGO_BIN_EXE_weft-test-app"));
        let mut app = Process::start_program(
            program,
            mesh.path(),
            &format!("{name}-app"),
            arguments.as_flattened(),
        )
        .expect("the application can be started");
        let listening: Value = app.says("listening").await;
        let address: SocketAddr = listening["http"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("an address");
        let sidecar = mesh
            .sidecar(&Spec::new("shop", "user", workload).serves("user:80", address))
            .await;
        Self { name, app, sidecar }
    }

    /// Both at once; which of them dies first is the kernel's choice, and the test has it both ways.
    async fn kill(mut self, application_first: bool) {
        let both = [&self.app, &self.sidecar.process];
        for process in if application_first {
            both
        } else {
            [both[1], both[0]]
        } {
            process.signal(libc::SIGKILL);
        }
        self.app.ended().await;
        self.sidecar.process.ended().await;
    }
}

fn journal_of(mesh: &Mesh) -> PathBuf {
    mesh.path().join("journal")
}

/// What was executed: `replica method id`.
fn journal(mesh: &Mesh) -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(journal_of(mesh)).unwrap_or_default();
    let entry = |line: &str| {
        let mut parts = line.split(' ').map(str::to_owned);
        Some((parts.next()?, parts.next()?, parts.next()?))
    };
    text.lines()
        .map(|line| entry(line).unwrap_or_else(|| panic!("half a line: {line:?}")))
        .collect()
}

/// Waits until the replica takes its share of the load.
async fn executes(mesh: &Mesh, replica: &str) {
    let started = Instant::now();
    let executed = || journal(mesh).iter().filter(|(by, ..)| by == replica).count();
    while executed() < EXECUTED_BEFORE_KILL {
        assert!(
            started.elapsed() < PATIENCE,
            "{replica} executed {} requests in {PATIENCE:?}",
            executed()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How one request ended for the one who sent it.
#[derive(Debug)]
enum Ended {
    /// With a whole answer; what the proxy said of it, if it made it itself.
    Answered(StatusCode, Option<String>),
    /// After the head of a response.
    Truncated(StatusCode),
    /// Without a head.
    Broken(#[allow(dead_code, reason = "read by Debug")] String),
}

#[derive(Debug)]
struct Sent {
    method: Method,
    id: String,
    ended: Ended,
}

/// The next request of a client: every method in turn, bodies up to the largest that is replayed.
fn next(client: usize, number: usize) -> (Method, String, Request<Full<Bytes>>) {
    let method = [
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::HEAD,
        Method::DELETE,
    ][number % 5]
        .clone();
    let id = format!("{client}-{number}");
    let bytes = match method {
        Method::GET | Method::HEAD => 0,
        _ => [0, 1000, BODY_MAX][number % 3],
    };
    let request = Request::builder()
        .method(method.clone())
        .uri(format!("http://user/{id}"))
        .header("host", "user");
    let body = Full::new(Bytes::from(vec![b'x'; bytes]));
    (method, id, request.body(body).expect("a valid request"))
}

async fn read<E: std::fmt::Display>(response: Result<http::Response<hyper::body::Incoming>, E>) -> Ended {
    let response = match response {
        Ok(response) => response,
        Err(error) => return Ended::Broken(error.to_string()),
    };
    let (head, body) = response.into_parts();
    let said = head
        .headers
        .get("proxy-status")
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match body.collect().await {
        Ok(_) => Ended::Answered(head.status, said),
        Err(_) => Ended::Truncated(head.status),
    }
}

async fn one_after_another(proxy: SocketAddr, client: usize, stop: watch::Receiver<bool>) -> Vec<Sent> {
    let mut sent = Vec::new();
    let mut sender: Option<http1::SendRequest<Full<Bytes>>> = None;
    while !*stop.borrow() {
        if sender.as_ref().is_none_or(http1::SendRequest::is_closed) {
            let stream = TcpStream::connect(proxy).await.expect("the sidecar listens");
            let (made, connection) = http1::handshake(TokioIo::new(stream))
                .await
                .expect("a new connection");
            tokio::spawn(connection);
            sender = Some(made);
        }
        let sender = sender.as_mut().expect("was just made");
        if sender.ready().await.is_err() {
            continue;
        }
        let (method, id, request) = next(client, sent.len());
        let ended = read(sender.send_request(request).await).await;
        sent.push(Sent { method, id, ended });
    }
    sent
}

async fn multiplexed(
    mut sender: http2::SendRequest<Full<Bytes>>,
    client: usize,
    stop: watch::Receiver<bool>,
) -> Vec<Sent> {
    let mut sent = Vec::new();
    while !*stop.borrow() {
        let (method, id, mut request) = next(client, sent.len());
        request.headers_mut().remove("host");
        let ended = read(sender.send_request(request).await).await;
        let broken = matches!(ended, Ended::Broken(_));
        sent.push(Sent { method, id, ended });
        if broken {
            break;
        }
    }
    sent
}

async fn load(proxy: SocketAddr, stop: &watch::Receiver<bool>) -> JoinSet<Vec<Sent>> {
    let stream = TcpStream::connect(proxy).await.expect("the sidecar listens");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("a new connection");
    tokio::spawn(connection);
    let mut clients = JoinSet::new();
    for client in 0..RUNNING {
        if client % 2 == 0 {
            clients.spawn(one_after_another(proxy, client, stop.clone()));
        } else {
            clients.spawn(multiplexed(sender.clone(), client, stop.clone()));
        }
    }
    clients
}

#[tokio::test]
async fn a_killed_replica_costs_the_posts_it_was_running() {
    let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
    let mut replicas = Vec::new();
    for workload in ["user-0", "user-1"] {
        replicas.push(Replica::start(&mesh, workload, 0).await);
    }
    let client = mesh.sidecar(&Spec::new("shop", "order", "order-0")).await;
    let (stop, stopped) = watch::channel(false);
    let clients = load(client.outbound, &stopped).await;
    for round in 1..=KILLS {
        // The one that lives has taken over, and the one that dies has work in hand.
        for replica in &replicas {
            executes(&mesh, &replica.name).await;
        }
        let victim = replicas.remove(0);
        victim.kill(round % 2 == 0).await;
        let workload = format!("user-{}", (round - 1) % 2);
        replicas.push(Replica::start(&mesh, &workload, round).await);
    }
    stop.send_replace(true);
    let sent: Vec<Sent> = clients.join_all().await.into_iter().flatten().collect();
    judge(&sent, &journal(&mesh));
    let panics = client.metrics().await;
    assert!(
        panics
            .lines()
            .any(|line| line.starts_with("weft_panics_total") && line.ends_with(" 0"))
    );
}

/// Every request by its rule.
fn judge(sent: &[Sent], journal: &[(String, String, String)]) {
    let mut executions: HashMap<&str, usize> = HashMap::new();
    for (_, _, id) in journal {
        *executions.entry(id).or_default() += 1;
    }
    let executed = |id: &str| executions.get(id).copied().unwrap_or_default();
    let (mut wrong, mut lost, mut again) = (Vec::new(), 0, 0);
    for request in sent {
        let times = executed(&request.id);
        let post = request.method == Method::POST;
        let right = match &request.ended {
            Ended::Answered(StatusCode::OK, None) if post => times == 1,
            Ended::Answered(StatusCode::OK, None) => times >= 1,
            Ended::Answered(StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE, Some(_)) => {
                lost += times;
                post && times <= 1
            }
            // Its head had been forwarded.
            Ended::Truncated(status) => *status == StatusCode::OK && (times == 1 || !post),
            Ended::Answered(..) | Ended::Broken(_) => false,
        };
        again += usize::from(!post && times > 1);
        if !right {
            wrong.push(format!("{request:?}, executed {times} times"));
        }
    }
    println!(
        "{} sent, {} executed, {lost} POSTs lost, {again} others executed again",
        sent.len(),
        journal.len()
    );
    assert!(
        wrong.is_empty(),
        "{} of {} went wrong: {:#?}",
        wrong.len(),
        sent.len(),
        wrong
    );
    // Without these the kills would have hit nothing.
    assert!(
        lost > 0 && again > 0,
        "{lost} POSTs lost, {again} others executed again, of {}",
        sent.len()
    );
}
