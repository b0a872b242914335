//! Trust bundles as SDS secrets.

use std::sync::Arc;

use weft_xds_proto::envoy::config::core::v3::{DataSource, data_source};
use weft_xds_proto::envoy::extensions::transport_sockets::tls::v3 as tls;

/// The roots as a validation context, PEM as Envoy wants it.
pub(super) fn encode(name: &str, roots: &[Arc<[u8]>]) -> tls::Secret {
    let pem: Vec<pem::Pem> = roots
        .iter()
        .map(|root| pem::Pem::new("CERTIFICATE", root.to_vec()))
        .collect();
    let trusted_ca = DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(
            pem::encode_many(&pem).into_bytes(),
        )),
        ..DataSource::default()
    };
    tls::Secret {
        name: name.to_owned(),
        r#type: Some(tls::secret::Type::ValidationContext(
            tls::CertificateValidationContext {
                trusted_ca: Some(trusted_ca),
                ..tls::CertificateValidationContext::default()
            },
        )),
    }
}
