//! Attempts: what is tried again elsewhere, what is not, and what is never done twice.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use weft_proxy_core::outcome::Reason;
use weft_proxy_core::resource::{Backoff, Protocol, Retry, TlsMode};

use crate::apps::{Client, http1, listen, ok, read_request};
use crate::mesh::{Ca, Proxy, USER, meshed, plain, rule, run};

/// An address where nobody listens.
async fn dead() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

/// An application that reads each request and then breaks the connection; counts them.
async fn breaking() -> (SocketAddr, Rc<Cell<u32>>) {
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    let address = listen(move |stream| {
        let counted = Rc::clone(&counted);
        async move {
            let mut stream = BufStream::new(stream);
            if read_request(&mut stream).await.is_some() {
                counted.set(counted.get() + 1);
                stream.get_ref().set_zero_linger().unwrap();
            }
        }
    })
    .await;
    (address, count)
}

const POST: &str = "POST / HTTP/1.1\r\nHost: user\r\nContent-Length: 4\r\n\r\nbody";

#[test]
fn a_dead_endpoint_costs_no_request() {
    run(async {
        let ca = Ca::new();
        let (app, journal) = http1(|seen| ok(&String::from_utf8_lossy(&seen.body))).await;
        let server = Proxy::service(&ca, "user", app, Protocol::Http1, TlsMode::Strict);
        let client = Proxy::client(&ca, "order");
        let endpoints = vec![meshed(dead().await, "user"), meshed(server.inbound[0], "user")];
        client.know(USER, Protocol::Http1, endpoints);
        let mut connection = Client::connect(client.outbound).await;
        for _ in 0..10 {
            assert_eq!(connection.get("user", "/").await.status, 200);
            assert_eq!(connection.send(POST).await.unwrap().body, "body");
        }
        assert_eq!(journal.borrow().len(), 20);
    });
}

#[test]
fn a_dead_application_behind_a_live_sidecar_costs_no_request_either() {
    run(async {
        let ca = Ca::new();
        let (app, journal) = http1(|_| ok("alive")).await;
        let alive = Proxy::service(&ca, "user", app, Protocol::Http1, TlsMode::Strict);
        let orphan = Proxy::service(&ca, "user", dead().await, Protocol::Http1, TlsMode::Strict);
        let client = Proxy::client(&ca, "order");
        client.know(
            USER,
            Protocol::Http1,
            vec![
                meshed(orphan.inbound[0], "user"),
                meshed(alive.inbound[0], "user"),
            ],
        );
        let mut connection = Client::connect(client.outbound).await;
        for _ in 0..10 {
            assert_eq!(connection.send(POST).await.unwrap().body, "alive");
        }
        assert_eq!(journal.borrow().len(), 10);
        client.know(USER, Protocol::Http1, vec![meshed(orphan.inbound[0], "user")]);
        let answer = connection.send(POST).await.unwrap();
        assert_eq!(answer.status, 503);
        assert!(
            answer.field("x-weft-unprocessed").is_none(),
            "private fields stay between sidecars"
        );
    });
}

#[test]
fn a_lost_request_is_repeated_only_if_that_is_safe() {
    run(async {
        let (broken, count) = breaking().await;
        let (app, journal) = http1(|seen| ok(&String::from_utf8_lossy(&seen.body))).await;
        let client = Proxy::client(&Ca::new(), "order");
        client.know(USER, Protocol::Http1, vec![plain(broken), plain(app)]);
        let mut connection = Client::connect(client.outbound).await;
        for method in ["GET", "PUT", "DELETE", "GET", "PUT", "DELETE"] {
            let text = format!("{method} / HTTP/1.1\r\nHost: user\r\nContent-Length: 4\r\n\r\nbody");
            assert_eq!(connection.send(&text).await.unwrap().body, "body", "{method}");
        }
        let (before, executed) = (count.get(), journal.borrow().len());
        assert!(before > 0, "the broken endpoint was tried");
        let mut lost = 0;
        for _ in 0..10 {
            let answer = connection.send(POST).await.unwrap();
            if answer.status != 200 {
                assert_eq!(answer.status, Reason::UpstreamReset.status().as_u16());
                lost += 1;
            }
        }
        assert_eq!(
            (count.get() - before, lost),
            (5, 5),
            "each POST goes to one endpoint"
        );
        assert_eq!(journal.borrow().len() - executed, 5);
    });
}

#[test]
fn an_application_lost_behind_a_live_sidecar_counts_as_a_lost_request() {
    run(async {
        let ca = Ca::new();
        let (broken, count) = breaking().await;
        let (app, journal) = http1(|_| ok("alive")).await;
        let alive = Proxy::service(&ca, "user", app, Protocol::Http1, TlsMode::Strict);
        let losing = Proxy::service(&ca, "user", broken, Protocol::Http1, TlsMode::Strict);
        let client = Proxy::client(&ca, "order");
        let endpoints = [losing.inbound[0], alive.inbound[0]].map(|address| meshed(address, "user"));
        client.know(USER, Protocol::Http1, endpoints.into());
        let mut connection = Client::connect(client.outbound).await;
        for method in ["GET", "PUT", "DELETE", "GET", "PUT", "DELETE"] {
            let text = format!("{method} / HTTP/1.1\r\nHost: user\r\nContent-Length: 4\r\n\r\nbody");
            assert_eq!(connection.send(&text).await.unwrap().body, "alive", "{method}");
        }
        assert!(count.get() > 0, "the broken one was tried");
        let executed = || count.get() as usize + journal.borrow().len();
        let before = executed();
        for _ in 0..10 {
            let answer = connection.send(POST).await.unwrap();
            assert!(answer.status == 200 || answer.status == Reason::UpstreamReset.status().as_u16());
            assert!(
                answer.field("x-weft-lost").is_none(),
                "private fields stay between sidecars"
            );
        }
        let more = executed() - before;
        assert_eq!(more, 10, "each POST goes to one application");
    });
}

