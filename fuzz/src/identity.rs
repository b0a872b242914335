//! Names, certificate requests and tokens.

use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use weft_api::duration;
use weft_control_plane::ca::ProvenKey;
use weft_control_plane_core::names::Settings;
use weft_control_plane_core::version::Version;
use weft_control_plane_core::world::ObjectName;
use weft_identity::leaf::KeyPair;
use weft_identity::spiffe::{SpiffeId, TrustDomain};
use weft_identity::token::{AUDIENCE, Claims, SigningKey};
use weft_proxy_core::capture::{PortRange, cidrs, ports};
use weft_proxy_core::cidr::Cidr;

/// Names of every kind, one text.
pub(crate) fn names(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    reads_back::<SpiffeId>(text);
    reads_back::<TrustDomain>(text);
    reads_back::<Cidr>(text);
    reads_back::<PortRange>(text);
    reads_back::<Version>(text);
    reads_back::<duration::Duration>(text);
    if let Some(name) = ObjectName::parse(text) {
        assert_eq!(ObjectName::parse(&name.to_string()), Some(name));
    }
    let _ = (ports(text), cidrs(text));
    let settings = Settings {
        trust_domain: "cluster.local".into(),
        cluster_domain: "cluster.local".into(),
    };
    if let Some(meant) = settings.authority(text, "shop") {
        let name = meant.name(&settings);
        assert_eq!(settings.authority(&name, "other"), Some(meant), "{name}");
    }
}

fn reads_back<T: FromStr + ToString + PartialEq>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        let shown = value.to_string();
        assert!(
            shown.parse::<T>().is_ok_and(|again| again == value),
            "{text:?}: {shown:?}"
        );
    }
}

pub(crate) fn spelled() -> Vec<Vec<u8>> {
    super::texts(&[
        "spiffe://cluster.local/ns/shop/sa/user",
        "cluster.local",
        "10.0.0.0/8",
        "fd00::/8",
        "::ffff:10.0.0.1/104",
        "80",
        "9000-9010",
        "80,443,9000-9010",
        "10.0.0.0/8,fd00::/8",
        "0123456789abcdef",
        "1h30m10s500ms",
        "shop/user",
        "user.shop.svc.cluster.local:80",
        "user.shop.svc",
        "user",
        "[fd00::1]:8080",
        "10.0.0.1:80",
    ])
}

/// A certificate signing request, in DER.
pub(crate) fn certificate_request(data: &[u8]) {
    if let Ok(proven) = ProvenKey::from_csr(data) {
        let _ = proven.kind();
    }
}

pub(crate) fn certificate_requests() -> Vec<Vec<u8>> {
    let requests = (0..2).map(|_| KeyPair::generate().ok()?.csr_der().ok());
    requests.flatten().collect()
}

fn key() -> Option<&'static SigningKey> {
    static KEY: OnceLock<Option<SigningKey>> = OnceLock::new();
    KEY.get_or_init(|| SigningKey::generate().ok()).as_ref()
}

/// When tokens are looked at.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365)
}

fn claims(expires_at: SystemTime) -> Claims {
    Claims {
        namespace: "shop".to_owned(),
        service_account: "user".to_owned(),
        audience: AUDIENCE.to_owned(),
        services: vec!["user".to_owned()],
        expires_at,
    }
}

/// A token. The one that is good is the only one that is taken.
pub(crate) fn token(data: &[u8]) {
    let (Ok(text), Some(key)) = (std::str::from_utf8(data), key()) else {
        return;
    };
    if let Ok(found) = key.verifying_key().verify(text, now()) {
        assert_eq!(found, claims(now() + Duration::from_hours(1)));
    }
}

pub(crate) fn tokens() -> Vec<Vec<u8>> {
    let Some(key) = key() else { return Vec::new() };
    let expiries = [now() + Duration::from_hours(1), now(), SystemTime::UNIX_EPOCH];
    let signed = expiries.map(|at| key.sign(&claims(at)).ok());
    signed.into_iter().flatten().map(String::into_bytes).collect()
}
