//! Peers that are refused, on either side, before anything of a request or of a connection has passed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::CertificateParams;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use weft_identity::tls::alpn;
use weft_tests::app::Echo;
use weft_tests::client::{Ask, http1, http2};
use weft_tests::forge::{self, Authority, expired, workload};
use weft_tests::frames;
use weft_tests::mesh::{Mesh, Sidecar, Spec};
use weft_tests::raw::say;
use weft_tests::xds::{self, register, registration};

use crate::manifests::SERVICES;

const ORDER: &str = "spiffe://cluster.local/ns/shop/sa/order";
const USER: &str = "spiffe://cluster.local/ns/shop/sa/user";

/// What a client in the clear is told, if it speaks HTTP.
const DENIED: &str = "this port takes mesh mTLS only";

/// A TCP application that counts who comes, and greets.
struct Doorbell {
    address: SocketAddr,
    rung: Arc<AtomicUsize>,
}

impl Doorbell {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        let address = listener.local_addr().expect("bound");
        let rung = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&rung);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    // Whoever came and went again was counted.
                    stream.write_all(b"ding").await?;
                    stream.read_to_end(&mut Vec::new()).await
                });
            }
        });
        Self { address, rung }
    }

    fn rung(&self) -> usize {
        self.rung.load(Ordering::Relaxed)
    }
}

/// One sidecar with an HTTP and a TCP application, and its health checked elsewhere, so that every byte and connection
/// that they see came through an inbound.
struct House {
    mesh: Mesh,
    http: Echo,
    tcp: Doorbell,
    _health: Echo,
    sidecar: Sidecar,
}

impl House {
    async fn start() -> Self {
        let mesh = Mesh::start(&[("services.yaml", SERVICES)], &[]).await;
        let (http, tcp, health) = (
            Echo::start("user-0").await,
            Doorbell::start().await,
            Echo::start("health").await,
        );
        let spec = Spec::new("shop", "user", "user-0")
            .serves("user:80", http.address)
            .serves("queue:1883", tcp.address)
            .flag("health-check", &format!("http://{}/", health.address));
        let sidecar = mesh.sidecar(&spec).await;
        Self {
            mesh,
            http,
            tcp,
            _health: health,
            sidecar,
        }
    }

