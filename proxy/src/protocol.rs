//! Reads a connection's first bytes and puts them back; what they mean is decided in `weft_proxy_core::protocol`.
//!
//! Silence costs nothing and decides nothing: no buffer exists before the first byte, and a client that says nothing
//! is never taken for one that speaks an opaque protocol. From the first byte on there are [`DETECT_TIMEOUT`] to show
//! what it is; what is undecided then is opaque where anything may come, and too late where only HTTP may.

use std::time::Duration;

use bytes::BytesMut;
use rustls::server::Acceptor;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;
use weft_identity::tls::alpn;
use weft_proxy_core::protocol::{Detected, MAX_BYTES, detect};

use crate::stream::Stream;

/// From the first byte of a connection until its protocol must be known, and for a TLS handshake.
pub const DETECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How a TLS connection begins: a record with a handshake.
const TLS_HANDSHAKE: u8 = 22;
/// How a request for a tunnel begins.
pub const CONNECT: &[u8] = b"CONNECT ";
/// Longest `ClientHello` that is waited for, in bytes.
const MAX_HELLO: usize = 64 * 1024;
/// Bytes read at first.
const FIRST_READ: usize = 1024;

/// Waits for the first bytes of `stream` and says what it speaks; [`Detected::NeedMore`]: time was up. `None`: it ended or
/// broke before it said anything.
pub async fn sniff(stream: Stream) -> Option<(Detected, Stream)> {
    sniff_by(stream, detect).await
}

/// The same where it can only be TLS or opaque: what might be the beginning of a request waits for no more of it.
pub async fn sniff_tls(stream: Stream) -> Option<(Detected, Stream)> {
    let tls_or_opaque = |bytes: &[u8]| match detect(bytes) {
        Detected::NeedMore if bytes.first().is_none_or(|first| *first == TLS_HANDSHAKE) => Detected::NeedMore,
        Detected::Tls => Detected::Tls,
        _ => Detected::Opaque,
    };
    sniff_by(stream, tls_or_opaque).await
}

async fn sniff_by(stream: Stream, detect: impl Fn(&[u8]) -> Detected) -> Option<(Detected, Stream)> {
    let decided = |bytes: &[u8]| Some(detect(bytes)).filter(|detected| *detected != Detected::NeedMore);
    let (detected, stream) = read_until(stream, MAX_BYTES, decided).await?;
    let detected = match detected {
        Decision::Made(detected) => detected,
        Decision::Late => Detected::NeedMore,
        Decision::None => Detected::Opaque,
    };
    Some((detected, stream))
}

/// The ALPN names that the `ClientHello` at the beginning of `stream` offers; empty when it offers none or can't be
/// read. `None`: the stream broke.
pub async fn offered_alpn(stream: Stream) -> Option<(Vec<Vec<u8>>, Stream)> {
    Some(match read_until(stream, MAX_HELLO, hello_alpn).await? {
        (Decision::Made(names), stream) => (names, stream),
        (Decision::Late | Decision::None, stream) => (Vec::new(), stream),
    })
}

/// What was found out about the beginning of a stream.
enum Decision<T> {
    Made(T),
    /// Time was up before.
    Late,
    /// The limit or the end of the stream came before.
    None,
}

/// Whether ALPN names are such that only a mesh peer offers them.
pub fn is_mesh_alpn(names: &[Vec<u8>]) -> bool {
    [alpn::H2, alpn::TCP, alpn::H1]
        .iter()
        .any(|mesh| names.iter().any(|name| name == mesh))
}

/// The ALPN names that a `ClientHello` offers; none where it offers none or can't be read. `None`: it is not whole.
pub fn hello_alpn(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() {
        if acceptor.read_tls(&mut rest).is_err() {
            return Some(Vec::new());
        }
    }
    match acceptor.accept() {
        Ok(None) => None,
        Err(_) => Some(Vec::new()),
        Ok(Some(accepted)) => {
            let hello = accepted.client_hello();
            Some(
                hello
                    .alpn()
                    .map_or_else(Vec::new, |names| names.map(<[u8]>::to_vec).collect()),
            )
        }
    }
}

