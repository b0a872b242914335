//! The status listener: `GET /live /ready /metrics`, nothing that changes anything.

use std::future::{Future, Ready};
use std::io;
use std::net::TcpListener;

use http::{HeaderMap, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;

use crate::health::Health;
use crate::http::{self as server, Answer, answer, json, text};
use crate::recorder::Recorder;

/// Content type of Prometheus' text format.
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Serves `listener` for as long as the future is awaited. Needs a tokio runtime.
pub fn serve(
    listener: TcpListener,
    health: Health,
    recorder: Recorder,
) -> io::Result<impl Future<Output = ()> + Send> {
    serve_with(listener, health, recorder, |_, _| {
        None::<Ready<(StatusCode, String)>>
    })
}

/// As [`serve`], with the pages of `more`: it is given path and head of a GET, and answers status and text, or `None`
/// where it has no such page.
pub fn serve_with<M, F>(
    listener: TcpListener,
    health: Health,
    recorder: Recorder,
    more: M,
) -> io::Result<impl Future<Output = ()> + Send>
where
    M: Fn(&str, &HeaderMap) -> Option<F> + Clone + Send + 'static,
    F: Future<Output = (StatusCode, String)> + Send + 'static,
{
    let listener = server::adopt(listener)?;
    Ok(server::serve(listener, move |request: Request<Incoming>| {
        let asked = *request.method() == Method::GET;
        let page = more(request.uri().path(), request.headers()).filter(|_| asked);
        let answer = respond(&request, &health, &recorder);
        async move {
            match page {
                Some(page) => {
                    let (status, said) = page.await;
                    text(status, said)
                }
                None => answer,
            }
        }
    }))
}

fn respond(request: &Request<Incoming>, health: &Health, recorder: &Recorder) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        refusal
            .headers_mut()
            .insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match request.uri().path() {
        "/live" => text(StatusCode::OK, "live\n"),
        "/ready" => ready(health),
        "/metrics" => answer(StatusCode::OK, PROMETHEUS_TEXT, recorder.render().into()),
        _ => text(StatusCode::NOT_FOUND, "here are /live, /ready and /metrics\n"),
    }
}

fn ready(health: &Health) -> Answer {
    let missing = health.missing();
    let status = if missing.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json(
        status,
        &json!({ "ready": missing.is_empty(), "missing": missing }),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::ask;

    #[tokio::test]
    async fn answers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let health = Health::new(&["certificate"]);
        let recorder = crate::recorder::install().unwrap();
        let server = tokio::spawn(serve(listener, health.clone(), recorder).unwrap());
        let get = async |path: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nhost: 10.0.0.1\r\nconnection: close\r\n\r\n");
            ask(address, request.as_bytes()).await
        };
        assert!(get("/live").await.starts_with("HTTP/1.1 200"));
        let unready = get("/ready").await;
        assert!(
            unready.starts_with("HTTP/1.1 503") && unready.contains("certificate"),
            "{unready}"
        );
        health.set("certificate", true);
        assert!(get("/ready").await.starts_with("HTTP/1.1 200"));
        metrics::counter!("weft_status_test_total").increment(3);
        assert!(get("/metrics").await.contains("weft_status_test_total 3"));
        assert!(get("/config").await.starts_with("HTTP/1.1 404"));
        let post = b"POST /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        assert!(ask(address, post).await.starts_with("HTTP/1.1 405"));
        server.abort();
    }
}
