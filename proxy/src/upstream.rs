//! Connections to endpoints and applications, and requests on them.
//!
//! Between sidecars requests share HTTP/2 connections, one pool for each dialled address and expected identity; towards
//! an application HTTP/1 connections are kept and reused one request at a time. Upgrades and opaque bytes get a
//! connection of their own. Which connection a request takes, and when one is opened or retired, is decided in
//! `weft_proxy_core::pool`; here connections are made, kept and lost.
//!
//! A connection is made by a task of its own: whoever waits for it may go away, and others wait for the same one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use weft_identity::tls::alpn;
use weft_proxy_core::limit::{Gauge, Permit};
use weft_proxy_core::pool::{self, ConnectionId, Settings, Take, Upkeep};
use weft_proxy_core::resource::{Endpoint, Name};
use weft_proxy_core::retry::Failure;
use weft_proxy_core::time::Now;

use crate::dial::{DialError, Dialled, dial};
use crate::http::upload::Sending;
use crate::http::{Body, UploadBody, h1, h2};
use crate::local::Local;
use crate::stream::Stream;
use crate::telemetry::metrics::outliving_panics;

mod unsent;

pub use unsent::build;

/// How an endpoint is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speak {
    /// HTTP/1.1, one request at a time.
    Http1,
    /// HTTP/2, many requests at a time; over mTLS where the endpoint has an identity.
    Http2,
}

/// What bounds connections to a cluster.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// TCP and TLS together.
    pub connect_timeout: Duration,
    /// Connections of the whole proxy, and how many there may be.
    pub connections: (Arc<Gauge>, u32),
    /// Requests of the whole proxy that wait for a connection, and how many may.
    pub pending: (Arc<Gauge>, u32),
}

/// Connections of one worker that no cluster bounds (to its application, to the outside), at once.
const MAX_LOCAL: u32 = 16_384;

thread_local! {
    static LOCAL: [Arc<Gauge>; 2] = Default::default();
}

impl Bounds {
    /// Whether they are the `other` ones.
    fn are(&self, other: &Self) -> bool {
        let same = |(mine, limit): &(Arc<Gauge>, u32), (theirs, other): &(Arc<Gauge>, u32)| {
            limit == other && Arc::ptr_eq(mine, theirs)
        };
        self.connect_timeout == other.connect_timeout
            && same(&self.connections, &other.connections)
            && same(&self.pending, &other.pending)
    }

    /// The bounds of connections that belong to no cluster.
    pub fn local(connect_timeout: Duration) -> Self {
        let [connections, pending] = LOCAL.with(Clone::clone);
        Self {
            connect_timeout,
            connections: (connections, MAX_LOCAL),
            pending: (pending, MAX_LOCAL),
        }
    }
}

type Key = (SocketAddr, Option<Name>, Speak);

/// All connections for requests that a worker made.
#[derive(Debug, Default)]
pub struct Upstream {
    pools: RefCell<HashMap<Key, Rc<Pool>>>,
}

/// Connections to one endpoint.
#[derive(Debug)]
struct Pool {
    speak: Speak,
    endpoint: Arc<Endpoint>,
    bounds: RefCell<Bounds>,
    decisions: RefCell<pool::Pool>,
    connections: RefCell<HashMap<ConnectionId, Rc<Connection>>>,
    waiting: Cell<u32>,
    /// A connection is ready, has room, or could not be made.
    changed: Notify,
    failures: Cell<u64>,
    last_failure: Cell<Failure>,
}

#[derive(Debug)]
struct Connection {
    wire: Wire,
    room: Cell<usize>,
    _place: Permit,
}

#[derive(Debug)]
enum Wire {
    Http1(RefCell<h1::Sender>),
    Http2(h2::Sender),
}

/// A request's hold on its connection, until its response has ended.
#[derive(Debug)]
pub struct Held {
    sent: Now,
    id: ConnectionId,
    connection: Rc<Connection>,
    pool: Rc<Pool>,
    local: Rc<Local>,
    /// The request's body.
    sending: Option<Sending>,
}

impl Upstream {
    /// Sends `request` to `endpoint` and waits for the head of its response.
    pub async fn send(
        &self,
        local: &Rc<Local>,
        endpoint: &Arc<Endpoint>,
        speak: Speak,
        bounds: &Bounds,
        request: Request<UploadBody>,
    ) -> Result<(Response<Body>, Held), Failure> {
        let mut held = self.pool(endpoint, speak, bounds).take(local).await?;
        held.sending = Some(request.body().sending());
        let response = match &held.connection.wire {
            Wire::Http2(sender) => sender
                .clone()
                .send(request)
                .await
                .map_err(|error| of_http2(&error))?,
            Wire::Http1(sender) => {
                let sending = sender.borrow_mut().send(request);
                sending.await.map_err(|error| of_http1(&error))?
            }
        };
        Ok((response, held))
    }