/// Reads until `decide` decides, the limit is reached, time is up or the stream ends, and puts all back.
async fn read_until<T>(
    mut stream: Stream,
    limit: usize,
    decide: impl Fn(&[u8]) -> Option<T>,
) -> Option<(Decision<T>, Stream)> {
    if !stream.speaks().await.ok()? {
        return None;
    }
    let mut seen = BytesMut::with_capacity(FIRST_READ);
    let reading = async {
        loop {
            let count = stream.read_buf(&mut seen).await.ok()?;
            if let Some(decision) = decide(&seen) {
                return Some(Decision::Made(decision));
            }
            if count == 0 || seen.len() >= limit {
                return Some(Decision::None);
            }
        }
    };
    let decision = timeout(DETECT_TIMEOUT, reading)
        .await
        .unwrap_or(Some(Decision::Late))?;
    Some((decision, stream.with_prefix(seen.freeze())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (near, far) = tokio::join!(
            TcpStream::connect(listener.local_addr().unwrap()),
            listener.accept()
        );
        (near.unwrap(), far.unwrap().0.into())
    }

    #[tokio::test]
    async fn what_was_read_is_still_there() {
        for (text, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Detected::Http1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Detected::Http2),
            (b"+PING\r\n", Detected::Opaque),
            (b"GE", Detected::Opaque),
        ] {
            let (mut client, server) = pair().await;
            client.write_all(text).await.unwrap();
            client.shutdown().await.unwrap();
            let (detected, mut server) = sniff(server).await.unwrap();
            assert_eq!(detected, expected);
            let mut all = Vec::new();
            server.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, text);
        }
    }

    #[tokio::test]
    async fn what_may_begin_a_request_does_not_wait_where_no_request_may_come() {
        for (text, expected) in [
            (&b"ping"[..], Detected::Opaque),
            (&[22, 3, 1, 0, 99, 1], Detected::Tls),
        ] {
            let (mut client, server) = pair().await;
            client.write_all(text).await.unwrap();
            let (detected, _) = sniff_tls(server).await.unwrap();
            assert_eq!(detected, expected);
        }
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_and_ends_is_nothing() {
        let (client, server) = pair().await;
        drop(client);
        assert!(sniff(server).await.is_none());
    }

    fn hello(names: &[&[u8]]) -> Vec<u8> {
        let mut config = rustls::ClientConfig::builder_with_provider(weft_identity::tls::provider())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
        let mut client =
            rustls::ClientConnection::new(Arc::new(config), weft_identity::tls::unnamed()).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn alpn_tells_the_mesh_from_an_applications_own_tls() {
        for (names, mesh) in [
            (&[alpn::H2][..], true),
            (&[b"h2", alpn::TCP], true),
            (&[b"h2", b"http/1.1"], false),
            (&[], false),
        ] {
            let (mut client, server) = pair().await;
            let bytes = hello(names);
            client.write_all(&bytes).await.unwrap();
            let (offered, mut server) = offered_alpn(server).await.unwrap();
            assert_eq!(offered, names);
            assert_eq!(is_mesh_alpn(&offered), mesh);
            let mut again = vec![0; bytes.len()];
            server.read_exact(&mut again).await.unwrap();
            assert_eq!(again, bytes);
        }
    }

    #[test]
    fn a_hello_is_read_whole_wherever_it_is_cut() {
        let bytes = hello(&[alpn::H1]);
        for cut in 0..bytes.len() {
            assert!(hello_alpn(&bytes[..cut]).is_none(), "{cut}");
        }
        assert_eq!(hello_alpn(&bytes), Some(vec![alpn::H1.to_vec()]));
    }
}
