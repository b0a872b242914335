//! gRPC probes: `grpc.health.v1.Health/Check` in plaintext, as kubelet asks it.

use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;

use super::{Failure, connect};

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 4096;
/// Bytes before every message of gRPC: whether it is compressed, and its length.
const PREFIX: usize = 5;
/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: i32 = 1;
/// gRPC's `OK`.
const OK: &str = "0";

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Eq, Message)]
struct CheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
struct CheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks the application at `address` about `service`; empty: about itself.
pub(super) async fn check(address: SocketAddr, service: &str) -> Result<(), Failure> {
    let failed = |error| Failure::Answer(address, error);
    let request = request(address, service)?;
    let stream = TokioIo::new(connect(address).await?);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .map_err(failed)?;
    let asking = async {
        let response = sender.send_request(request).await.map_err(failed)?;
        read(address, response).await
    };
    // The connection works for as long as the answer takes, and no longer.
    tokio::select! {
        answer = asking => answer,
        ended = connection => match ended {
            Ok(()) => Err(Failure::NotServing(address)),
            Err(error) => Err(failed(error)),
        },
    }
}

fn request(address: SocketAddr, service: &str) -> Result<Request<Full<Bytes>>, Failure> {
    let message = CheckRequest {
        service: service.to_owned(),
    };
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.encoded_len()).unwrap_or(u32::MAX));
    body.put_slice(&message.encode_to_vec());
    Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(body.freeze()))
        .map_err(Failure::Request)
}

async fn read(address: SocketAddr, response: Response<Incoming>) -> Result<(), Failure> {
    if !response.status().is_success() {
        return Err(Failure::Status(address, response.status()));
    }
    let trailers_only = status(response.headers());
    let collected = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
    let Ok(body) = collected else {
        return Err(Failure::NotServing(address));
    };
    let ended = body.trailers().and_then(status).or(trailers_only);
    match ended.as_deref() {
        Some(OK) => {}
        other => {
            let status = other.unwrap_or("missing").to_owned();
            return Err(Failure::GrpcStatus(address, status));
        }
    }
    let bytes = body.to_bytes();
    let message = bytes
        .get(PREFIX..)
        .and_then(|bytes| CheckResponse::decode(bytes).ok());
    match message {
        Some(CheckResponse { status: SERVING }) => Ok(()),
        _ => Err(Failure::NotServing(address)),
    }
}

fn status(headers: &HeaderMap) -> Option<String> {
    let value = headers.get("grpc-status")?.to_str().ok()?;
    Some(value.chars().take(16).collect())
}
