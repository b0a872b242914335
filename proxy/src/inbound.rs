//! From the mesh to the application: who may connect, and one request, read top to bottom.
//!
//! ```text
//! TLS with a mesh name (ALPN) ─▶ handshake, both sides proven ─▶ weft-h2, h2: requests │ weft-h1: one, may upgrade
//!                                                                weft-tcp: opaque bytes
//! anything else ─ Strict ─▶ refused, nothing reaches the application
//!               └ Permissive ─▶ as it is: requests, the application's own TLS, opaque bytes
//! ```
//!
//! The dialled port alone decides the application's port, never a header.

use std::future::pending;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use weft_identity::tls::{self, alpn};
use weft_proxy_core::outcome::{Reason, is_grpc};
use weft_proxy_core::protocol::Detected;
use weft_proxy_core::resource::{Endpoint, InboundPort, Name, Protocol, TlsMode};

use crate::drain::{Busy, Tracked};
use crate::finish::{Finish, Relayed, answer};
use crate::http::h2::Limits;
use crate::http::{Body, h1, h2};
use crate::protocol::{CONNECT, DETECT_TIMEOUT, is_mesh_alpn, offered_alpn, sniff, sniff_tls};
use crate::socket::{self, original_destination};
use crate::stream::Stream;
use crate::telemetry::metrics::{self, Direction, Edge};
use crate::upgraded;
use crate::worker::Worker;

mod opaque;
mod request;

use request::Slot;

/// TCP to the application.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The label of a port that no Service selects.
const NO_SERVICE: &str = "none";

/// An inbound connection's place: the port that was dialled, the application behind it, and who dialled.
#[derive(Debug)]
struct Site {
    worker: Rc<Worker>,
    peer: SocketAddr,
    /// The port that was dialled.
    port: u16,
    /// How the application was said to speak when the connection was made.
    protocol: Protocol,
    app: Arc<Endpoint>,
    edge: Rc<Edge>,
    /// The identity that the peer proved; `None` in plaintext.
    identity: Option<Name>,
    /// The same, as the application is told.
    told: Option<HeaderValue>,
}

/// Serves a connection that was led here from where it was going, which is where the application is. One that was made
/// to us, or was going to a port of ours, is no way round the policy of another port.
pub async fn captured(worker: Rc<Worker>, tcp: TcpStream, peer: SocketAddr) {
    match original_destination(&tcp) {
        Some(address) if !worker.local.config.is_own_port(address.port()) => {
            serve(worker, tcp, peer, address.port(), address).await;
        }
        _ => {
            metrics::count_uncaptured(Direction::Inbound);
            tracing::info!(%peer, "a connection to the proxy's own port was refused");
            socket::reset_on_close(&tcp);
        }
    }
}

/// Serves a connection to the inbound port `port`, whose application is at `app`.
pub async fn connection(worker: Rc<Worker>, tcp: TcpStream, peer: SocketAddr, port: u16, app: SocketAddr) {
    let (port, app) = original_destination(&tcp).map_or((port, app), |address| (address.port(), address));
    serve(worker, tcp, peer, port, app).await;
}

async fn serve(worker: Rc<Worker>, tcp: TcpStream, peer: SocketAddr, port: u16, app: SocketAddr) {
    let policy = policy(&worker, port);
    let tracked = worker.tracker.track(Direction::Inbound);
    let site = Site::new(worker, peer, (port, app), &policy);
    let stream = Stream::from(tcp);
    let stream = match (policy.tls, policy.protocol) {
        (TlsMode::Permissive, Protocol::Tcp | Protocol::Detect) => {
            match opaque::unless_server_first(&site, stream, &tracked).await {
                Some(stream) => stream,
                None => return,
            }
        }
        _ => stream,
    };
    let sniffing = async {
        match (policy.tls, policy.protocol) {
            (TlsMode::Permissive, Protocol::Tcp) => sniff_tls(stream).await,
            _ => sniff(stream).await,
        }
    };
    let sniffed = tokio::select! {
        sniffed = sniffing => sniffed,
        () = tracked.finished() => None,
    };
    let Some((detected, stream)) = sniffed else { return };
    match (detected, policy.tls) {
        (Detected::Tls, TlsMode::Strict) => mesh(site, stream, tracked).await,
        (Detected::Tls, TlsMode::Permissive) => own_tls_or_mesh(site, stream, tracked).await,
        (_, TlsMode::Strict) => refuse(site, stream, detected, &tracked).await,
        (_, TlsMode::Permissive) => plaintext(site, stream, detected, tracked).await,
    }
}

/// What a port offers. For one that no configuration names the namespace's policy holds; without any configuration,
/// the mesh only is let in.
fn policy(worker: &Worker, port: u16) -> InboundPort {
    let view = worker.local.published.load();
    let inbound = view.snapshot.inbound.as_ref();
    let named = inbound.and_then(|inbound| inbound.ports.get(&port));
    let mut policy = named.cloned().unwrap_or(InboundPort {
        protocol: Protocol::Detect,
        tls: inbound.map_or(TlsMode::Strict, |inbound| inbound.undeclared),
        service: None,
    });
    if worker.local.config.capture.is_opaque(port) {
        policy.protocol = Protocol::Tcp;
    }
    policy
}

impl Site {
    fn new(
        worker: Rc<Worker>,
        peer: SocketAddr,
        (port, app): (u16, SocketAddr),
        policy: &InboundPort,
    ) -> Self {
        let service = policy.service.clone().unwrap_or_else(|| NO_SERVICE.into());
        let app = Endpoint {
            address: app,
            weight: 1,
            ready: true,
            zone: "".into(),
            identity: None,
            workload: "".into(),
        };
        Self {
            edge: worker.edge(&service, Direction::Inbound),
            worker,
            peer,
            port,
            protocol: policy.protocol,
            app: Arc::new(app),
            identity: None,
            told: None,
        }
    }

