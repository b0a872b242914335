//! Opaque bytes to the application.

use std::future::pending;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{CONNECT_TIMEOUT, Site};
use crate::drain::{Busy, Tracked};
use crate::stream::Stream;
use crate::telemetry::access_log::Record;
use crate::{dial, tcp};

/// Silence of a client after which an application that may speak first is given the chance to.
const SERVER_FIRST: Duration = Duration::from_millis(50);

/// Gives `stream` back when its client speaks first. `None`: the application did, and the connection was served.
pub(super) async fn unless_server_first(
    site: &Site,
    mut stream: Stream,
    tracked: &Tracked,
) -> Option<Stream> {
    let application_first = async {
        sleep(SERVER_FIRST).await;
        let Some(mut app) = connect(site).await else {
            return pending().await;
        };
        match app.speaks().await {
            Ok(_) => app,
            Err(_) => pending().await,
        }
    };
    let app = tokio::select! {
        biased;
        speaks = stream.speaks() => return speaks.is_ok_and(|speaks| speaks).then_some(stream),
        app = application_first => app,
        () = tracked.finished() => return None,
    };
    relay(site, stream, app, tracked.begin()).await;
    None
}

/// Relays a connection to the application.
pub(super) async fn serve(site: &Site, stream: Stream, tracked: &Tracked) {
    let busy = tracked.begin();
    let Some(app) = connect(site).await else {
        site.edge.connections(site.identity.is_some()).failed();
        tracing::info!(app = %site.app.address, "the application does not accept connections");
        return stream.reset_on_close();
    };
    relay(site, stream, app, busy).await;
}

async fn connect(site: &Site) -> Option<Stream> {
    let connected = timeout(CONNECT_TIMEOUT, dial::plain(&site.worker.local, site.app.address)).await;
    Some(connected.ok()?.ok()?.into())
}

async fn relay(site: &Site, stream: Stream, app: Stream, busy: Busy) {
    let meshed = site.identity.is_some();
    let started = site.worker.local.now();
    site.edge.connections(meshed).opened();
    let relayed = tcp::relay(stream, app).await;
    if relayed.end != tcp::End::Clean {
        site.edge.connections(meshed).unclean();
    }
    drop(busy);
    let Some(log) = site.worker.log() else { return };
    log.write(&Record {
        direction: "inbound",
        peer: Some(site.peer),
        identity: site.identity.as_deref(),
        protocol: "tcp",
        destination: Some(site.edge.name()),
        endpoint: Some(site.app.address),
        end: match relayed.end {
            tcp::End::Clean => "complete",
            tcp::End::FirstBroke => "downstream_gone",
            tcp::End::SecondBroke => "upstream_reset",
        },
        attempts: 1,
        duration_ms: site.worker.local.now().since(started).as_secs_f64() * 1e3,
        ..Record::default()
    });
}