    fn pool(&self, endpoint: &Arc<Endpoint>, speak: Speak, bounds: &Bounds) -> Rc<Pool> {
        let key = (endpoint.address, endpoint.identity.clone(), speak);
        let mut pools = self.pools.borrow_mut();
        let pool = pools
            .entry(key)
            .or_insert_with(|| Rc::new(Pool::new(speak, Arc::clone(endpoint), bounds.clone())));
        if !pool.bounds.borrow().are(bounds) {
            *pool.bounds.borrow_mut() = bounds.clone();
        }
        Rc::clone(pool)
    }

    /// Opens successors and closes what is not used any more; to be called once a second.
    pub fn sweep(&self, local: &Rc<Local>) {
        let now = local.now();
        self.pools.borrow_mut().retain(|_, pool| {
            pool.upkeep(local, now);
            Rc::strong_count(pool) > 1 || !pool.decisions.borrow().is_empty()
        });
    }

    /// How many connections there are.
    pub fn open(&self) -> usize {
        self.pools
            .borrow()
            .values()
            .map(|pool| pool.connections.borrow().len())
            .sum()
    }
}

impl Pool {
    fn new(speak: Speak, endpoint: Arc<Endpoint>, bounds: Bounds) -> Self {
        let settings = match speak {
            Speak::Http1 => Settings::HTTP1,
            Speak::Http2 => Settings::HTTP2,
        };
        Self {
            speak,
            endpoint,
            bounds: RefCell::new(bounds),
            decisions: RefCell::new(pool::Pool::new(settings)),
            connections: RefCell::default(),
            waiting: Cell::new(0),
            changed: Notify::new(),
            failures: Cell::new(0),
            last_failure: Cell::new(Failure::ConnectFailed),
        }
    }

    /// A place on a connection that is ready to send: at once where there is one, as there mostly is.
    async fn take(self: &Rc<Self>, local: &Rc<Local>) -> Result<Held, Failure> {
        let take = self.decisions.borrow_mut().take(local.now(), self.waiting.get());
        if let Take::Use(id) = take
            && let Some(held) = self.hold(local, id).await
        {
            return Ok(held);
        }
        Box::pin(self.wait_for_one(local, take)).await
    }

    /// A place on a connection that is yet to be made, or to become free. `take`: what was decided last.
    async fn wait_for_one(self: &Rc<Self>, local: &Rc<Local>, take: Take) -> Result<Held, Failure> {
        let mut waiting = None;
        let mut decided = Some(take).filter(|take| !matches!(take, Take::Use(_)));
        loop {
            let others = self.waiting.get() - u32::from(waiting.is_some());
            let ask = || self.decisions.borrow_mut().take(local.now(), others);
            let take = decided.take().unwrap_or_else(ask);
            if let Take::Use(id) = take {
                if let Some(held) = self.hold(local, id).await {
                    return Ok(held);
                }
                continue;
            }
            if waiting.is_none() {
                waiting = Some(self.wait()?);
            }
            if let Take::Open(id) = take {
                self.open(local, id);
            }
            let failures = self.failures.get();
            self.changed.notified().await;
            if self.failures.get() != failures {
                return Err(self.last_failure.get());
            }
        }
    }

    /// Holds a place that was taken, once the connection can send. `None`: it can't any more, and is forgotten.
    async fn hold(self: &Rc<Self>, local: &Rc<Local>, id: ConnectionId) -> Option<Held> {
        let Some(connection) = self.connections.borrow().get(&id).cloned() else {
            self.decisions.borrow_mut().lost(id);
            return None;
        };
        let mut held = Held {
            sent: local.now(),
            id,
            connection,
            pool: Rc::clone(self),
            local: Rc::clone(local),
            sending: None,
        };
        match &held.connection.wire {
            Wire::Http1(sender) => {
                if !std::future::poll_fn(|cx| sender.borrow_mut().poll_ready(cx)).await {
                    self.lose(id);
                    return None;
                }
            }
            Wire::Http2(sender) => {
                if !sender.clone().ready().await {
                    self.decisions.borrow_mut().drained(id, local.now());
                    return None;
                }
                let room = sender.max_streams();
                if held.connection.room.replace(room) != room {
                    let room = u32::try_from(room).unwrap_or(u32::MAX);
                    self.decisions.borrow_mut().room_changed(id, room);
                }
            }
        }
        held.sent = local.now();
        Some(held)
    }

