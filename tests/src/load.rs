//! Load that counts: every kind of traffic side by side, and every failure by name.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::process::PATIENCE;

/// Pause between two requests of one loop: what keeps a 2-core machine from being the thing under test.
const PACE: Duration = Duration::from_millis(4);

/// How long a multiplexed connection is used; then there is a new one.
const REOPENED_AFTER: Duration = Duration::from_secs(1);

/// Where to send it.
#[derive(Clone, Debug)]
pub struct Targets {
    /// The explicit outbound port of the client's sidecar; `None`: each target is dialled by its name.
    pub proxy: Option<SocketAddr>,
    /// Authority of an HTTP/1 Service.
    pub http1: String,
    /// Authority of an h2c Service; its application answers gRPC with trailers.
    pub http2: String,
    /// `HOST:PORT` of an opaque Service whose application echoes; with a sidecar's port the local one.
    pub tcp: Option<String>,
    /// Whether the replicas of `tcp` stay: then one connection stays open throughout.
    pub stays: bool,
    /// Authority of an HTTP/1 Service whose replica stays, for one upgraded connection; its application echoes.
    pub upgrade: Option<String>,
}

/// Traffic under way.
pub struct Load {
    stop: watch::Sender<bool>,
    loops: JoinSet<Tally>,
    counts: Arc<Counts>,
}

/// What all loops have done so far.
#[derive(Debug, Default)]
struct Counts {
    sent: AtomicU64,
    failed: AtomicU64,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Tally {
    /// Exchanges begun.
    pub sent: u64,
    /// Those that failed, and how.
    pub failures: Vec<String>,
    counts: Arc<Counts>,
}

impl Targets {
    /// What to dial for `authority`.
    fn dial(&self, authority: &str) -> String {
        self.proxy
            .map_or_else(|| authority.to_owned(), |proxy| proxy.to_string())
    }
}

impl Tally {
    fn add(&mut self, kind: &str, result: Result<(), String>) {
        self.sent += 1;
        self.counts.sent.fetch_add(1, Relaxed);
        if let Err(failure) = result {
            self.counts.failed.fetch_add(1, Relaxed);
            self.failures.push(format!("{kind} #{}: {failure}", self.sent));
        }
    }
}

impl Load {
    /// Starts every kind of traffic, once.
    pub fn start(targets: &Targets) -> Self {
        Self::wide(targets, 1)
    }

    /// Starts every kind of traffic `width` times side by side.
    pub fn wide(targets: &Targets, width: usize) -> Self {
        let (stop, stopped) = watch::channel(false);
        let counts = Arc::default();
        let going = Going {
            stopped,
            counts: Arc::clone(&counts),
        };
        let mut loops = JoinSet::new();
        for _ in 0..width {
            loops.spawn(keep_alive(targets.clone(), going.clone()));
            loops.spawn(new_connections(targets.clone(), going.clone()));
            loops.spawn(multiplexed(targets.clone(), going.clone(), false));
            loops.spawn(multiplexed(targets.clone(), going.clone(), true));
            if let Some(address) = targets.tcp.clone() {
                loops.spawn(tcp_connections(address, going.clone()));
            }
        }
        if let Some(address) = targets.tcp.clone().filter(|_| targets.stays) {
            let opening = async move { connect(&address).await };
            loops.spawn(one_connection("one tcp connection", opening, going.clone()));
        }
        if let Some(authority) = targets.upgrade.clone() {
            let opening = upgraded(targets.dial(&authority), authority);
            loops.spawn(one_connection("one upgraded connection", opening, going));
        }
        Self { stop, loops, counts }
    }

    /// How many exchanges have ended so far.
    pub fn sent(&self) -> u64 {
        self.counts.sent.load(Relaxed)
    }

    /// How many of them failed.
    pub fn failed(&self) -> u64 {
        self.counts.failed.load(Relaxed)
    }