#[test]
fn retries_can_be_turned_off_and_declared() {
    run(async {
        let failures = Rc::new(Cell::new(0));
        let failed = Rc::clone(&failures);
        let (app, _) = http1(move |_| {
            failed.set(failed.get() + 1);
            if failed.get() % 3 == 0 {
                ok("third time")
            } else {
                "HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n".to_owned()
            }
        })
        .await;
        let client = Proxy::client(&Ca::new(), "order");
        let policy = |attempts, statuses: &[u16]| {
            let mut rule = rule(USER);
            rule.retry = Some(Retry {
                attempts,
                statuses: statuses
                    .iter()
                    .map(|status| (*status).try_into().unwrap())
                    .collect(),
                grpc_codes: Vec::new(),
                backoff: Backoff::default(),
            });
            vec![rule]
        };
        client.know_with(USER, Protocol::Http1, vec![plain(app)], policy(2, &[503]), |_| {});
        let mut connection = Client::connect(client.outbound).await;
        assert_eq!(connection.send(POST).await.unwrap().body, "third time");
        client.know_with(USER, Protocol::Http1, vec![plain(app)], policy(0, &[503]), |_| {});
        assert_eq!(connection.get("user", "/").await.status, 503);
        assert_eq!(failures.get(), 4);
    });
}

#[test]
fn a_deadline_ends_the_exchange_and_an_attempt() {
    run(async {
        let silent =
            listen(|mut stream| async move { drop(stream.read_to_end(&mut Vec::new()).await) }).await;
        let slow = listen(|stream| async move {
            let mut stream = BufStream::new(stream);
            read_request(&mut stream).await.unwrap();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
                .await
                .unwrap();
            stream.flush().await.unwrap();
            drop(stream.read_to_end(&mut Vec::new()).await);
        })
        .await;
        let client = Proxy::client(&Ca::new(), "order");
        let mut timed = rule(USER);
        timed.timeout = Some(Duration::from_millis(60));
        client.know_with(
            USER,
            Protocol::Http1,
            vec![plain(silent)],
            vec![timed.clone()],
            |_| {},
        );
        let mut connection = Client::connect(client.outbound).await;
        let answer = connection.get("user", "/").await;
        assert_eq!(answer.status, 504);
        assert!(
            answer
                .field("proxy-status")
                .unwrap()
                .contains(Reason::RequestTimeout.facts().text)
        );
        let mut attempts = rule(USER);
        attempts.attempt_timeout = Some(Duration::from_millis(30));
        client.know_with(USER, Protocol::Http1, vec![plain(silent)], vec![attempts], |_| {});
        let answer = connection.get("user", "/").await;
        assert!(
            answer
                .field("proxy-status")
                .unwrap()
                .contains(Reason::AttemptTimeout.facts().text)
        );
        client.know_with(USER, Protocol::Http1, vec![plain(slow)], vec![timed], |_| {});
        connection
            .0
            .write_all(b"GET / HTTP/1.1\r\nHost: user\r\n\r\n")
            .await
            .unwrap();
        connection.0.flush().await.unwrap();
        let mut text = Vec::new();
        let _ = connection.0.read_to_end(&mut text).await;
        assert!(
            text.ends_with(b"half"),
            "the client sees that the answer broke off"
        );
    });
}

#[test]
fn a_limit_of_connections_makes_requests_wait_and_leaves_every_endpoint_one() {
    run(async {
        let (first, journal) = http1(|_| ok("served")).await;
        let (second, _) = http1(|_| ok("served")).await;
        let client = Proxy::client(&Ca::new(), "order");
        let endpoints = vec![plain(first), plain(second)];
        client.know_with(USER, Protocol::Http1, endpoints, vec![rule(USER)], |cluster| {
            cluster.limits.connections = 1;
        });
        let request = || async {
            let mut connection = Client::connect(client.outbound).await;
            connection.get("user", "/").await.status
        };
        let at_once: Vec<_> = (0..8).map(|_| request()).collect();
        let answered = futures_util::future::join_all(at_once).await;
        assert_eq!(answered, [200; 8]);
        assert_eq!(journal.borrow().len(), 4);
    });
}

#[test]
fn a_changed_limit_of_waiting_requests_holds_at_once() {
    run(async {
        // Takes connections and never says anything.
        let silent =
            listen(|mut stream| async move { drop(stream.read_to_end(&mut Vec::new()).await) }).await;
        let client = Proxy::client(&Ca::new(), "order");
        let know = |pending| {
            client.know_with(
                USER,
                Protocol::Http1,
                vec![meshed(silent, "user")],
                vec![rule(USER)],
                |cluster| {
                    cluster.limits.pending = pending;
                    cluster.default_retry.attempts = 0;
                    cluster.connect_timeout = Duration::from_millis(300);
                },
            );
        };
        let ask = || async {
            let mut connection = Client::connect(client.outbound).await;
            connection.get("user", "/").await.status
        };
        know(1);
        let mut both = [tokio::join!(ask(), ask()).0, 0];
        know(2);
        (both[0], both[1]) = tokio::join!(ask(), ask());
        assert_eq!(both, [Reason::ConnectTimeout.status().as_u16(); 2]);
    });
}