    fn wait(self: &Rc<Self>) -> Result<Waiting, Failure> {
        let (gauge, limit) = &self.bounds.borrow().pending;
        let place = gauge.permit(*limit).ok_or(Failure::Overloaded)?;
        self.waiting.set(self.waiting.get() + 1);
        Ok(Waiting {
            pool: Rc::clone(self),
            _place: place,
        })
    }

    /// Begins to make a connection, if there is a place for it. Where no other takes requests one is always made, so
    /// that every worker reaches every endpoint, however few connections are allowed; elsewhere the next free one is
    /// waited for.
    fn open(self: &Rc<Self>, local: &Rc<Local>, id: ConnectionId) {
        let (gauge, limit) = self.bounds.borrow().connections.clone();
        let alone = !self.decisions.borrow().has_other(id, local.now());
        let Some(place) = gauge.permit(if alone { u32::MAX } else { limit }) else {
            return self.decisions.borrow_mut().lost(id);
        };
        let opening = Opening {
            pool: Rc::clone(self),
            id,
            done: Cell::new(false),
        };
        let local = Rc::clone(local);
        spawn_local(outliving_panics(async move { opening.run(&local, place).await }));
    }

    fn upkeep(self: &Rc<Self>, local: &Rc<Local>, now: Now) {
        let closed: Vec<ConnectionId> = self
            .connections
            .borrow()
            .iter()
            .filter_map(|(id, connection)| connection.is_closed().then_some(*id))
            .collect();
        for id in closed {
            self.lose(id);
        }
        let due = self.decisions.borrow_mut().upkeep(now);
        for upkeep in due {
            match upkeep {
                Upkeep::Close(id) => drop(self.connections.borrow_mut().remove(&id)),
                // Without a place for a successor requests wait for one when they need it.
                Upkeep::Open(id) => self.open(local, id),
            }
        }
        self.wake(); // a connection may have retired that was waited for
    }

    fn lose(&self, id: ConnectionId) {
        self.decisions.borrow_mut().lost(id);
        self.connections.borrow_mut().remove(&id);
        self.wake();
    }

    fn wake(&self) {
        if self.waiting.get() > 0 {
            self.changed.notify_waiters();
        }
    }
}

/// A connection that is being made; one that is given up counts as failed.
struct Opening {
    pool: Rc<Pool>,
    id: ConnectionId,
    done: Cell<bool>,
}

impl Opening {
    async fn run(self, local: &Rc<Local>, place: Permit) {
        let limit = self.pool.bounds.borrow().connect_timeout;
        match connect(local, &self.pool.endpoint, self.pool.speak, limit).await {
            Ok((wire, end)) => {
                let room = wire.room();
                let connection = Connection {
                    wire,
                    room: Cell::new(room),
                    _place: place,
                };
                self.pool
                    .connections
                    .borrow_mut()
                    .insert(self.id, Rc::new(connection));
                let room = u32::try_from(room).unwrap_or(u32::MAX);
                self.done.set(
                    self.pool
                        .decisions
                        .borrow_mut()
                        .opened(self.id, local.now(), end, room),
                );
                if self.done.get() {
                    self.pool.wake();
                }
            }
            Err(failure) => self.pool.last_failure.set(failure),
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.done.get() {
            self.pool.failures.set(self.pool.failures.get() + 1);
            self.pool.lose(self.id);
        }
    }
}

/// A request that waits for a connection.
struct Waiting {
    pool: Rc<Pool>,
    _place: Permit,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.pool.waiting.set(self.pool.waiting.get() - 1);
    }
}

impl Wire {
    fn room(&self) -> usize {
        match self {
            Self::Http1(_) => 1,
            Self::Http2(sender) => sender.max_streams(),
        }
    }
}

impl Connection {
    fn is_closed(&self) -> bool {
        match &self.wire {
            Wire::Http1(sender) => sender.borrow().is_closed(),
            Wire::Http2(sender) => sender.is_closed(),
        }
    }
}

impl Held {
    /// When the connection was ready to send.
    pub fn sent(&self) -> Now {
        self.sent
    }