    /// Ends it when what is under way has finished, and adds up.
    pub async fn stop(mut self) -> Tally {
        self.stop.send_replace(true);
        let mut total = Tally::default();
        while let Some(tally) = self.loops.join_next().await {
            let tally = tally.expect("a loop counts failures, it does not panic");
            total.sent += tally.sent;
            total.failures.extend(tally.failures);
        }
        total
    }
}

/// What a loop is told, and where it counts.
#[derive(Clone, Debug)]
struct Going {
    stopped: watch::Receiver<bool>,
    counts: Arc<Counts>,
}

impl Going {
    /// Paces a loop; false: stop.
    async fn on(&mut self) -> bool {
        tokio::select! {
            _ = self.stopped.wait_for(|stopped| *stopped) => false,
            () = tokio::time::sleep(PACE) => true,
        }
    }

    fn tally(&self) -> Tally {
        Tally {
            counts: Arc::clone(&self.counts),
            ..Tally::default()
        }
    }
}

async fn bounded(what: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(PATIENCE, what)
        .await
        .unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}")))
}

/// A request over HTTP/1: in absolute form to a proxy, else in origin form.
fn request_h1(targets: &Targets) -> Request<Full<Bytes>> {
    let authority = &targets.http1;
    let uri = if targets.proxy.is_some() {
        format!("http://{authority}/load")
    } else {
        "/load".to_owned()
    };
    let builder = Request::builder().uri(uri).header("host", authority);
    builder.body(Full::default()).expect("a valid request")
}

fn request_h2(authority: &str, grpc: bool) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().uri(format!("http://{authority}/load"));
    if grpc {
        builder = builder
            .method("POST")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
    }
    let body = if grpc {
        Bytes::from_static(&[0, 0, 0, 0, 0])
    } else {
        Bytes::new()
    };
    builder.body(Full::new(body)).expect("a valid request")
}

async fn check(response: http::Response<hyper::body::Incoming>, grpc: bool) -> Result<(), String> {
    let (head, body) = response.into_parts();
    let said = head.headers.get("proxy-status").cloned();
    let body = body
        .collect()
        .await
        .map_err(|error| format!("{}: body: {error}", head.status))?;
    if head.status != StatusCode::OK {
        return Err(format!("{} {said:?}", head.status));
    }
    let ok = |fields: &HeaderMap| fields.get("grpc-status").is_some_and(|status| status == "0");
    if grpc && !body.trailers().is_some_and(ok) && !ok(&head.headers) {
        return Err(format!(
            "grpc-status of {:?} and {:?}",
            head.headers,
            body.trailers()
        ));
    }
    Ok(())
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address)
        .await
        .map_err(|error| format!("connect: {error}"))
}

type H1 = http1::SendRequest<Full<Bytes>>;

async fn h1(targets: &Targets) -> Result<H1, String> {
    let stream = connect(&targets.dial(&targets.http1)).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("handshake: {error}"))?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(sender: &mut H1, targets: &Targets) -> Result<(), String> {
    sender.ready().await.map_err(|error| format!("ready: {error}"))?;
    let response = sender
        .send_request(request_h1(targets))
        .await
        .map_err(|error| format!("send: {error}"))?;
    check(response, false).await
}

async fn keep_alive(targets: Targets, mut going: Going) -> Tally {
    let mut tally = going.tally();
    let mut sender: Option<H1> = None;
    while going.on().await {
        let result = bounded(async {
            if sender.as_ref().is_none_or(H1::is_closed) {
                sender = Some(h1(&targets).await?);
            }
            let sender = sender.as_mut().ok_or("was just made")?;
            exchange(sender, &targets).await
        })
        .await;
        tally.add("keep-alive", result);
    }
    tally
}

async fn new_connections(targets: Targets, mut going: Going) -> Tally {
    let mut tally = going.tally();
    while going.on().await {
        let one = async { exchange(&mut h1(&targets).await?, &targets).await };
        tally.add("new connection", bounded(one).await);
    }
    tally
}

type H2 = http2::SendRequest<Full<Bytes>>;