    /// Says everything there is to say at both inbound ports; an answer over HTTP is expected to hold `until`, if there
    /// is any. Returns all that came back.
    async fn try_all(
        &self,
        tls: impl Fn(&'static [u8]) -> Option<Arc<ClientConfig>>,
        until: &str,
    ) -> Vec<u8> {
        let http2 = [frames::hello(), frames::request(1, "user", "/")].concat();
        let http1 = b"GET / HTTP/1.1\r\nHost: user\r\nConnection: close\r\n\r\n".to_vec();
        let mut answers = Vec::new();
        for (port, name, bytes, until) in [
            (0, alpn::H2, &http2, until),
            (0, alpn::FOREIGN_H2, &http2, until),
            (0, alpn::H1, &http1, until),
            (0, alpn::FOREIGN_H1, &http1, until),
            (1, alpn::TCP, &b"let me in".to_vec(), "ding"),
            (1, alpn::TCP, &Vec::new(), ""),
        ] {
            answers.extend(say(self.sidecar.inbound[port], tls(name), bytes, until).await);
        }
        answers
    }

    fn assert_untouched(&self, who: &str, answers: &[u8]) {
        let text = String::from_utf8_lossy(answers);
        assert!(
            !text.contains("user-0") && !text.contains("ding"),
            "{who}: {text}"
        );
        assert!(self.http.journal().is_empty(), "{who}: {:?}", self.http.journal());
        assert_eq!(self.tcp.rung(), 0, "{who}");
    }
}

#[tokio::test]
async fn nothing_of_a_stranger_reaches_the_application() {
    let house = House::start().await;
    let answers = house.try_all(|_| None, DENIED).await;
    house.assert_untouched("plaintext", &answers);
    let text = String::from_utf8_lossy(&answers);
    assert!(
        text.contains("HTTP/1.1 403") && text.contains("proxy-status: weft"),
        "{text}"
    );
    assert!(
        text.matches(DENIED).count() >= 4,
        "who can read is told why: {text}"
    );

    let (own, impostor) = (Authority::of(&house.mesh), Authority::impostor_of(&house.mesh));
    let strange: [(&str, &Authority, CertificateParams); 7] = [
        (
            "a root of the same name with another key",
            &impostor,
            workload(&[ORDER]),
        ),
        ("an expired leaf", &own, expired(ORDER)),
        (
            "another trust domain",
            &own,
            workload(&["spiffe://evil.local/ns/shop/sa/order"]),
        ),
        (
            "a longer trust domain",
            &own,
            workload(&["spiffe://cluster.local.evil/ns/shop/sa/order"]),
        ),
        ("two identities", &own, workload(&[ORDER, USER])),
        ("no identity", &own, workload(&[])),
        ("no workload", &own, workload(&["spiffe://cluster.local/"])),
    ];
    for (who, authority, params) in strange {
        let forged = authority.sign(&params);
        let answers = house.try_all(|alpn| Some(forged.client(alpn)), "user-0").await;
        house.assert_untouched(who, &answers);
        assert!(answers.is_empty(), "{who}: {}", String::from_utf8_lossy(&answers));
    }
    let answers = house
        .try_all(|alpn| Some(forge::client(None, alpn)), "user-0")
        .await;
    house.assert_untouched("no certificate", &answers);
    let good = own.sign(&workload(&[ORDER]));
    for name in [&b"weft-h3"[..], b"smtp"] {
        let answers = house.try_all(|_| Some(good.client(name)), "user-0").await;
        house.assert_untouched("a protocol that is not spoken", &answers);
    }

    // And all this is refused for what it is: with a good certificate the same bytes pass.
    let answers = house.try_all(|alpn| Some(good.client(alpn)), "user-0").await;
    let text = String::from_utf8_lossy(&answers);
    assert_eq!(text.matches("user-0").count(), 4, "{text}");
    assert_eq!(text.matches("ding").count(), 2, "{text}");
    let seen = house.http.journal();
    assert!(
        seen.iter().all(|seen| seen.headers["x-weft-client-id"] == ORDER),
        "{seen:?}"
    );
    assert_eq!((seen.len(), house.tcp.rung()), (4, 2));
    crate::hostile::assert_no_panic(&house.sidecar.metrics().await);
}

/// A server that took the place of a workload.
struct Usurper {
    port: u16,
    /// Connections on which the client was content with what it was shown, or spoke in the clear.
    believed: Arc<AtomicUsize>,
}

impl Usurper {
    /// `tls`: what it shows; without, it expects plaintext.
    async fn start(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        let port = listener.local_addr().expect("bound").port();
        let believed = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&believed);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, count) = (tls.clone(), Arc::clone(&count));
                tokio::spawn(async move {
                    match tls {
                        // In TLS 1.3 this ends with the client's word that it believes.
                        Some(tls) => {
                            if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
                                count.fetch_add(1, Ordering::Relaxed);
                                serve(stream, count).await;
                            }
                        }
                        None => serve(stream, count).await,
                    }
                });
            }
        });
        Self { port, believed }
    }

    fn believed(&self) -> usize {
        self.believed.load(Ordering::Relaxed)
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, count: Arc<AtomicUsize>) {
    let answer = service_fn(move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        let response = Response::new(Full::new(Bytes::from_static(b"usurped")));
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    });
    // What is no HTTP ends it.
    let _ = auto::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), answer)
        .await;
}

/// An HTTP Service `name` and a TCP Service `name-tcp`.
fn services(name: &str) -> String {
    let service = |name: &str, port: &str, protocol: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop}}\n\
             spec:\n  ports: [{{name: main, port: {port}, appProtocol: {protocol}}}]\n"
        )
    };
    format!(
        "{}{}",
        service(name, "80", "http"),
        service(&format!("{name}-tcp"), "1883", "tcp")
    )
}

