//! Draining, and certificates that change under live connections.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;
use weft_identity::spiffe::SpiffeId;
use weft_identity::tls::{self, Expected, alpn};
use weft_proxy::identity::Identity;
use weft_proxy::runtime::Phase;
use weft_proxy_core::resource::{Protocol, TlsMode};

use crate::apps::{Client, http1, listen, ok, read_request};
use crate::mesh::{Ca, Proxy, USER, id, meshed, run};

#[test]
fn draining_finishes_what_runs_and_closes_what_does_not() {
    run(async {
        let ca = Ca::new();
        let (arrived, go_on) = (Rc::new(Notify::new()), Rc::new(Notify::new()));
        let (told, wait) = (Rc::clone(&arrived), Rc::clone(&go_on));
        let app = listen(move |stream| {
            let (told, wait) = (Rc::clone(&told), Rc::clone(&wait));
            async move {
                let mut stream = BufStream::new(stream);
                while read_request(&mut stream).await.is_some() {
                    told.notify_one();
                    wait.notified().await;
                    stream.write_all(ok("done").as_bytes()).await.unwrap();
                    stream.flush().await.unwrap();
                }
            }
        })
        .await;
        let server = Proxy::service(&ca, "user", app, Protocol::Http1, TlsMode::Strict);
        let client = Proxy::client(&ca, "order");
        client.know(USER, Protocol::Http1, vec![meshed(server.inbound[0], "user")]);
        let mut running = Client::connect(client.outbound).await;
        let mut idle = Client::connect(client.outbound).await;
        go_on.notify_one();
        assert_eq!(idle.get("user", "/").await.status, 200);
        arrived.notified().await;
        running
            .0
            .write_all(b"GET / HTTP/1.1\r\nHost: user\r\n\r\n")
            .await
            .unwrap();
        running.0.flush().await.unwrap();
        arrived.notified().await;
        for proxy in [&client, &server] {
            proxy.phase.send_replace(Phase::Draining);
        }
        assert!(idle.read().await.is_none(), "an idle connection is closed");
        let mut late = Client::connect(client.outbound).await;
        go_on.notify_one();
        let answer = running.read().await.unwrap();
        assert_eq!(
            (answer.body.as_str(), answer.field("connection")),
            ("done", Some("close"))
        );
        go_on.notify_one();
        let answer = late.get("user", "/").await;
        assert_eq!(
            (answer.body.as_str(), answer.field("connection")),
            ("done", Some("close")),
            "still served"
        );
        client.phase.send_replace(Phase::Ending);
        while !client.task.is_finished() {
            tokio::task::yield_now().await;
        }
        assert!(
            TcpStream::connect(client.outbound).await.is_err(),
            "the socket is closed"
        );
    });
}

fn renewed(ca: &Ca, account: &str, lifetime: Duration, generation: u64) -> Identity {
    Identity::new(ca.leaf(&id(account), lifetime), ca.bundle(), generation).unwrap()
}

#[test]
fn a_renewed_certificate_touches_no_live_connection() {
    run(async {
        let ca = Ca::new();
        let app = listen(|mut stream| async move {
            while let Ok(byte) = stream.read_u8().await {
                stream.write_u8(byte).await.unwrap();
            }
        })
        .await;
        let server = Proxy::service(&ca, "user", app, Protocol::Tcp, TlsMode::Strict);
        let flags = ["--bind=127.0.0.1:0=user:80"];
        let client = Proxy::start(Some(ca.identity(&id("order"))), &[], &flags);
        client.know(USER, Protocol::Tcp, vec![meshed(server.inbound[0], "user")]);
        let mut streams = Vec::new();
        for generation in 2..6 {
            let mut stream = TcpStream::connect(client.binds[0]).await.unwrap();
            stream.write_u8(1).await.unwrap();
            assert_eq!(stream.read_u8().await.unwrap(), 1);
            streams.push(stream);
            client
                .published
                .publish_identity(renewed(&ca, "order", Duration::from_hours(1), generation));
            server
                .published
                .publish_identity(renewed(&ca, "user", Duration::from_hours(1), generation));
            for stream in &mut streams {
                stream.write_u8(7).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), 7);
            }
        }
    });
}

#[test]
fn requests_move_to_a_new_connection_before_a_leaf_expires() {
    const LIFETIME: Duration = Duration::from_secs(6);
    run(async {
        let ca = Ca::new();
        let (app, _journal) = http1(|_| ok("steady")).await;
        let server = Proxy::service(&ca, "user", app, Protocol::Http1, TlsMode::Strict);
        let client = Proxy::start(Some(renewed(&ca, "order", LIFETIME, 2)), &[], &[]);
        client.know(USER, Protocol::Http1, vec![meshed(server.inbound[0], "user")]);
        let mut connection = Client::connect(client.outbound).await;
        let start = tokio::time::Instant::now();
        let (mut renewals, mut due) = (2, start + LIFETIME / 2);
        while start.elapsed() < LIFETIME * 2 {
            let answer = connection.get("user", "/").await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "steady"));
            if tokio::time::Instant::now() >= due {
                due += LIFETIME / 2;
                renewals += 1;
                client
                    .published
                    .publish_identity(renewed(&ca, "order", LIFETIME, renewals));
            }
        }
        assert!(renewals > 4, "the first leaf has expired, and so has the second");
    });
}

#[test]
fn a_kept_connection_of_http1_takes_no_request_after_a_leaf_has_expired() {
    run(async {
        let ca = Ca::new();
        let (app, _journal) = http1(|_| ok("foreign")).await;
        let server = Proxy::service(&ca, "user", app, Protocol::Http1, TlsMode::Strict);
        let leaf = ca.leaf(&id("order"), Duration::from_secs(2));
        let expected = Expected::from(id("user").parse::<SpiffeId>().unwrap());
        let config = tls::client_config(Some(&leaf), &ca.bundle(), expected, &[alpn::FOREIGN_H1]).unwrap();
        let tcp = TcpStream::connect(server.inbound[0]).await.unwrap();
        let connected = TlsConnector::from(config).connect(tls::unnamed(), tcp).await;
        let mut stream = connected.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: user\r\n\r\n")
            .await
            .unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert!(all.ends_with(b"foreign"), "{}", all.escape_ascii());
    });
}
