//! Bytes as they are, to any port.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use weft_identity::tls::unnamed;

use crate::process::PATIENCE;

/// Sends `bytes` and reads until `until` was seen or the other side ends the connection, which it must do in time.
/// An empty `until`: half-closes after `bytes` and reads all there is.
pub async fn say(address: SocketAddr, tls: Option<Arc<ClientConfig>>, bytes: &[u8], until: &str) -> Vec<u8> {
    let talk = async {
        let stream = TcpStream::connect(address).await.expect("listens");
        match tls {
            None => speak(stream, bytes, until).await,
            Some(config) => match TlsConnector::from(config).connect(unnamed(), stream).await {
                Ok(stream) => speak(stream, bytes, until).await,
                Err(_) => Vec::new(),
            },
        }
    };
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
    let in_time = tokio::time::timeout(PATIENCE, talk).await;
    in_time.unwrap_or_else(|_| panic!("{address} neither answered nor ended after {shown:?}"))
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin, bytes: &[u8], until: &str) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(stream);
    let mut answer = Vec::new();
    let reading = async {
        // Being cut off is one of the ways to be refused: what arrived before it counts.
        while read.read_buf(&mut answer).await.is_ok_and(|count| count > 0) {
            if !until.is_empty()
                && answer
                    .windows(until.len())
                    .any(|window| window == until.as_bytes())
            {
                return;
            }
        }
    };
    let writing = async {
        if write.write_all(bytes).await.is_ok() && until.is_empty() {
            // The same.
            let _ = write.shutdown().await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
    answer
}
