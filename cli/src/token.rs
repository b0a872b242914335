//! `weft token`: tokens by which workloads of standalone mode say who they are.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use weft_identity::files::create_private_directory;
use weft_identity::token::{AUDIENCE, Claims, SigningKey};

use crate::output::Format;

/// The signing key in the control plane's state folder.
const KEY_FILE: &str = "token-key.pem";

/// Longest name of a Service (RFC 1123).
const MAX_SERVICE_BYTES: usize = 63;

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Make a token for a service account, signed by the control plane's token key.
    Create(Create),
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// The control plane's state folder; the key is made there if it is missing.
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR")]
    state_dir: PathBuf,
    /// The workload's namespace.
    #[arg(short, long, env = "WEFT_NAMESPACE", value_name = "NS")]
    namespace: String,
    /// The workload's service account.
    #[arg(long, value_name = "NAME")]
    service_account: String,
    /// A Service of its namespace that the workload may register itself for; repeatable.
    #[arg(long = "service", value_name = "NAME", value_parser = parse_service)]
    services: Vec<String>,
    /// How long the token holds.
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    expires_in: Duration,
    /// How the result is printed; a table is the token alone.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A token that was made.
#[derive(Debug, Serialize)]
pub(crate) struct Made {
    /// The token.
    pub(crate) token: String,
    /// Of whom.
    subject: String,
    /// Services that it grants.
    services: Vec<String>,
    /// When it ends, in seconds since 1970.
    expires_at: u64,
}

/// Runs `weft token`.
pub(crate) fn run(token: Token) -> anyhow::Result<()> {
    let Token::Create(create) = token;
    let made = make(
        &create.state_dir,
        &create.namespace,
        &create.service_account,
        create.services,
        create.expires_in,
    )?;
    create.output.print(&made, |made| format!("{}\n", made.token))
}

/// Makes a token with the key in `state_dir`, and the key if it is missing.
pub(crate) fn make(
    state_dir: &Path,
    namespace: &str,
    service_account: &str,
    services: Vec<String>,
    lifetime: Duration,
) -> anyhow::Result<Made> {
    let expires_at = SystemTime::now()
        .checked_add(lifetime)
        .context("the token would hold longer than time can be told")?;
    let claims = Claims {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        audience: AUDIENCE.to_owned(),
        services,
        expires_at,
    };
    // Names that make no identity are refused here rather than by the control plane.
    claims.id(&"any.invalid".parse()?)?;
    create_private_directory(state_dir)?;
    let key = SigningKey::load_or_create(&state_dir.join(KEY_FILE))?;
    Ok(Made {
        token: key.sign(&claims)?,
        subject: format!("system:serviceaccount:{namespace}:{service_account}"),
        services: claims.services,
        expires_at: expires_at.duration_since(SystemTime::UNIX_EPOCH)?.as_secs(),
    })
}

/// The name of a Service.
fn parse_service(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let dash = |b: Option<&u8>| b == Some(&b'-');
    let bytes = text.as_bytes();
    let label = (1..=MAX_SERVICE_BYTES).contains(&bytes.len()) && bytes.iter().copied().all(allowed);
    if label && !dash(bytes.first()) && !dash(bytes.last()) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "a Service's name is a DNS label of a-z, 0-9 and `-`, at most {MAX_SERVICE_BYTES} bytes"
        ))
    }
}

/// A time as in `20s`, `5m`, `24h`, `1h30m`, `500ms`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let number: u32 = rest[..digits].parse().map_err(|_| wrong(text))?;
        rest = &rest[digits..];
        let letters = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let unit = match &rest[..letters] {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" => Duration::from_mins(1),
            "h" => Duration::from_hours(1),
            _ => return Err(wrong(text)),
        };
        total = unit
            .checked_mul(number)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| wrong(text))?;
        rest = &rest[letters..];
    }
    if total.is_zero() {
        Err(wrong(text))
    } else {
        Ok(total)
    }
}

fn wrong(text: &str) -> String {
    format!("`{text}` is no time above zero such as 500ms, 20s, 5m, 24h or 1h30m")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use weft_identity::files::PRIVATE_DIRECTORY_MODE;

    use super::*;

    #[test]
    fn times() {
        for (text, millis) in [
            ("20s", 20_000),
            ("1h30m", 5_400_000),
            ("500ms", 500),
            ("24h", 86_400_000),
        ] {
            assert_eq!(parse_duration(text).unwrap().as_millis(), millis);
        }
        for text in ["", "0s", "20", "s", "-1s", "1d", "1.5s", "99999999999s", "1 s"] {
            parse_duration(text).unwrap_err();
        }
    }

    #[test]
    fn names_of_services() {
        let longest = "a".repeat(MAX_SERVICE_BYTES);
        for name in ["user", "product-v1", "2", &longest] {
            assert_eq!(parse_service(name).unwrap(), name);
        }
        for name in ["", "User", "bad name", "-a", "a-", "a.b", &format!("{longest}a")] {
            parse_service(name).unwrap_err();
        }
    }

    #[test]
    fn a_token_says_who_and_what() {
        let dir = tempfile::tempdir().unwrap();
        let hour = Duration::from_hours(1);
        let made = make(
            &dir.path().join("state"),
            "shop",
            "user",
            vec!["user".into()],
            hour,
        )
        .unwrap();
        let key = SigningKey::load(&dir.path().join("state").join(KEY_FILE))
            .unwrap()
            .unwrap();
        let permissions = std::fs::metadata(dir.path().join("state"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(permissions & 0o777, PRIVATE_DIRECTORY_MODE);
        let claims = key
            .verifying_key()
            .verify(&made.token, SystemTime::now())
            .unwrap();
        assert_eq!(
            (claims.namespace.as_str(), claims.service_account.as_str()),
            ("shop", "user")
        );
        assert_eq!(claims.services, ["user"]);
        let again = make(&dir.path().join("state"), "shop", "order", Vec::new(), hour).unwrap();
        key.verifying_key()
            .verify(&again.token, SystemTime::now())
            .unwrap();
        make(dir.path(), "shop/x", "user", Vec::new(), hour).unwrap_err();
    }
}
