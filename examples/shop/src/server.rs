//! The HTTP side of every service: reading a request, the journal, `/healthz`, writing the answer, stopping.

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::application::Application;
use crate::context::Context;
use crate::journal::{Entry, Journal};
use crate::message::{Asked, Reply};

/// How large a request's body may be, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// How long a client has, when the application stops, to ask once more on a connection and be told by the answer that
/// it was the last: a connection that is closed while it is idle may be closed as something is sent on it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Tells which replica answered.
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
/// Tells which version answered.
const VERSION: HeaderName = HeaderName::from_static("x-version");

/// One replica's HTTP side.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) replica: String,
    pub(crate) version: String,
    pub(crate) journal: Mutex<Journal>,
    pub(crate) application: Application,
}

impl Server {
    /// Accepts until `stop`; ends when the last request does.
    pub(crate) async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(Arc::clone(&self).connection(stream, stop.clone()));
                    }
                    Err(error) => tracing::warn!(%error, "a connection can't be accepted"),
                }
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn connection(self: Arc<Self>, stream: TcpStream, stop: CancellationToken) {
        let _ = stream.set_nodelay(true);
        let service = service_fn(|request| self.respond(request, &stop));
        let mut connection = pin!(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        let leaving = async {
            stop.cancelled().await;
            sleep(FAREWELL).await;
        };
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = leaving => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "a connection broke");
        }
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
        stop: &CancellationToken,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let reply = match read(request).await {
            Ok(asked) => self.answer(&asked).await,
            Err(reply) => reply,
        };
        let mut response = Response::new(Full::new(reply.body));
        *response.status_mut() = reply.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in [(SERVED_BY, &self.replica), (VERSION, &self.version)] {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name, value);
            }
        }
        if stop.is_cancelled() {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    async fn answer(&self, asked: &Asked) -> Reply {
        match (&asked.method, asked.path.as_str()) {
            (&Method::GET | &Method::HEAD, "/healthz") => Reply::ok(&json!({ "healthy": true })),
            (&Method::GET, "/journal") => self.show_journal(),
            (&Method::POST, _) => match self.record(asked) {
                Ok(()) => self.application.answer(asked).await,
                Err(error) => Reply::failed(&error),
            },
            _ => self.application.answer(asked).await,
        }
    }

    fn record(&self, asked: &Asked) -> io::Result<()> {
        let entry = Entry {
            id: asked.context.id.clone(),
            replica: self.replica.clone(),
            path: asked.path.clone(),
        };
        self.journal
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .record(entry)
    }

    fn show_journal(&self) -> Reply {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        match journal.entries() {
            Ok(entries) => Reply::ok(entries),
            Err(error) => Reply::failed(&error),
        }
    }
}

async fn read(request: Request<Incoming>) -> Result<Asked, Reply> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY).collect().await.map_err(|error| {
        let error = json!({ "error": format!("the body can't be read: {error}") });
        Reply::new(StatusCode::BAD_REQUEST, &error)
    })?;
    Ok(Asked {
        method: head.method,
        path: head.uri.path().to_owned(),
        context: Context::of(&head.headers),
        body: body.to_bytes(),
    })
}
