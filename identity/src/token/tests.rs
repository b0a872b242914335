use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn claims() -> Claims {
    Claims {
        namespace: "shop".into(),
        service_account: "user".into(),
        audience: AUDIENCE.into(),
        services: vec!["user".into(), "user-v2".into()],
        expires_at: at(1_000),
    }
}

/// A JWT of any header and body, signed by `key` with ES256 whatever the header says.
fn jwt(key: &SigningKey, header: &Value, body: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(body));
    let key = EncodingKey::from_ec_der(key.pair.serialized_der());
    let signature = jsonwebtoken::crypto::sign(signed.as_bytes(), &key, Algorithm::ES256).unwrap();
    format!("{signed}.{signature}")
}

fn body() -> Value {
    json!({ "sub": "system:serviceaccount:shop:user", "aud": "weft", "exp": 1_000 })
}

fn es256() -> Value {
    json!({ "alg": "ES256", "typ": "JWT" })
}

#[test]
fn claims_are_read_back() {
    let key = SigningKey::generate().unwrap();
    let token = key.sign(&claims()).unwrap();
    let read = key.verifying_key().verify(&token, at(999)).unwrap();
    assert_eq!(read, claims());
    let id = read.id(&"cluster.local".parse().unwrap()).unwrap();
    assert_eq!(id.as_str(), "spiffe://cluster.local/ns/shop/sa/user");
    assert!(
        key.verifying_key()
            .verify(&jwt(&key, &es256(), &body()), at(0))
            .unwrap()
            .services
            .is_empty()
    );
}

#[test]
fn expiry_is_judged_at_the_moment_given() {
    let key = SigningKey::generate().unwrap();
    let token = key.sign(&claims()).unwrap();
    for over in [1_000, 1_001, u64::from(u32::MAX)] {
        assert!(matches!(
            key.verifying_key().verify(&token, at(over)),
            Err(TokenError::Expired)
        ));
    }
}

#[test]
fn another_audience_is_refused() {
    let key = SigningKey::generate().unwrap();
    let token = key
        .sign(&Claims {
            audience: "kubernetes".into(),
            ..claims()
        })
        .unwrap();
    assert!(matches!(
        key.verifying_key().verify(&token, at(0)),
        Err(TokenError::Audience)
    ));
    let mut several = body();
    several["aud"] = json!(["weft", "kubernetes"]);
    assert!(
        key.verifying_key()
            .verify(&jwt(&key, &es256(), &several), at(0))
            .is_err()
    );
}

#[test]
fn another_key_is_refused() {
    let token = SigningKey::generate().unwrap().sign(&claims()).unwrap();
    let key = SigningKey::generate().unwrap().verifying_key();
    assert!(matches!(key.verify(&token, at(0)), Err(TokenError::Signature)));
}

#[test]
fn other_algorithms_are_refused() {
    let key = SigningKey::generate().unwrap();
    let verifier = key.verifying_key();
    for algorithm in ["none", "None", "HS256", "HS512", "RS256", "ES384", "EdDSA", ""] {
        let token = jwt(&key, &json!({ "alg": algorithm, "typ": "JWT" }), &body());
        assert!(verifier.verify(&token, at(0)).is_err(), "{algorithm}");
        let unsigned = token
            .rsplit_once('.')
            .map(|(signed, _)| format!("{signed}."))
            .unwrap();
        assert!(verifier.verify(&unsigned, at(0)).is_err(), "{algorithm} unsigned");
    }
    // The classic: the public key, which everybody may know, taken for a shared secret.
    let secret = EncodingKey::from_secret(key.pair.public_key_raw());
    let forged = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &body(), &secret).unwrap();
    assert!(matches!(
        verifier.verify(&forged, at(0)),
        Err(TokenError::Signature)
    ));
}

#[test]
fn altered_and_malformed_tokens_are_refused() {
    let key = SigningKey::generate().unwrap();
    let verifier = key.verifying_key();
    let token = key.sign(&claims()).unwrap();
    for index in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let altered = String::from_utf8(bytes).unwrap();
        // The last character of a part may carry bits that encode nothing; then it must be refused as not canonical.
        assert!(verifier.verify(&altered, at(0)).is_err(), "byte {index}");
    }
    for text in [
        "",
        ".",
        "..",
        "a.b.c",
        "Bearer x",
        &"x".repeat(MAX_TOKEN_BYTES + 1),
    ] {
        assert!(verifier.verify(text, at(0)).is_err());
    }
    for field in ["sub", "aud", "exp"] {
        let mut less = body();
        less.as_object_mut().unwrap().remove(field);
        assert!(
            verifier.verify(&jwt(&key, &es256(), &less), at(0)).is_err(),
            "without {field}"
        );
    }
    for expiry in [json!(-1), json!("1000"), json!(1e40), json!(u64::MAX)] {
        let mut odd = body();
        odd["exp"] = expiry.clone();
        assert!(
            verifier.verify(&jwt(&key, &es256(), &odd), at(0)).is_err(),
            "{expiry}"
        );
    }
}

#[test]
fn subjects_are_service_accounts_only() {
    let key = SigningKey::generate().unwrap();
    for subject in [
        "user",
        "system:node:a",
        "system:serviceaccount:shop",
        "system:serviceaccount::user",
        "system:serviceaccount:shop:",
        "system:serviceaccount:shop:user:x",
        "system:serviceaccount:shop:../admin",
        "system:serviceaccount:Shop:user",
        "SYSTEM:serviceaccount:shop:user",
    ] {
        let mut other = body();
        other["sub"] = json!(subject);
        assert!(
            key.verifying_key()
                .verify(&jwt(&key, &es256(), &other), at(0))
                .is_err(),
            "{subject}"
        );
    }
}

#[test]
fn the_key_is_made_once_and_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token-key.pem");
    assert!(SigningKey::load(&path).unwrap().is_none());
    let token = SigningKey::load_or_create(&path)
        .unwrap()
        .sign(&claims())
        .unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let again = SigningKey::load_or_create(&path).unwrap();
    assert!(again.verifying_key().verify(&token, at(0)).is_ok());
    std::fs::write(&path, "nonsense").unwrap();
    assert!(matches!(
        SigningKey::load_or_create(&path),
        Err(TokenError::Key(_))
    ));
}

#[test]
fn of_several_that_make_the_key_at_once_all_have_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token-key.pem");
    let keys: Vec<SigningKey> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| SigningKey::load_or_create(&path).unwrap()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let token = keys[0].sign(&claims()).unwrap();
    for key in &keys {
        assert_eq!(key.verifying_key().verify(&token, at(999)).unwrap(), claims());
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}
