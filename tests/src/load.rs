//! Load that counts: every kind of traffic side by side, and every failure by name.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::process::PATIENCE;

/// Pause between two requests of one loop: what keeps a 2-core machine from being the thing under test.
const PACE: Duration = Duration::from_millis(4);

/// Where to send it.
#[derive(Clone, Debug)]
pub struct Targets {
    /// The explicit outbound port of the client's sidecar.
    pub proxy: SocketAddr,
    /// Authority of an HTTP/1 Service.
    pub http1: String,
    /// Authority of an h2c Service; its application answers gRPC with trailers.
    pub http2: String,
    /// Local port of an opaque Service whose application echoes.
    pub tcp: Option<SocketAddr>,
    /// Authority of an HTTP/1 Service whose replica stays, for one upgraded connection; its application echoes.
    pub upgrade: Option<String>,
}

/// Traffic under way.
pub struct Load {
    stop: watch::Sender<bool>,
    loops: JoinSet<Tally>,
}

/// What happened.
#[derive(Debug, Default)]
pub struct Tally {
    /// Exchanges begun.
    pub sent: u64,
    /// Those that failed, and how.
    pub failures: Vec<String>,
}

impl Tally {
    fn add(&mut self, kind: &str, result: Result<(), String>) {
        self.sent += 1;
        if let Err(failure) = result {
            self.failures.push(format!("{kind} #{}: {failure}", self.sent));
        }
    }
}

impl Load {
    /// Starts every kind of traffic.
    pub fn start(targets: &Targets) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut loops = JoinSet::new();
        loops.spawn(keep_alive(targets.clone(), stopped.clone()));
        loops.spawn(new_connections(targets.clone(), stopped.clone()));
        loops.spawn(multiplexed(targets.clone(), stopped.clone(), false));
        loops.spawn(multiplexed(targets.clone(), stopped.clone(), true));
        if let Some(address) = targets.tcp {
            loops.spawn(tcp_connections(address, stopped.clone()));
            loops.spawn(one_connection(
                "one tcp connection",
                connect(address),
                stopped.clone(),
            ));
        }
        if let Some(authority) = &targets.upgrade {
            let opening = upgraded(targets.proxy, authority.clone());
            loops.spawn(one_connection("one upgraded connection", opening, stopped));
        }
        Self { stop, loops }
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

/// Paces a loop; false: stop.
async fn go_on(stopped: &mut watch::Receiver<bool>) -> bool {
    tokio::select! {
        _ = stopped.wait_for(|stopped| *stopped) => false,
        () = tokio::time::sleep(PACE) => true,
    }
}

async fn bounded(what: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(PATIENCE, what)
        .await
        .unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}")))
}

fn request(authority: &str, absolute: bool, grpc: bool) -> Request<Full<Bytes>> {
    let mut builder = Request::builder().uri(format!("http://{authority}/load"));
    if absolute {
        builder = builder.header("host", authority);
    }
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

async fn connect(proxy: SocketAddr) -> Result<TcpStream, String> {
    TcpStream::connect(proxy)
        .await
        .map_err(|error| format!("connect: {error}"))
}

type H1 = http1::SendRequest<Full<Bytes>>;

async fn h1(proxy: SocketAddr) -> Result<H1, String> {
    let stream = connect(proxy).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| format!("handshake: {error}"))?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn exchange(sender: &mut H1, authority: &str) -> Result<(), String> {
    sender.ready().await.map_err(|error| format!("ready: {error}"))?;
    let response = sender
        .send_request(request(authority, true, false))
        .await
        .map_err(|error| format!("send: {error}"))?;
    check(response, false).await
}

async fn keep_alive(targets: Targets, mut stopped: watch::Receiver<bool>) -> Tally {
    let mut tally = Tally::default();
    let mut sender: Option<H1> = None;
    while go_on(&mut stopped).await {
        let result = bounded(async {
            if sender.as_ref().is_none_or(H1::is_closed) {
                sender = Some(h1(targets.proxy).await?);
            }
            let sender = sender.as_mut().ok_or("was just made")?;
            exchange(sender, &targets.http1).await
        })
        .await;
        tally.add("keep-alive", result);
    }
    tally
}

async fn new_connections(targets: Targets, mut stopped: watch::Receiver<bool>) -> Tally {
    let mut tally = Tally::default();
    while go_on(&mut stopped).await {
        let one = async { exchange(&mut h1(targets.proxy).await?, &targets.http1).await };
        tally.add("new connection", bounded(one).await);
    }
    tally
}

async fn multiplexed(targets: Targets, mut stopped: watch::Receiver<bool>, grpc: bool) -> Tally {
    let kind = if grpc { "grpc" } else { "h2" };
    let mut tally = Tally::default();
    let mut sender: Option<http2::SendRequest<Full<Bytes>>> = None;
    while go_on(&mut stopped).await {
        let result = bounded(async {
            if sender.as_ref().is_none_or(http2::SendRequest::is_closed) {
                let stream = connect(targets.proxy).await?;
                let (made, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .map_err(|error| format!("handshake: {error}"))?;
                tokio::spawn(connection);
                sender = Some(made);
            }
            let sender = sender.as_mut().ok_or("was just made")?;
            let response = sender
                .send_request(request(&targets.http2, false, grpc))
                .await
                .map_err(|error| format!("send: {error:?}"))?;
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
async fn tcp_connections(address: SocketAddr, mut stopped: watch::Receiver<bool>) -> Tally {
    let mut tally = Tally::default();
    while go_on(&mut stopped).await {
        let one = async {
            let mut stream = connect(address).await?;
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

/// An upgraded connection to `authority`.
pub async fn upgraded(proxy: SocketAddr, authority: String) -> Result<TcpStream, String> {
    let mut stream = connect(proxy).await?;
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
    mut stopped: watch::Receiver<bool>,
) -> Tally {
    let mut tally = Tally::default();
    let opened = tokio::time::timeout(PATIENCE, opening).await;
    let mut stream = match opened.unwrap_or_else(|_| Err(format!("not open in {PATIENCE:?}"))) {
        Ok(stream) => stream,
        Err(failure) => {
            tally.add(kind, Err(failure));
            return tally;
        }
    };
    while go_on(&mut stopped).await {
        let result = bounded(echo(&mut stream, b"still here")).await;
        let broken = result.is_err();
        tally.add(kind, result);
        if broken {
            break;
        }
    }
    tally
}
