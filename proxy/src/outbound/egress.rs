//! Traffic to what is no part of the mesh, where egress is allowed: passed as it is, in plaintext, and counted.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, Version};
use metrics::counter;
use weft_proxy_core::authority::{is_forbidden, is_own};
use weft_proxy_core::hygiene::{RequestFacts, check_response, strip_hop_by_hop, strip_private};
use weft_proxy_core::outcome::Reason;
use weft_proxy_core::resource::{Endpoint, Name};
use weft_proxy_core::snapshot::Lookup;

use crate::drain::Tracked;
use crate::finish::{Finish, Judge, Open, Relayed, answer, completed};
use crate::http::{Body, Upload, absolute};
use crate::stream::Stream;
use crate::upstream::{Bounds, Held, Speak};
use crate::worker::Worker;
use crate::{socket, tcp};

/// TCP, to one address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
fn bounds() -> Bounds {
    Bounds::local(CONNECT_TIMEOUT)
}

/// The first address of `name`, which always has a port. Never one of this proxy's own: that would go round for ever.
async fn resolve(worker: &Worker, name: &str) -> Result<SocketAddr, Reason> {
    let found = tokio::net::lookup_host(name).await;
    let address = found
        .ok()
        .and_then(|mut addresses| addresses.next())
        .ok_or(Reason::ConnectFailed)?;
    // Another host may well listen on a port that we listen on.
    if is_own(address, &worker.local.config.own_addresses) && socket::is_local(address.ip()) {
        return Err(Reason::ConnectForbidden);
    }
    Ok(address)
}

/// Where a connection goes. A host name that a tunnel was asked for must not lead where its address must not.
async fn resolve_tunnel(worker: &Worker, name: &str) -> Option<SocketAddr> {
    let address = resolve(worker, name).await.ok()?;
    let named = name.parse::<SocketAddr>().is_err();
    let forbidden = named && is_forbidden(address, &worker.local.config.own_addresses);
    (!forbidden).then_some(address)
}

fn outside(address: SocketAddr) -> Arc<Endpoint> {
    Arc::new(Endpoint {
        address,
        weight: 1,
        ready: true,
        zone: "".into(),
        identity: None,
        workload: "".into(),
    })
}

/// Whether a captured connection to `address` needs no answer about `name`: nothing is known of it, nobody can be
/// asked, and no part of the mesh has such an address.
pub(super) fn passes_at_once(worker: &Worker, address: SocketAddr, name: &str) -> bool {
    let local = &worker.local;
    local.config.egress_allowed
        && !local.config.capture.may_be_meshed(address.ip())
        && !local.published.is_connected()
        && matches!(local.published.load().lookup(name), Lookup::Pending)
}

/// Passes a connection.
pub(super) async fn pass(worker: &Worker, stream: Stream, name: &Name, tracked: &Tracked) {
    let _busy = tracked.begin();
    let connected = async {
        let address = resolve_tunnel(worker, name).await?;
        tokio::time::timeout(CONNECT_TIMEOUT, socket::connect(address))
            .await
            .ok()?
            .ok()
    };
    let Some(upstream) = connected.await else {
        counter!("weft_egress_connections_total", "result" => "failed").increment(1);
        return stream.reset_on_close();
    };
    counter!("weft_egress_connections_total", "result" => "opened").increment(1);
    if tcp::relay(stream, upstream.into()).await.end != tcp::End::Clean {
        counter!("weft_egress_connections_total", "result" => "unclean").increment(1);
    }
}

/// Passes a request: to where it asks to go itself, as written, unless its connection is `fixed` to `name`.
pub(super) async fn request(
    worker: &Rc<Worker>,
    request: Request<Body>,
    facts: &RequestFacts,
    name: &Name,
    fixed: bool,
    mut finish: Finish,
) -> Response<Relayed> {
    counter!("weft_egress_requests_total").increment(1);
    let method = request.method().clone();
    let asked = facts.authority.as_ref().filter(|_| !fixed);
    let asked =
        asked.map(|authority| format!("{}:{}", authority.host, authority.port_or(facts.default_port)));
    let address = match resolve(worker, asked.as_deref().unwrap_or(name)).await {
        Ok(address) => address,
        Err(reason) => return answer(reason, asked.as_deref(), &method, finish, None),
    };
    finish.note(|noted| noted.endpoint = Some(address));
    let (speak, head, upload) = prepare(request, facts);
    let upstream = &worker.upstream;
    match upstream
        .send_alone(&worker.local, &outside(address), speak, &bounds(), &head, &upload)
        .await
    {
        Err(failure) => answer(failure.reason(), None, &method, finish, None),
        Ok((response, place)) => forward(response, place, finish, &method),
    }
}

/// The request as the outside gets it.
fn prepare(request: Request<Body>, facts: &RequestFacts) -> (Speak, http::request::Parts, Upload) {
    let (mut head, body) = request.into_parts();
    strip_hop_by_hop(&mut head.headers);
    strip_private(&mut head.headers);
    head.extensions.clear();
    let upload = Upload::new(body);
    upload.forget();
    if head.version == Version::HTTP_2 {
        return (Speak::Http2, head, upload);
    }
    let path = head.uri.path_and_query().cloned();
    head.uri = absolute(None, path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    if let (None, Some(authority)) = (head.headers.get(HOST), &facts.authority)
        && let Ok(host) = authority.to_string().try_into()
    {
        head.headers.insert(HOST, host);
    }
    head.version = Version::HTTP_11;
    (Speak::Http1, head, upload)
}

/// Sends the response on.
fn forward(mut response: Response<Body>, held: Held, finish: Finish, method: &Method) -> Response<Relayed> {
    if let Err(violation) = check_response(response.version(), response.status(), response.headers(), false) {
        let reason = violation.of_response();
        return answer(reason, Some(&violation.to_string()), method, finish, None);
    }
    strip_hop_by_hop(response.headers_mut());
    strip_private(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
    response.extensions_mut().clear();
    let open = Open {
        finish,
        judge: Judge::Plain(completed(response.status(), 1)),
        held: Some(held),
    };
    response.map(|body| Relayed::new(body, open, None, None))
}