    /// What the port offers by now: a connection may live for long, and for a request holds what holds when it comes.
    fn policy(&self) -> InboundPort {
        policy(&self.worker, self.port)
    }
}

/// The mesh's TLS: both sides prove who they are, then the ALPN name says what follows.
async fn mesh(mut site: Site, stream: Stream, tracked: Tracked) {
    let (Some(own), Some(transport)) = (site.worker.local.published.identity(), stream.into_plain()) else {
        return;
    };
    let handshake = TlsAcceptor::from(own.server_config()).accept(transport);
    let tls = match timeout(DETECT_TIMEOUT, handshake).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            metrics::count_refused_handshake();
            return tracing::info!(peer = %site.peer, %error, "an inbound TLS handshake failed");
        }
        Err(_) => return metrics::count_refused_handshake(),
    };
    let session = tls.get_ref().1;
    let certificates = session.peer_certificates().unwrap_or_default();
    let (Ok(peer), Ok(id)) = (
        tls::peer(certificates),
        tls::peer_identity(certificates, &own.bundle),
    ) else {
        return;
    };
    site.identity = Some(id.as_str().into());
    site.told = HeaderValue::try_from(id.as_str()).ok();
    let spoken = session.alpn_protocol().map(<[u8]>::to_vec);
    let expires = site.worker.local.at(own.leaf.not_after().min(peer.not_after));
    let expires = site.worker.local.instant(expires);
    let stream = Stream::from(tls);
    let detected = match spoken.as_deref() {
        Some(alpn::TCP) => return opaque::serve(&site, stream, &tracked).await,
        Some(alpn::H2 | alpn::FOREIGN_H2) => {
            stream.is_always_read();
            Detected::Http2
        }
        _ => Detected::Http1,
    };
    // Its successor is the client's affair; what runs when a leaf expires ends by itself.
    let expiry = async {
        tokio::time::sleep_until(expires).await;
        tracked.finish();
        pending::<()>().await;
    };
    tokio::select! {
        () = requests(site, stream, detected, &tracked) => {}
        () = expiry => {}
    }
}

/// Under Permissive: TLS that may be the mesh's or the application's own.
async fn own_tls_or_mesh(site: Site, stream: Stream, tracked: Tracked) {
    let Some((offered, stream)) = offered_alpn(stream).await else {
        return;
    };
    // An application that is declared to speak plain HTTP has no TLS of its own: `h2` is then a foreign mesh client.
    let plain = matches!(site.protocol, Protocol::Http1 | Protocol::Http2 | Protocol::Grpc);
    if is_mesh_alpn(&offered) || plain {
        mesh(site, stream, tracked).await;
    } else {
        opaque::serve(&site, stream, &tracked).await;
    }
}

/// Under Permissive: plaintext.
async fn plaintext(site: Site, stream: Stream, detected: Detected, tracked: Tracked) {
    let tunnel = stream.prefix().starts_with(CONNECT);
    match (detected, site.protocol) {
        (Detected::Http1, Protocol::Detect) if tunnel => opaque::serve(&site, stream, &tracked).await,
        (_, Protocol::Tcp) | (Detected::Opaque | Detected::NeedMore | Detected::Tls, Protocol::Detect) => {
            opaque::serve(&site, stream, &tracked).await;
        }
        _ => requests(site, stream, detected, &tracked).await,
    }
}

/// Serves requests.
async fn requests(site: Site, stream: Stream, detected: Detected, tracked: &Tracked) {
    let limits = if site.identity.is_some() {
        Limits::MESH
    } else {
        Limits::APPLICATION
    };
    let site = Rc::new(site);
    if detected == Detected::NeedMore {
        return h1::too_late(stream, tracked.direction());
    }
    if detected == Detected::Http2 {
        let handle =
            move |request: Request<Body>, busy: Busy| request::serve(Rc::clone(&site), request, busy, None);
        return h2::serve(stream, limits, tracked, handle).await;
    }
    let slot = Slot::default();
    let handle = |request: Request<Body>, busy: Busy| {
        request::serve(Rc::clone(&site), request, busy, Some(slot.clone()))
    };
    if let Some(stream) = h1::serve(stream, tracked, handle).await {
        let upgraded = slot.borrow_mut().take();
        if let Some((own, open)) = upgraded {
            upgraded::join(stream, *own, *open).await;
        }
    }
}

/// Under Strict: plaintext. HTTP clients are told why, nothing is read beyond a head, nothing reaches the application.
async fn refuse(site: Site, stream: Stream, detected: Detected, tracked: &Tracked) {
    metrics::count_refused_plaintext();
    tracked.finish(); // after the one answer
    let handle = move |request: Request<Body>, busy: Busy| {
        let worker = &site.worker;
        let protocol = metrics::Protocol::of(request.version(), is_grpc(request.headers()));
        let mut finish = Finish::new(worker, busy, worker.local.now(), Direction::Inbound, protocol);
        finish.edge = Some(Rc::clone(&site.edge));
        let response: Response<Relayed> =
            answer(Reason::IdentityRequired, None, request.method(), finish, None);
        std::future::ready(response)
    };
    match detected {
        Detected::Http1 => drop(h1::serve(stream, tracked, handle).await),
        Detected::Http2 => h2::serve(stream, Limits::APPLICATION, tracked, handle).await,
        Detected::Tls | Detected::Opaque | Detected::NeedMore => stream.reset_on_close(),
    }
}
