//! The one crypto provider: whoever makes keys, and whoever speaks TLS, has it from here.

use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The crypto provider of every TLS configuration: aws-lc-rs, TLS 1.3 suites, X25519MLKEM768 first.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}
