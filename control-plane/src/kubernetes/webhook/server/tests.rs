//! Nobody who reaches the port keeps the API server's calls out.

use std::net::SocketAddr;

use kube::Client;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio_rustls::TlsConnector;
use weft_identity::bundle::TrustBundle;
use weft_identity::spiffe::TrustDomain;
use weft_identity::tls::{Expected, client_config, unnamed};

use super::*;
use crate::ca::{CertificateAuthority, Material, Origin, make_root};
use crate::certificates::Issuing;
use crate::kubernetes::webhook::notice::notices;
use crate::kubernetes::webhook::values::InjectorFile;
use crate::own;

/// Somebody else on this machine.
const OTHER: [u8; 4] = [127, 0, 0, 2];

/// The API server.
const CALLER: [u8; 4] = [127, 0, 0, 1];

/// An injector, and what its clients have to know.
struct Site {
    address: SocketAddr,
    bundle: TrustBundle,
}

impl Site {
    async fn start() -> Self {
        weft_ops::descriptors::raise_limit();
        let domain: TrustDomain = "cluster.local".parse().unwrap();
        let root = make_root(&domain).unwrap();
        let material = Material {
            certificate: root.certificate.as_bytes(),
            key: root.key.as_bytes(),
            roots: None,
            origin: Origin {
                certificate: "here",
                key: "here",
                roots: "here",
            },
        };
        let authority = CertificateAuthority::new(&material, &domain).unwrap();
        let issuing = Issuing::new(authority, Duration::from_hours(1));
        let (tls, _) = own::issue(&issuing, &[]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("values.yaml");
        std::fs::write(&file, "image: weft").unwrap();
        let values = InjectorFile::open(&file).unwrap();
        let nobody = tower::service_fn(|_: Request<kube::client::Body>| async {
            Err::<Response<kube::client::Body>, _>(std::io::Error::other("nobody listens"))
        });
        let client = Client::new(nobody, "default");
        let (told, _) = notices(client.clone(), &"pod".into());
        let server = Server::new(Webhook::new(values, client, told), Arc::new(ArcSwap::new(tls)));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(server.run(listener));
        Self {
            address,
            bundle: issuing.bundle(),
        }
    }

    async fn dial(&self, from: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// Sends a call, or the beginning of one.
    async fn send(
        &self,
        from: [u8; 4],
        head: &str,
        body: &str,
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let tls = client_config(
            None,
            &self.bundle,
            Expected::AnyOfTrustDomain,
            &[alpn::FOREIGN_H1],
        );
        let stream = self.dial(from).await;
        let mut stream = TlsConnector::from(tls.unwrap())
            .connect(unnamed(), stream)
            .await
            .unwrap();
        let head = format!("POST /inject HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{head}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body.as_bytes()).await.unwrap();
        stream
    }

    /// The API server's call is answered, while all others still have their time.
    async fn answers(&self) {
        let call = json!({
            "apiVersion": "admission.k8s.io/v1",
            "request": { "uid": "1", "kind": { "kind": "Pod" }, "operation": "DELETE" },
        })
        .to_string();
        let calling = async {
            let length = format!("content-length: {}", call.len());
            let mut stream = self.send(CALLER, &length, &call).await;
            let mut answer = Vec::new();
            // A server that says goodbye without a close_notify has answered all the same.
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        let answer = tokio::time::timeout(CALL_TIMEOUT / 2, calling).await;
        let answer = answer.expect("an answer in time");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[tokio::test]
async fn silent_connections_of_one_address_do_not_keep_the_others_out() {
    let site = Site::start().await;
    let mut crowd = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        crowd.push(site.dial(OTHER).await);
    }
    site.answers().await;
    drop(crowd);
}

#[tokio::test]
async fn slow_calls_of_one_address_do_not_keep_the_others_out() {
    let site = Site::start().await;
    let mut crowd = Vec::new();
    for _ in 0..CALLS_MAX {
        crowd.push(site.send(OTHER, "content-length: 1000000", "{").await);
    }
    site.answers().await;
    drop(crowd);
}
