//! Clients.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// An answer, read to its end.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: HeaderMap,
    /// Its trailers.
    pub trailers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `proxy-status` of an answer that a proxy made itself.
    pub fn proxy_status(&self) -> Option<&str> {
        self.headers
            .get("proxy-status")
            .and_then(|value| value.to_str().ok())
    }
}

/// A request to send.
#[derive(Clone, Debug)]
pub struct Ask {
    method: Method,
    uri: String,
    headers: Vec<(String, String)>,
    body: Bytes,
}

impl Ask {
    /// `GET uri`; an absolute URI reaches an explicit proxy as such.
    pub fn get(uri: &str) -> Self {
        Self {
            method: Method::GET,
            uri: uri.to_owned(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// `POST uri` with a body.
    pub fn post(uri: &str, body: impl Into<Bytes>) -> Self {
        Self {
            method: Method::POST,
            body: body.into(),
            ..Self::get(uri)
        }
    }

    /// With another method.
    #[must_use]
    pub fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    /// With one more field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    fn build(self) -> Request<Full<Bytes>> {
        let mut request = Request::builder().method(self.method).uri(&self.uri);
        let authority = self
            .uri
            .parse::<http::Uri>()
            .ok()
            .and_then(|uri| uri.authority().cloned());
        if let Some(authority) = authority
            && !self
                .headers
                .iter()
                .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            request = request.header("host", authority.as_str());
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        request
            .body(Full::new(self.body))
            .expect("tests build valid requests")
    }
}

/// Sends one request over HTTP/1.1 to `proxy` on a connection of its own.
pub async fn http1(proxy: SocketAddr, ask: Ask) -> Result<Answer, hyper::Error> {
    let stream = TcpStream::connect(proxy).await.expect("the proxy listens");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let response = sender.send_request(ask.build()).await?;
    let answer = read(response).await;
    driver.abort();
    answer
}

/// Sends one request over HTTP/2 with prior knowledge.
pub async fn http2(proxy: SocketAddr, ask: Ask) -> Result<Answer, hyper::Error> {
    let stream = TcpStream::connect(proxy).await.expect("the proxy listens");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut request = ask.build();
    request.headers_mut().remove("host");
    let response = sender.send_request(request).await?;
    let answer = read(response).await;
    driver.abort();
    answer
}

async fn read(response: http::Response<hyper::body::Incoming>) -> Result<Answer, hyper::Error> {
    let (head, body) = response.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        trailers,
        body: body.to_bytes(),
    })
}
