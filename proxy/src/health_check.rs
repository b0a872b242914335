//! Whether our application is well: it accepts connections, or a URL of it answers with 2xx.
//!
//! One failure may be chance, so two in a row make it unhealthy; one success makes it healthy. While it is not, it is
//! looked at more often, so that a start is noticed at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::config::{Config, HealthCheck};

/// Time for one check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Between checks of a healthy application.
const HEALTHY_INTERVAL: Duration = Duration::from_secs(2);
/// Between checks of an unhealthy one.
const UNHEALTHY_INTERVAL: Duration = Duration::from_millis(250);
/// Failures in a row that make it unhealthy.
const MAX_FAILURES: u32 = 2;

/// The judgement over a row of checks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Verdict {
    healthy: bool,
    failures: u32,
}

impl Verdict {
    fn after(self, success: bool) -> Self {
        let failures = if success {
            0
        } else {
            self.failures.saturating_add(1)
        };
        Self {
            healthy: success || (self.healthy && failures < MAX_FAILURES),
            failures,
        }
    }
}

/// Checks for as long as it is awaited, and says so in `healthy`.
pub async fn run(config: Arc<Config>, healthy: watch::Sender<bool>) {
    let mut verdict = Verdict::default();
    loop {
        let checked = timeout(CHECK_TIMEOUT, check(&config)).await;
        let result = checked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        verdict = verdict.after(result.is_ok());
        let changed =
            healthy.send_if_modified(|old| std::mem::replace(old, verdict.healthy) != verdict.healthy);
        match result {
            Err(error) if changed => tracing::warn!(%error, "the application is not healthy"),
            _ if changed => tracing::info!("the application is healthy"),
            _ => {}
        }
        sleep(if verdict.healthy {
            HEALTHY_INTERVAL
        } else {
            UNHEALTHY_INTERVAL
        })
        .await;
    }
}

async fn check(config: &Config) -> io::Result<()> {
    match &config.health_check {
        HealthCheck::Http { address, path } => get(*address, path).await,
        HealthCheck::Tcp => {
            for app in config.registered_apps() {
                TcpStream::connect(app).await?;
            }
            Ok(())
        }
    }
}

async fn get(address: SocketAddr, path: &str) -> io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    // The response is dropped at its head, which ends the connection.
    let status = async move { Ok::<_, hyper::Error>(sender.send_request(request).await?.status()) };
    let (status, _) = tokio::join!(status, connection);
    let status = status.map_err(io::Error::other)?;
    if status.is_success() {
        return Ok(());
    }
    Err(io::Error::other(format!("the health check answers {status}")))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn two_failures_in_a_row_are_unhealthy_and_one_success_is_healthy() {
        let mut verdict = Verdict::default();
        let seen: Vec<bool> = [false, true, false, true, false, false, false, true]
            .into_iter()
            .map(|success| {
                verdict = verdict.after(success);
                verdict.healthy
            })
            .collect();
        assert_eq!(seen, [false, true, true, true, true, false, false, true]);
    }

    #[tokio::test]
    async fn a_url_is_healthy_with_2xx_only() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answers = [
            "204 No Content",
            "200 OK",
            "302 Found",
            "404 Not Found",
            "500 Broken",
        ];
        let app = tokio::spawn(async move {
            for status in answers {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = vec![0; 1024];
                let read = stream.read(&mut head).await.unwrap();
                assert!(head[..read].starts_with(b"GET /healthz?deep HTTP/1.1\r\n"));
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        let mut healthy = Vec::new();
        for _ in answers {
            healthy.push(get(address, "/healthz?deep").await.is_ok());
        }
        assert_eq!(healthy, [true, true, false, false, false]);
        app.await.unwrap();
        assert!(get(address, "/healthz").await.is_err(), "nobody listens any more");
    }
}
