//! The admin listener: questions and commands for whoever is on the same machine, as JSON.
//!
//! It binds to loopback only. That doesn't keep a browser on the machine out, so a request must also name the host as
//! loopback (a rebound DNS name doesn't) and must not come from a web page (`Origin`). What a process can be asked is
//! its own business: requests arrive as [`Call`]s in a channel, and whoever holds the receiver answers them. `GET|PUT
//! /log` is answered here.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use crate::http::{self as server, Answer, json as answer_json};
use crate::log::Log;

/// Calls that wait to be answered.
const MAX_WAITING_CALLS: usize = 16;

/// The admin listener can't be opened.
#[derive(Debug, Error)]
pub enum AdminError {
    /// Not on loopback.
    #[error("{0} is not a loopback address: the admin listener gives commands to whoever reaches it")]
    NotLoopback(SocketAddr),
    /// The socket failed.
    #[error("the admin listener failed: {0}")]
    Socket(#[from] io::Error),
}

/// Somebody asks.
#[derive(Debug)]
pub struct Call {
    /// The method: GET asks, POST and PUT command.
    pub method: Method,
    /// The path, without the query.
    pub path: String,
    /// The query, without `?`.
    pub query: Option<String>,
    /// The body; bounded.
    pub body: Bytes,
    answer: oneshot::Sender<(StatusCode, Value)>,
}

impl Call {
    /// Answers it.
    pub fn answer(self, value: Value) {
        self.answer_with(StatusCode::OK, value);
    }

    /// Answers that there is no such thing; `known` says what there is.
    pub fn not_found(self, known: &str) {
        let error = format!("{} {} is unknown; here are {known}", self.method, self.path);
        self.answer_with(StatusCode::NOT_FOUND, json!({ "error": error }));
    }

    /// Answers with another status than 200.
    pub fn answer_with(self, status: StatusCode, value: Value) {
        // Whoever asked may have gone away meanwhile.
        let _ = self.answer.send((status, value));
    }
}

/// Serves `listener` for as long as the future is awaited, and yields the calls. Needs a tokio runtime.
pub fn serve(
    listener: TcpListener,
    log: Log,
) -> Result<(impl Future<Output = ()> + Send, mpsc::Receiver<Call>), AdminError> {
    let address = listener.local_addr()?;
    if !address.ip().is_loopback() {
        return Err(AdminError::NotLoopback(address));
    }
    let listener = server::adopt(listener)?;
    let (calls, receiver) = mpsc::channel(MAX_WAITING_CALLS);
    let served = server::serve(listener, move |request| {
        respond(request, log.clone(), calls.clone())
    });
    Ok((served, receiver))
}

async fn respond(request: Request<Incoming>, log: Log, calls: mpsc::Sender<Call>) -> Answer {
    if let Err(reason) = check_origin(request.headers()) {
        return refuse(StatusCode::FORBIDDEN, reason);
    }
    let (head, body) = request.into_parts();
    let body = match server::body(body).await {
        Ok(body) => body,
        Err(refusal) => return refusal,
    };
    if head.uri.path() == "/log" {
        return log_level(&head.method, &body, &log);
    }
    let (answer, answered) = oneshot::channel();
    let call = Call {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().map(str::to_owned),
        body,
        answer,
    };
    if calls.send(call).await.is_err() {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "the process is ending");
    }
    match answered.await {
        Ok((status, value)) => answer_json(status, &value),
        Err(_) => refuse(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the question was dropped unanswered",
        ),
    }
}

fn log_level(method: &Method, body: &Bytes, log: &Log) -> Answer {
    if *method == Method::PUT {
        let Ok(level) = std::str::from_utf8(body) else {
            return refuse(StatusCode::BAD_REQUEST, "the body must be a log level");
        };
        if let Err(error) = log.set_level(level.trim()) {
            return refuse(StatusCode::BAD_REQUEST, &error.to_string());
        }
    } else if *method != Method::GET {
        return refuse(
            StatusCode::METHOD_NOT_ALLOWED,
            "GET reads the log level, PUT sets it",
        );
    }
    answer_json(StatusCode::OK, &json!({ "level": log.level() }))
}

fn refuse(status: StatusCode, reason: &str) -> Answer {
    answer_json(status, &json!({ "error": reason }))
}

fn check_origin(headers: &HeaderMap) -> Result<(), &'static str> {
    if headers.contains_key(header::ORIGIN) {
        return Err("web pages may not talk to the admin listener");
    }
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next().and_then(|host| host.to_str().ok()), hosts.next()) {
        (Some(host), None) if is_loopback(host) => Ok(()),
        _ => Err("the Host header must be localhost or a loopback address"),
    }
}

fn is_loopback(host: &str) -> bool {
    if let Ok(address) = host.parse::<SocketAddr>() {
        return address.ip().is_loopback();
    }
    let name = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address,
        None => host
            .rsplit_once(':')
            .filter(|(name, _)| !name.contains(':'))
            .map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::tests::ask;

    #[test]
    fn only_loopback_names_are_hosts() {
        for host in [
            "localhost",
            "LOCALHOST:15000",
            "127.0.0.1",
            "127.0.0.1:80",
            "[::1]",
            "[::1]:15000",
            "127.8.8.8",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "evil",
            "localhost.evil",
            "127.0.0.1.evil:80",
            "10.0.0.1",
            "[fe80::1]:1",
            "evil:127.0.0.1",
            "a:1:localhost",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[tokio::test]
    async fn other_than_loopback_is_refused() {
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let refused = serve(listener, crate::log::init("info").unwrap()).map(|_| ());
        assert!(matches!(refused, Err(AdminError::NotLoopback(_))));
    }

    #[tokio::test]
    async fn calls_are_answered_and_strangers_are_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (serving, mut calls) = serve(listener, crate::log::init("info").unwrap()).unwrap();
        let server = tokio::spawn(serving);
        tokio::spawn(async move {
            while let Some(call) = calls.recv().await {
                match call.path.as_str() {
                    "/config" => {
                        let seen = json!({ "method": call.method.as_str(), "query": call.query });
                        call.answer(seen);
                    }
                    _ => call.not_found("/config"),
                }
            }
        });
        let get = async |path: &str, headers: &str| {
            let request = format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n");
            ask(address, request.as_bytes()).await
        };
        let good = get("/config?a=1", "host: localhost:15000\r\n").await;
        assert!(
            good.starts_with("HTTP/1.1 200") && good.contains("\"a=1\""),
            "{good}"
        );
        assert!(
            get("/nothing", "host: localhost\r\n")
                .await
                .starts_with("HTTP/1.1 404")
        );
        for strange in [
            "",
            "host: evil.example\r\n",
            "host: localhost\r\nhost: evil\r\n",
            "host: localhost\r\norigin: http://localhost\r\n",
        ] {
            assert!(
                get("/config", strange).await.starts_with("HTTP/1.1 403"),
                "{strange:?}"
            );
        }
        let put =
            b"PUT /log HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 4\r\n\r\nloud";
        assert!(ask(address, put).await.starts_with("HTTP/1.1 400"));
        assert!(get("/log", "host: [::1]:1\r\n").await.contains("level"));
        server.abort();
    }
}
