//! Service-account tokens of standalone mode: ES256 JWTs, made by the command line, checked by the control plane.
//!
//! A token says who a workload is before it has a certificate, in the place of a Kubernetes service-account token:
//! same form of subject, an audience, an expiry, and the Services that its bearer may register endpoints for. One
//! algorithm is accepted, one audience, one key. The moment of checking is an argument.

use std::path::Path;
use std::time::{Duration, SystemTime};

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::files::{self, FileError};
use crate::spiffe::{SpiffeError, SpiffeId, TrustDomain};

/// The audience of a token for the mesh.
pub const AUDIENCE: &str = "weft";
/// Longest token in bytes.
pub const MAX_TOKEN_BYTES: usize = 16 * 1024;

const SUBJECT_PREFIX: &str = "system:serviceaccount:";

/// Why a token proves nothing.
#[derive(Debug, Error)]
pub enum TokenError {
    /// The key could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The signing key is unusable.
    #[error(
        "the token key is unusable: {0}; delete the file to have a new one made (all tokens end with it)"
    )]
    Key(String),
    /// Longer than [`MAX_TOKEN_BYTES`].
    #[error("the token is {0} bytes long, at most {MAX_TOKEN_BYTES} are allowed")]
    TooLong(usize),
    /// Not a JWT of ours.
    #[error("the token is malformed, or not of the form that `weft token create` makes")]
    Malformed,
    /// Signed by another key, or by another algorithm than ES256.
    #[error(
        "the token was not signed by this control plane's token key (its state directory may be another)"
    )]
    Signature,
    /// For somebody else.
    #[error("the token is not for the audience `{AUDIENCE}`")]
    Audience,
    /// Over.
    #[error("the token has expired; make a new one with `weft token create`")]
    Expired,
    /// The subject is no service account.
    #[error("the token's subject `{0}` is not system:serviceaccount:<namespace>:<service account>")]
    Subject(String),
    /// The subject's names are none.
    #[error("the token's subject is no workload: {0}")]
    Identity(#[from] SpiffeError),
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The namespace of the service account.
    pub namespace: String,
    /// The service account.
    pub service_account: String,
    /// For whom the token is meant: [`AUDIENCE`].
    pub audience: String,
    /// Services of its namespace that the bearer may register endpoints for.
    pub services: Vec<String>,
    /// When it ends, in whole seconds.
    pub expires_at: SystemTime,
}

impl Claims {
    /// The identity that the token stands for.
    pub fn id(&self, domain: &TrustDomain) -> Result<SpiffeId, TokenError> {
        Ok(domain.workload(&self.namespace, &self.service_account)?)
    }
}

/// The claims as they stand in the JWT.
#[derive(Serialize, Deserialize)]
struct Body {
    sub: String,
    aud: String,
    exp: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    services: Vec<String>,
}

/// Signs tokens.
pub struct SigningKey {
    pair: rcgen::KeyPair,
}

impl SigningKey {
    /// A new key.
    pub fn generate() -> Result<Self, TokenError> {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(unusable)?;
        Ok(Self { pair })
    }

    /// Reads the key at `path`, or makes one there, readable by its owner only. Of several that make one at once all
    /// have the same in the end.
    pub fn load_or_create(path: &Path) -> Result<Self, TokenError> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        let key = Self::generate()?;
        if files::create_private(path, key.pair.serialize_pem().as_bytes())? {
            return Ok(key);
        }
        Self::load(path)?.ok_or_else(|| TokenError::Key("it was there, and is gone".into()))
    }

    /// Reads the key at `path`; `None` when there is none.
    pub fn load(path: &Path) -> Result<Option<Self>, TokenError> {
        let Some(bytes) = files::read(path)? else {
            return Ok(None);
        };
        let text = String::from_utf8(bytes).map_err(|_| TokenError::Key("it is not PEM".into()))?;
        let pair = rcgen::KeyPair::from_pem_and_sign_algo(&text, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(unusable)?;
        Ok(Some(Self { pair }))
    }

    /// Signs `claims`.
    pub fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let body = Body {
            sub: format!("{SUBJECT_PREFIX}{}:{}", claims.namespace, claims.service_account),
            aud: claims.audience.clone(),
            exp: seconds(claims.expires_at),
            services: claims.services.clone(),
        };
        let key = EncodingKey::from_ec_der(self.pair.serialized_der());
        jsonwebtoken::encode(&Header::new(Algorithm::ES256), &body, &key).map_err(unusable)
    }

    /// What checks its signatures.
    pub fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey {
            key: DecodingKey::from_ec_der(self.pair.public_key_raw()),
        }
    }
}

/// Checks tokens.
pub struct VerifyingKey {
    key: DecodingKey,
}

impl VerifyingKey {
    /// What `token` says, if it is signed by the key, meant for [`AUDIENCE`] and not over at `now`.
    pub fn verify(&self, token: &str, now: SystemTime) -> Result<Claims, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong(token.len()));
        }
        // The library checks form, algorithm and signature; it would read the clock itself for the expiry, and it
        // takes an audience for good if any of several fits.
        let mut rules = Validation::new(Algorithm::ES256);
        rules.set_required_spec_claims(&["exp", "aud", "sub"]);
        rules.validate_exp = false;
        rules.validate_aud = false;
        let body = jsonwebtoken::decode::<Body>(token, &self.key, &rules)
            .map_err(|error| refusal(&error))?
            .claims;
        if body.aud != AUDIENCE {
            return Err(TokenError::Audience);
        }
        if body.exp <= seconds(now) {
            return Err(TokenError::Expired);
        }
        claims(body)
    }
}

fn claims(body: Body) -> Result<Claims, TokenError> {
    let names = body
        .sub
        .strip_prefix(SUBJECT_PREFIX)
        .and_then(|names| names.split_once(':'));
    let Some((namespace, service_account)) = names else {
        return Err(TokenError::Subject(
            body.sub.chars().take(128).flat_map(char::escape_debug).collect(),
        ));
    };
    let claims = Claims {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        audience: body.aud,
        services: body.services,
        expires_at: SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(body.exp))
            .ok_or(TokenError::Malformed)?,
    };
    // Names that make no identity are refused here, so that nobody has to think of them later.
    claims.id(&"any.invalid".parse()?)?;
    Ok(claims)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn unusable(error: impl std::fmt::Display) -> TokenError {
    TokenError::Key(error.to_string())
}

fn refusal(error: &jsonwebtoken::errors::Error) -> TokenError {
    match error.kind() {
        ErrorKind::InvalidSignature | ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
            TokenError::Signature
        }
        _ => TokenError::Malformed,
    }
}

#[cfg(test)]
mod tests;