    /// Whether an HTTP/1 connection is not free, though the response is over: who came next would wait for the rest of
    /// the request's body.
    fn is_still_sending(&self) -> bool {
        let sending = self.sending.as_ref().is_some_and(Sending::under_way);
        sending && matches!(self.connection.wire, Wire::Http1(_))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.connection.is_closed() || self.is_still_sending() {
            return self.pool.lose(self.id);
        }
        if self
            .pool
            .decisions
            .borrow_mut()
            .release(self.id, self.local.now())
        {
            self.pool.connections.borrow_mut().remove(&self.id);
        }
        self.pool.wake();
    }
}

async fn connect(
    local: &Local,
    endpoint: &Endpoint,
    speak: Speak,
    limit: Duration,
) -> Result<(Wire, Option<Now>), Failure> {
    let protocol = match speak {
        Speak::Http1 => alpn::H1,
        Speak::Http2 => alpn::H2,
    };
    let Dialled { stream, expires } = dial_told(local, endpoint, protocol, limit).await?;
    let wire = match speak {
        Speak::Http1 => {
            let sender = h1::Sender::new(stream)
                .await
                .map_err(|_| Failure::ConnectFailed)?;
            Wire::Http1(RefCell::new(sender))
        }
        Speak::Http2 => {
            if endpoint.identity.is_some() {
                stream.is_always_read();
            }
            let sender = h2::Sender::new(stream).await;
            Wire::Http2(sender.map_err(|_| Failure::ConnectFailed)?)
        }
    };
    Ok((wire, expires))
}

async fn dial_told(
    local: &Local,
    endpoint: &Endpoint,
    protocol: &'static [u8],
    limit: Duration,
) -> Result<Dialled, Failure> {
    dial(local, endpoint, protocol, limit).await.map_err(|error| {
        tracing::debug!(%error, workload = &*endpoint.workload, "no connection");
        match error {
            DialError::Refused(..) => Failure::ConnectFailed,
            DialError::Timeout(..) => Failure::ConnectTimeout,
            DialError::Tls(..) | DialError::NoIdentity(_) => Failure::TlsRefused,
        }
    })
}

fn of_http2(error: &h2::RequestError) -> Failure {
    if error.unprocessed {
        Failure::Refused
    } else if error.error.is_library() {
        Failure::Protocol
    } else {
        Failure::Reset
    }
}

fn of_http1(error: &h1::SendError) -> Failure {
    if error.unsent {
        Failure::Refused
    } else if error.error.is_parse_too_large() {
        Failure::HeadTooLarge
    } else if error.error.is_parse() {
        Failure::Protocol
    } else {
        Failure::Reset
    }
}

/// A connection of its own, for one exchange that may end in an upgrade.
#[derive(Debug)]
pub struct Own {
    sent: Now,
    sender: h1::Sender,
    place: Permit,
}

impl Own {
    /// Connects.
    pub async fn connect(local: &Local, endpoint: &Endpoint, bounds: &Bounds) -> Result<Self, Failure> {
        let (gauge, limit) = &bounds.connections;
        let place = gauge.permit(*limit).ok_or(Failure::Overloaded)?;
        let dialled = dial_told(local, endpoint, alpn::H1, bounds.connect_timeout).await?;
        let mut sender = h1::Sender::new(dialled.stream)
            .await
            .map_err(|_| Failure::ConnectFailed)?;
        if std::future::poll_fn(|cx| sender.poll_ready(cx)).await {
            Ok(Self {
                sent: local.now(),
                sender,
                place,
            })
        } else {
            Err(Failure::Refused)
        }
    }

    /// When the connection was ready to send.
    pub fn sent(&self) -> Now {
        self.sent
    }

    /// Sends the one request.
    pub async fn send(&mut self, request: Request<UploadBody>) -> Result<Response<Body>, Failure> {
        self.sender.send(request).await.map_err(|error| of_http1(&error))
    }

    /// The byte stream after an upgrade was granted, and its place among the connections.
    pub async fn into_upgraded(self) -> Option<(Stream, Permit)> {
        Some((self.sender.into_upgraded().await?, self.place))
    }
}

/// A connection for opaque bytes, and its place among the connections.
pub async fn open_opaque(
    local: &Local,
    endpoint: &Endpoint,
    bounds: &Bounds,
) -> Result<(Stream, Permit), Failure> {
    let (gauge, limit) = &bounds.connections;
    let place = gauge.permit(*limit).ok_or(Failure::Overloaded)?;
    let dialled = dial_told(local, endpoint, alpn::TCP, bounds.connect_timeout).await?;
    Ok((dialled.stream, place))
}
