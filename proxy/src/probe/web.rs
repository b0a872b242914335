//! HTTP and HTTPS probes.

use std::fmt::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::{Failure, HttpGet, connect};

/// `httpGet`: any status from 200 to 399 is success.
pub(super) async fn get(
    probe: &HttpGet,
    address: SocketAddr,
    agent: Option<HeaderValue>,
) -> Result<(), Failure> {
    let request = request(probe, address, agent)?;
    let tcp = connect(address).await?;
    let secure = probe
        .scheme
        .as_deref()
        .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"));
    if !secure {
        return send(tcp, address, request).await;
    }
    let failed = |error: std::io::Error| Failure::Tls(address, error);
    let config = unverified().map_err(|error| failed(std::io::Error::other(error)))?;
    let name = ServerName::IpAddress(address.ip().into());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await;
    send(stream.map_err(failed)?, address, request).await
}

fn request(
    probe: &HttpGet,
    address: SocketAddr,
    agent: Option<HeaderValue>,
) -> Result<Request<Empty<Bytes>>, Failure> {
    let mut request = Request::get(path(probe.path.as_deref().unwrap_or_default()));
    if let Some(headers) = request.headers_mut() {
        if let Some(agent) = agent {
            headers.insert(header::USER_AGENT, agent);
        }
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        for written in &probe.http_headers {
            let name = HeaderName::try_from(&written.name).map_err(|error| Failure::Request(error.into()))?;
            let value =
                HeaderValue::try_from(&written.value).map_err(|error| Failure::Request(error.into()))?;
            headers.insert(name, value);
        }
        if !headers.contains_key(header::HOST)
            && let Ok(host) = HeaderValue::try_from(address.to_string())
        {
            headers.insert(header::HOST, host);
        }
    }
    request.body(Empty::new()).map_err(Failure::Request)
}

/// A path as it may stand in a request line: what may not is escaped, as kubelet does.
fn path(written: &str) -> String {
    let written = written.split('#').next().unwrap_or_default();
    let mut path = String::with_capacity(written.len() + 1);
    if !written.starts_with('/') {
        path.push('/');
    }
    for byte in written.bytes() {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(&byte) {
            path.push(char::from(byte));
        } else {
            // Writing to a String never fails.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

async fn send<S>(stream: S, address: SocketAddr, request: Request<Empty<Bytes>>) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error| Failure::Answer(address, error);
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    // The response is dropped at its head, which ends the connection.
    let status = async move {
        sender
            .send_request(request)
            .await
            .map(|response| response.status())
    };
    let (status, _) = tokio::join!(status, connection);
    match status.map_err(failed)? {
        status if status.is_success() || status.is_redirection() => Ok(()),
        status => Err(Failure::Status(address, status)),
    }
}

/// TLS that takes any certificate: a probe asks whether the application serves, not who it is.
fn unverified() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    Ok(config)
}

#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_made_fit_for_a_request_line() {
        for (written, sent) in [
            ("", "/"),
            ("healthz", "/healthz"),
            ("/healthz?deep=1&x=%20", "/healthz?deep=1&x=%20"),
            ("/a b\r\nHost: evil", "/a%20b%0D%0AHost:%20evil"),
            ("/ä#part", "/%C3%A4"),
        ] {
            assert_eq!(path(written), sent);
        }
    }
}
