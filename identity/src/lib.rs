//! Workload identity: who a process is, and how two of them make sure of it.
//!
//! - [`spiffe`]: SPIFFE ids as parsed values. Two ids are the same workload exactly if they compare equal.
//! - [`bundle`]: the set of roots that a trust domain stands on. [`leaf`]: a key and the certificate for it.
//! - [`tls`]: TLS 1.3 on one crypto provider, and the only certificate verifier of the mesh, for both directions.
//! - [`token`]: the signed claims by which a workload that has no certificate yet says who it is.
//! - [`files`]: private files, replaced as a whole.
//!
//! What both shells and the command line share. It decides nothing about policy: whether an authenticated peer may
//! do something is asked elsewhere. It may depend on crypto and encoding crates, never on a runtime: a handshake is
//! driven by its caller. Start at [`tls`].

pub mod bundle;
pub mod certificate;
pub mod files;
pub mod leaf;
mod provider;
pub mod spiffe;
pub mod tls;
pub mod token;

/// Bytes as lower-case hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes
        .iter()
        .flat_map(|byte| [digit(byte >> 4), digit(*byte)])
        .collect()
}
