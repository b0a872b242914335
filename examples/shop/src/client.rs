//! How an application calls another: HTTP/1.1 requests in absolute form, sent to its sidecar as to any HTTP proxy.
//!
//! Where nothing is known of a sidecar (in a pod, whose sidecar captures connections, and in tests) the same requests
//! go straight to the peers, which is what absolute form allows (RFC 9112, 3.2.2). Connections are kept and used again; a request that a stale one did not take is sent on another,
//! everything else is up to the mesh: this client doesn't retry.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;

use crate::context::Context;
use crate::message::to_json;

/// How long one call may take, connecting included.
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// How large an answer may be, in bytes.
const MAX_ANSWER: usize = 16 * 1024 * 1024;

/// The port of an authority that names none.
const HTTP_PORT: u16 = 80;

/// How many idle connections are kept per address.
const MAX_IDLE: usize = 64;

/// How long a connection may have been idle to be used again. Less than the second that an application which stops has
/// for telling its clients: one that it closes then has been idle for longer, and nothing is sent on it meanwhile.
const MAX_IDLE_TIME: Duration = Duration::from_millis(500);

/// Where requests are sent.
#[derive(Clone, Debug)]
pub enum Outbound {
    /// To the sidecar's outbound port, whatever the authority.
    Sidecar(SocketAddr),
    /// To the peer itself, by authority.
    Direct(BTreeMap<String, SocketAddr>),
    /// To the peer itself, whose name is looked up.
    Names,
}

impl Outbound {
    /// What to dial for `authority`: an address, or a name to look up, with a port.
    ///
    /// # Errors
    /// When it has none.
    pub fn address(&self, authority: &str) -> Result<String, CallError> {
        match self {
            Self::Sidecar(address) => Ok(address.to_string()),
            Self::Direct(peers) => peers
                .get(authority)
                .map(SocketAddr::to_string)
                .ok_or_else(|| CallError::Unknown(authority.to_owned())),
            Self::Names if authority.contains(':') => Ok(authority.to_owned()),
            Self::Names => Ok(format!("{authority}:{HTTP_PORT}")),
        }
    }
}

/// One call.
#[derive(Debug)]
pub struct Call<'a> {
    /// The method.
    pub method: Method,
    /// `host` or `host:port`.
    pub authority: &'a str,
    /// Path and query.
    pub path: &'a str,
    /// A JSON body.
    pub body: Option<serde_json::Value>,
    /// What it belongs to.
    pub context: &'a Context,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as `T`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, CallError> {
        serde_json::from_slice(&self.body).map_err(CallError::Json)
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No such peer.
    #[error("no address is known for `{0}`")]
    Unknown(String),
    /// The request can't be written.
    #[error("the request is not valid: {0}")]
    Invalid(#[from] http::Error),
    /// Nothing listens, or the machine refuses.
    #[error("can't connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// The connection broke.
    #[error("the connection ended before the answer did: {0}")]
    Broken(#[from] hyper::Error),
    /// The answer's body broke, or is too large.
    #[error("the answer's body can't be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// The answer is not what it should be.
    #[error("the answer is not the JSON that was expected: {0}")]
    Json(serde_json::Error),
    /// It took too long.
    #[error("no answer within {CALL_TIMEOUT:?}")]
    Timeout,
}

type Sender = SendRequest<Full<Bytes>>;

/// A client with its connections.
#[derive(Debug)]
pub struct Client {
    outbound: Outbound,
    /// With when each was last used.
    idle: Mutex<HashMap<String, Vec<(Sender, Instant)>>>,
}

impl Client {
    /// A client without connections.
    pub fn new(outbound: Outbound) -> Self {
        Self {
            outbound,
            idle: Mutex::default(),
        }
    }

    /// Sends a request and waits for the whole answer.
    ///
    /// # Errors
    /// When there is no whole answer. Any status is an answer.
    pub async fn call(&self, call: Call<'_>) -> Result<Answer, CallError> {
        let address = self.outbound.address(call.authority)?;
        let request = request(call)?;
        tokio::time::timeout(CALL_TIMEOUT, self.exchange(&address, request))
            .await
            .unwrap_or(Err(CallError::Timeout))
    }

    async fn exchange(&self, address: &str, mut request: Request<Full<Bytes>>) -> Result<Answer, CallError> {
        loop {
            let mut sender = match self.take(address) {
                Some(sender) => sender,
                None => connect(address).await?,
            };
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let status = response.status();
                    let body = Limited::new(response.into_body(), MAX_ANSWER);
                    let body = body.collect().await.map_err(CallError::Body)?.to_bytes();
                    self.give_back(address, sender);
                    return Ok(Answer { status, body });
                }
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(error.into_error().into()),
                },
            }
        }
    }

    fn take(&self, address: &str) -> Option<Sender> {
        let mut idle = self
            .idle
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let senders = idle.get_mut(address)?;
        let usable = |(sender, used): (Sender, Instant)| {
            let fresh = used.elapsed() < MAX_IDLE_TIME && !sender.is_closed();
            fresh.then_some(sender)
        };
        std::iter::from_fn(|| senders.pop()).find_map(usable)
    }

    fn give_back(&self, address: &str, sender: Sender) {
        let mut idle = self
            .idle
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let senders = idle.entry(address.to_owned()).or_default();
        if senders.len() < MAX_IDLE && !sender.is_closed() {
            senders.push((sender, Instant::now()));
        }
    }
}

async fn connect(address: &str) -> Result<Sender, CallError> {
    let stream = TcpStream::connect(address)
        .await
        .and_then(|stream| stream.set_nodelay(true).map(|()| stream))
        .map_err(|error| CallError::Connect(address.to_owned(), error))?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    let address = address.to_owned();
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(address, %error, "a connection broke");
        }
    });
    sender.ready().await?;
    Ok(sender)
}

fn request(call: Call<'_>) -> Result<Request<Full<Bytes>>, CallError> {
    let uri = Uri::builder()
        .scheme("http")
        .authority(call.authority)
        .path_and_query(call.path)
        .build()?;
    let mut request = Request::builder()
        .method(call.method)
        .uri(uri)
        .header(HOST, call.authority);
    if let Some(headers) = request.headers_mut() {
        headers.extend(call.context.headers());
    }
    let body = call.body.map_or_else(Bytes::new, |body| to_json(&body));
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    Ok(request.body(Full::new(body))?)
}
