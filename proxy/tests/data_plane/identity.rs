//! Who may connect to whom: refusals, and that nothing reaches the application.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weft_proxy::identity::Identity;
use weft_proxy_core::outcome::Reason;
use weft_proxy_core::resource::{Protocol, TlsMode};

use crate::apps::{Client, http1, listen, ok};
use crate::mesh::{Ca, Proxy, USER, id, meshed, plain, run};

/// An application that counts connections.
async fn counting() -> (SocketAddr, Rc<Cell<u32>>) {
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    let address = listen(move |_| {
        counted.set(counted.get() + 1);
        std::future::ready(())
    })
    .await;
    (address, count)
}

#[test]
fn strict_refuses_plaintext_and_says_why() {
    run(async {
        for protocol in [Protocol::Http1, Protocol::Tcp, Protocol::Detect] {
            let (app, count) = counting().await;
            let server = Proxy::service(&Ca::new(), "user", app, protocol, TlsMode::Strict);
            let mut connection = Client::connect(server.inbound[0]).await;
            let answer = connection.get("user", "/").await;
            assert_eq!(answer.status, Reason::IdentityRequired.status().as_u16());
            assert!(
                answer
                    .field("proxy-status")
                    .unwrap()
                    .contains("http_request_denied")
            );
            assert!(connection.read().await.is_none(), "and the connection ends");
            let mut opaque = TcpStream::connect(server.inbound[0]).await.unwrap();
            opaque.write_all(b"*1\r\n$4\r\nPING\r\n").await.unwrap();
            assert!(opaque.read_u8().await.is_err());
            assert_eq!(count.get(), 0);
        }
    });
}

#[test]
fn strict_is_what_holds_where_nothing_is_said() {
    run(async {
        let (app, count) = counting().await;
        let ca = Ca::new();
        let server = Proxy::start(Some(ca.identity(&id("user"))), &[app], &[]);
        let answer = Client::connect(server.inbound[0]).await.get("user", "/").await;
        assert_eq!((answer.status, count.get()), (403, 0));
    });
}

#[test]
fn permissive_takes_plaintext_the_mesh_and_an_applications_own_tls() {
    run(async {
        let ca = Ca::new();
        let (app, journal) = http1(|_| ok("both")).await;
        let server = Proxy::service(&ca, "user", app, Protocol::Http1, TlsMode::Permissive);
        let client = Proxy::client(&ca, "order");
        client.know(USER, Protocol::Http1, vec![meshed(server.inbound[0], "user")]);
        assert_eq!(
            Client::connect(client.outbound).await.get("user", "/").await.body,
            "both"
        );
        let mut foreign = Client::connect(server.inbound[0]).await;
        let spoofed = "GET / HTTP/1.1\r\nHost: user\r\nX-Weft-Client-Id: spiffe://evil\r\n\r\n";
        assert_eq!(foreign.send(spoofed).await.unwrap().body, "both");
        assert_eq!(
            journal.borrow()[0].field("x-weft-client-id"),
            Some(id("order").as_str())
        );
        assert_eq!(journal.borrow()[1].field("x-weft-client-id"), None);

        let app = listen(|mut stream| async move {
            let mut hello = [0; 6];
            stream.read_exact(&mut hello).await.unwrap();
            stream.write_all(&hello).await.unwrap();
        })
        .await;
        let server = Proxy::service(&ca, "user", app, Protocol::Detect, TlsMode::Permissive);
        let mut tls = TcpStream::connect(server.inbound[0]).await.unwrap();
        let hello = [0x16, 3, 1, 0, 4, 1, 0, 0, 0];
        tls.write_all(&hello).await.unwrap();
        let mut back = [0; 6];
        tls.read_exact(&mut back).await.unwrap();
        assert_eq!(back, hello[..6], "an application's own TLS passes untouched");
    });
}

#[test]
fn a_policy_that_changes_holds_for_the_next_request_of_every_connection() {
    run(async {
        let ca = Ca::new();
        let (app, journal) = http1(|_| ok("let in")).await;
        let server = Proxy::service(&ca, "user", app, Protocol::Http1, TlsMode::Permissive);
        let client = Proxy::client(&ca, "order");
        client.know(USER, Protocol::Http1, vec![meshed(server.inbound[0], "user")]);
        let mut plaintext = Client::connect(server.inbound[0]).await;
        let mut mesh = Client::connect(client.outbound).await;
        for tls in [TlsMode::Permissive, TlsMode::Strict, TlsMode::Permissive] {
            server.offer(Protocol::Http1, tls);
            let status = plaintext.get("user", "/").await.status;
            assert_eq!(status, if tls == TlsMode::Strict { 403 } else { 200 });
            assert_eq!(mesh.get("user", "/").await.status, 200);
        }
        assert_eq!(journal.borrow().len(), 5);
    });
}

/// Whether one request of a client with `identity` to the account `expected` reaches the application of `server`.
async fn reaches(identity: Identity, server: &Proxy, expected: &str, count: &Cell<u32>) -> (bool, u16) {
    let client = Proxy::start(Some(identity), &[], &[]);
    client.know(USER, Protocol::Http1, vec![meshed(server.inbound[0], expected)]);
    let answer = Client::connect(client.outbound).await.get("user", "/").await;
    (count.get() > 0, answer.status)
}

#[test]
fn nobody_without_the_right_certificate_gets_through() {
    run(async {
        let (ca, foreign) = (Ca::new(), Ca::new());
        let (app, count) = counting().await;
        let server = Proxy::service(&ca, "user", app, Protocol::Http1, TlsMode::Strict);
        // A server whose identity isn't the endpoint's.
        assert_eq!(
            reaches(ca.identity(&id("order")), &server, "payment", &count).await,
            (false, 503)
        );
        // A client of another CA, which the server refuses and which refuses the server.
        assert_eq!(
            reaches(foreign.identity(&id("order")), &server, "user", &count).await,
            (false, 503)
        );
        // A client of another CA that trusts the right one.
        let mixed =
            Identity::new(foreign.leaf(&id("order"), Duration::from_mins(1)), ca.bundle(), 1).unwrap();
        assert_ne!(reaches(mixed, &server, "user", &count).await.1, 200);
        // An expired leaf, and another trust domain.
        let expired = ca.leaf(&id("order"), Duration::from_secs(0));
        let expired = Identity::new(expired, ca.bundle(), 1).unwrap();
        assert_ne!(reaches(expired, &server, "user", &count).await.1, 200);
        let other = ca.leaf("spiffe://other.domain/ns/shop/sa/order", Duration::from_mins(1));
        let other = Identity::new(other, ca.bundle(), 1).unwrap();
        assert_ne!(reaches(other, &server, "user", &count).await.1, 200);
        assert_eq!(count.get(), 0, "nothing reached the application");
    });
}

#[test]
fn an_endpoint_with_an_identity_is_never_spoken_to_in_plaintext() {
    run(async {
        let (app, journal) = http1(|_| ok("plaintext")).await;
        let client = Proxy::client(&Ca::new(), "order");
        client.know(USER, Protocol::Http1, vec![meshed(app, "user")]);
        let answer = Client::connect(client.outbound).await.get("user", "/").await;
        assert_eq!(answer.status, 503);
        assert!(
            journal.borrow().iter().all(|seen| !seen.line.contains("HTTP/1")),
            "no request was readable"
        );
        client.know(USER, Protocol::Http1, vec![plain(app)]);
        assert_eq!(
            Client::connect(client.outbound).await.get("user", "/").await.body,
            "plaintext"
        );
    });
}