async fn h2(targets: &Targets) -> Result<H2, String> {
    let stream = connect(&targets.dial(&targets.http2)).await?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(|error| format!("handshake: {error}"))?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn multiplexed(targets: Targets, mut going: Going, grpc: bool) -> Tally {
    let kind = if grpc { "grpc" } else { "h2" };
    let mut tally = going.tally();
    let mut sender: Option<H2> = None;
    let mut opened = Instant::now();
    while going.on().await {
        let result = bounded(async {
            let old = opened.elapsed() > REOPENED_AFTER;
            if old || sender.as_ref().is_none_or(H2::is_closed) {
                opened = Instant::now();
                sender = Some(h2(&targets).await?);
            }
            let used = sender.as_mut().ok_or("was just made")?;
            let mut sent = used.try_send_request(request_h2(&targets.http2, grpc)).await;
            // Nothing of it was sent: the server had asked for a new connection.
            if let Some(unsent) = sent.as_mut().err().and_then(TrySendError::take_message) {
                opened = Instant::now();
                sent = sender.insert(h2(&targets).await?).try_send_request(unsent).await;
            }
            let response = sent.map_err(|error| format!("send: {:?}", error.into_error()))?;
            check(response, grpc).await
        })
        .await;
        tally.add(kind, result);
    }
    tally
}

async fn echo(stream: &mut TcpStream, text: &[u8]) -> Result<(), String> {
    stream
        .write_all(text)
        .await
        .map_err(|error| format!("write: {error}"))?;
    let mut back = vec![0; text.len()];
    stream
        .read_exact(&mut back)
        .await
        .map_err(|error| format!("read: {error}"))?;
    if back == text {
        Ok(())
    } else {
        Err("other bytes came back".to_owned())
    }
}

/// The banner that [`crate::app::TcpEcho`] was started with must be empty.
async fn tcp_connections(address: String, mut going: Going) -> Tally {
    let mut tally = going.tally();
    while going.on().await {
        let one = async {
            let mut stream = connect(&address).await?;
            echo(&mut stream, b"ping").await?;
            stream
                .shutdown()
                .await
                .map_err(|error| format!("shutdown: {error}"))?;
            let mut rest = Vec::new();
            stream
                .read_to_end(&mut rest)
                .await
                .map_err(|error| format!("end: {error}"))?;
            if rest == b"bye" {
                Ok(())
            } else {
                Err(format!("ended with {rest:?}"))
            }
        };
        tally.add("tcp", bounded(one).await);
    }
    tally
}

/// An upgraded connection to `authority`, over a connection to `address`.
pub async fn upgraded(address: String, authority: String) -> Result<TcpStream, String> {
    let mut stream = connect(&address).await?;
    let head = format!(
        "GET http://{authority}/upgrade HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    stream
        .write_all(head.as_bytes())
        .await
        .map_err(|error| format!("write: {error}"))?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(
            stream
                .read_u8()
                .await
                .map_err(|error| format!("no whole head: {error}"))?,
        );
    }
    let answer = String::from_utf8_lossy(&answer);
    if answer.starts_with("HTTP/1.1 101 ") {
        Ok(stream)
    } else {
        Err(answer.into_owned())
    }
}

/// One connection that stays open throughout.
async fn one_connection(
    kind: &str,
    opening: impl Future<Output = Result<TcpStream, String>>,
    mut going: Going,
) -> Tally {
    let mut tally = going.tally();
    let opened = tokio::time::timeout(PATIENCE, opening).await;
    let mut stream = match opened.unwrap_or_else(|_| Err(format!("not open in {PATIENCE:?}"))) {
        Ok(stream) => stream,
        Err(failure) => {
            tally.add(kind, Err(failure));
            return tally;
        }
    };
    while going.on().await {
        let result = bounded(echo(&mut stream, b"still here")).await;
        let broken = result.is_err();
        tally.add(kind, result);
        if broken {
            break;
        }
    }
    tally
}