#[tokio::test]
async fn a_server_that_is_not_whom_the_endpoint_names_is_sent_nothing() {
    const FALSE: [&str; 6] = ["another", "impostor", "expired", "domain", "two", "plaintext"];
    let manifests = FALSE
        .iter()
        .chain(&["genuine"])
        .map(|name| services(name))
        .collect::<String>();
    let mesh = Mesh::start(&[("services.yaml", &manifests)], &[]).await;
    let (own, impostor) = (Authority::of(&mesh), Authority::impostor_of(&mesh));
    let shown = |name: &str| match name {
        "genuine" => Some(own.sign(&workload(&[USER]))),
        "another" => Some(own.sign(&workload(&[ORDER]))),
        "impostor" => Some(impostor.sign(&workload(&[USER]))),
        "expired" => Some(own.sign(&expired(USER))),
        "domain" => Some(own.sign(&workload(&["spiffe://evil.local/ns/shop/sa/user"]))),
        "two" => Some(own.sign(&workload(&[USER, ORDER]))),
        _ => None,
    };
    let user = xds::leaf(&mesh, "shop/user").await;
    let mut spec = Spec::new("shop", "order", "order-0");
    let mut usurpers = Vec::new();
    let mut held = Vec::new();
    for name in FALSE.iter().chain(&["genuine"]) {
        let forged = shown(name);
        let server = |alpn| Usurper::start(forged.as_ref().map(|forged| forged.server(alpn)));
        let (http, tcp) = (server(alpn::H2).await, server(alpn::TCP).await);
        let (service, tcp_service) = (format!("{name}:80"), format!("{name}-tcp:1883"));
        let token = xds::token(&mesh, &xds::claims("shop/user", &[name, &format!("{name}-tcp")]));
        let ports = [(service.as_str(), http.port), (tcp_service.as_str(), tcp.port)];
        let node = format!("shop/user-{name}");
        held.push(
            register(&mesh, &user, registration(&node, &token, &ports))
                .await
                .expect("granted"),
        );
        spec = spec.flag("bind", &format!("127.0.0.1:0={tcp_service}"));
        usurpers.push((*name, http, tcp));
    }
    let client = mesh.sidecar(&spec).await;
    for (name, http, tcp) in &usurpers {
        let uri = format!("http://{name}/secret");
        let answers = [
            http1(client.outbound, Ask::get(&uri))
                .await
                .expect("the sidecar answers"),
            http2(client.outbound, Ask::get(&uri))
                .await
                .expect("the sidecar answers"),
            http1(client.outbound, Ask::post(&uri, "secret"))
                .await
                .expect("the sidecar answers"),
        ];
        let opaque = say(
            client.bound(&format!("{name}-tcp.shop.svc.cluster.local:1883")),
            None,
            b"secret",
            "",
        )
        .await;
        if *name == "genuine" {
            assert!(
                answers.iter().all(|answer| answer.text() == "usurped"),
                "{answers:?}"
            );
            assert!(
                http.believed() >= 3 && tcp.believed() == 1,
                "{} {}",
                http.believed(),
                tcp.believed()
            );
            continue;
        }
        assert!(
            answers[0]
                .proxy_status()
                .is_some_and(|text| text.contains("tls_certificate_error")),
            "{answers:?}"
        );
        for answer in &answers {
            assert_eq!(
                answer.status,
                StatusCode::SERVICE_UNAVAILABLE,
                "{name}: {answer:?}"
            );
            let reason = answer.proxy_status().unwrap_or_default();
            assert!(
                reason.starts_with("weft") && reason.contains("error="),
                "{name}: {answer:?}"
            );
        }
        assert!(opaque.is_empty(), "{name}: {opaque:?}");
        assert_eq!((http.believed(), tcp.believed()), (0, 0), "{name} got something");
    }
    crate::hostile::assert_no_panic(&client.metrics().await);
}
