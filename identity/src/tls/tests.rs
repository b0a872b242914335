//! Real handshakes in memory, with a zoo of certificates that must not pass in either direction.

use std::io::{Read, Write};
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    SanType,
};
use rustls::{ClientConnection, NamedGroup, ProtocolVersion, RootCertStore, ServerConnection};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::*;
use crate::leaf::{KeyPair, LeafError};

const USER: &str = "spiffe://cluster.local/ns/shop/sa/user";
const ORDER: &str = "spiffe://cluster.local/ns/shop/sa/order";

struct Ca {
    issuer: Issuer<'static, rcgen::KeyPair>,
    root: CertificateDer<'static>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = rcgen::KeyPair::generate().unwrap();
        let root = params.self_signed(&key).unwrap().der().clone();
        Self {
            issuer: Issuer::new(params, key),
            root,
        }
    }

    fn bundle(&self) -> TrustBundle {
        TrustBundle::new("cluster.local".parse().unwrap(), vec![self.root.clone()]).unwrap()
    }

    fn sign(&self, params: &CertificateParams) -> Raw {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Raw {
            chain: vec![certificate.der().clone()],
            key: key.serialize_der(),
        }
    }

    fn leaf(&self, id: &str) -> Leaf {
        let raw = self.sign(&workload(id));
        Leaf::from_parts(raw.chain.clone(), raw.private()).unwrap()
    }
}

/// A key and a chain that nobody has checked.
struct Raw {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Raw {
    fn private(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.clone()))
    }

    /// A client that trusts anybody and shows this.
    fn client(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap();
        let builder = builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        Arc::new(
            builder
                .with_client_auth_cert(self.chain.clone(), self.private())
                .unwrap(),
        )
    }

    /// A server that asks nobody and shows this.
    fn server(&self) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .unwrap();
        Arc::new(
            builder
                .with_no_client_auth()
                .with_single_cert(self.chain.clone(), self.private())
                .unwrap(),
        )
    }
}

fn workload(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = (SystemTime::now() - Duration::from_mins(10)).into();
    params.not_after = (SystemTime::now() + Duration::from_hours(1)).into();
    params
}

fn with(change: impl FnOnce(&mut CertificateParams)) -> CertificateParams {
    let mut params = workload(USER);
    change(&mut params);
    params
}

/// A URI name of any bytes, which the library would refuse to make.
fn odd_uri(uri: &[u8]) -> CertificateParams {
    with(|params| {
        params.subject_alt_names.clear();
        let length = |bytes: usize| u8::try_from(bytes).unwrap();
        let mut names = vec![0x30, length(uri.len() + 2), 0x86, length(uri.len())];
        names.extend_from_slice(uri);
        params.custom_extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], names)];
    })
}

/// Every certificate that must not pass for [`USER`], although most come from the right root.
fn zoo(ca: &Ca) -> Vec<(&'static str, Raw)> {
    let signed = |(what, params): (&'static str, CertificateParams)| (what, ca.sign(&params));
    let mut zoo: Vec<_> = odd_names()
        .into_iter()
        .chain(odd_ids())
        .chain(odd_terms())
        .map(signed)
        .collect();
    zoo.push(("foreign root", Ca::new("foreign").sign(&workload(USER))));
    zoo.push((
        "foreign root of the same name",
        Ca::new("mesh").sign(&workload(USER)),
    ));
    let mut long = ca.sign(&workload(USER));
    long.chain.extend(std::iter::repeat_n(Ca::new("maze").root, 100));
    zoo.push(("endless chain", long));
    zoo
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Not exactly one URI, or the id in another place.
fn odd_names() -> Vec<(&'static str, CertificateParams)> {
    let names = |names: Vec<SanType>| with(|params| params.subject_alt_names = names);
    let dns = |text: &str| SanType::DnsName(text.try_into().unwrap());
    let mut common_name = names(vec![dns("user.shop")]);
    common_name.distinguished_name.push(DnType::CommonName, USER);
    vec![
        ("no name", names(Vec::new())),
        ("two ids", names(vec![uri(USER), uri(ORDER)])),
        ("id twice", names(vec![uri(USER), uri(USER)])),
        ("id and URL", names(vec![uri(USER), uri("https://example.com/")])),
        ("id as DNS name", names(vec![dns(USER)])),
        ("id as common name", common_name),
        (
            "id as other name",
            names(vec![SanType::OtherName((vec![1, 2, 3], USER.into()))]),
        ),
    ]
}

/// One URI, which isn't an id of our domain.
fn odd_ids() -> Vec<(&'static str, CertificateParams)> {
    let id = |id: &str| with(|params| params.subject_alt_names = vec![uri(id)]);
    vec![
        (
            "NUL inside",
            odd_uri(b"spiffe://cluster.local/ns/shop/sa/user\0.evil"),
        ),
        (
            "NUL at the end",
            odd_uri(b"spiffe://cluster.local/ns/shop/sa/user\0"),
        ),
        (
            "not UTF-8",
            odd_uri(b"spiffe://cluster.local/ns/shop/sa/user\xff"),
        ),
        ("other domain", id("spiffe://other.local/ns/shop/sa/user")),
        (
            "domain as prefix",
            id("spiffe://cluster.local.evil/ns/shop/sa/user"),
        ),
        ("domain as suffix", id("spiffe://x.cluster.local/ns/shop/sa/user")),
        ("upper case", id("spiffe://CLUSTER.local/ns/shop/sa/user")),
        ("port", id("spiffe://cluster.local:1/ns/shop/sa/user")),
        ("percent", id("spiffe://cluster.local/ns/shop/sa/us%65r")),
        ("longer path", id("spiffe://cluster.local/ns/shop/sa/user/x")),
        ("domain only", id("spiffe://cluster.local")),
    ]
}

/// The right name with wrong dates or for the wrong purpose.
fn odd_terms() -> Vec<(&'static str, CertificateParams)> {
    let usage = |usages: Vec<ExtendedKeyUsagePurpose>| with(|params| params.extended_key_usages = usages);
    let now = SystemTime::now();
    vec![
        (
            "expired",
            with(|params| params.not_after = (now - Duration::from_secs(2)).into()),
        ),
        (
            "not yet",
            with(|params| params.not_before = (now + Duration::from_mins(1)).into()),
        ),
        (
            "authority",
            with(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        ("server only", usage(vec![ExtendedKeyUsagePurpose::ServerAuth])),
        ("client only", usage(vec![ExtendedKeyUsagePurpose::ClientAuth])),
        ("no usage", usage(Vec::new())),
        ("code signing", usage(vec![ExtendedKeyUsagePurpose::CodeSigning])),
    ]
}

/// What the client and what the server refused.
type Refusals = Box<(Option<Error>, Option<Error>)>;

/// Runs a handshake to its end, with one byte of data each way. Both results matter: in TLS 1.3 a client is done
/// before the server has seen its certificate.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
) -> Result<(ClientConnection, ServerConnection), Refusals> {
    let mut client = ClientConnection::new(Arc::clone(client), unnamed()).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    client.writer().write_all(b"c").unwrap();
    let (mut client_error, mut server_error) = (None, None);
    for _ in 0..10 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() && server_error.is_none() {
            server.read_tls(&mut rest).unwrap();
            server_error = server.process_new_packets().err();
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = &wire[..];
        while !rest.is_empty() && client_error.is_none() {
            client.read_tls(&mut rest).unwrap();
            client_error = client.process_new_packets().err();
        }
    }
    if client_error.is_some() || server_error.is_some() {
        return Err(Box::new((client_error, server_error)));
    }
    let mut byte = [0];
    assert_eq!(
        server.reader().read(&mut byte).unwrap(),
        1,
        "the data came through"
    );
    Ok((client, server))
}

fn meet(
    client: &Leaf,
    server: &Leaf,
    bundle: &TrustBundle,
    expected: &str,
) -> (Arc<ClientConfig>, Arc<ServerConfig>) {
    let expected: SpiffeId = expected.parse().unwrap();
    let client = client_config(Some(client), bundle, expected.into(), &[alpn::H2]).unwrap();
    let server = server_config(server, bundle, ClientAuth::Required, &[alpn::TCP, alpn::H2]).unwrap();
    (client, server)
}

#[test]
fn members_meet_on_tls13_with_a_post_quantum_key_exchange() {
    let ca = Ca::new("mesh");
    let bundle = ca.bundle();
    let (client, server) = meet(&ca.leaf(ORDER), &ca.leaf(USER), &bundle, USER);
    let (client, server) = handshake(&client, &server).unwrap();
    assert_eq!(client.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    let group = client
        .negotiated_key_exchange_group()
        .map(rustls::crypto::SupportedKxGroup::name);
    assert_eq!(group, Some(NamedGroup::X25519MLKEM768));
    assert_eq!(client.alpn_protocol(), Some(alpn::H2));
    assert_eq!(server.server_name(), None, "no name is sent");
    let seen = peer_identity(server.peer_certificates().unwrap(), &bundle).unwrap();
    assert_eq!(seen.as_str(), ORDER);
    let details = peer(client.peer_certificates().unwrap()).unwrap();
    assert_eq!(details.id.as_str(), USER);
    assert!(details.not_after > SystemTime::now() && details.not_before < SystemTime::now());
}

#[test]
fn names_beside_the_id_are_no_obstacle() {
    let ca = Ca::new("mesh");
    let mut params = workload(USER);
    params
        .subject_alt_names
        .push(SanType::DnsName("localhost".try_into().unwrap()));
    params
        .subject_alt_names
        .push(SanType::IpAddress("127.0.0.1".parse().unwrap()));
    let raw = ca.sign(&params);
    let server = Leaf::from_parts(raw.chain.clone(), raw.private()).unwrap();
    let (client, server) = meet(&ca.leaf(ORDER), &server, &ca.bundle(), USER);
    handshake(&client, &server).unwrap();
}

#[test]
fn the_zoo_is_refused_as_server() {
    let ca = Ca::new("mesh");
    let us = client_config(
        Some(&ca.leaf(ORDER)),
        &ca.bundle(),
        USER.parse::<SpiffeId>().unwrap().into(),
        &[],
    );
    let us = us.unwrap();
    for (what, raw) in zoo(&ca) {
        let refusal = handshake(&us, &raw.server()).map(|_| what).unwrap_err();
        assert!(
            matches!(refusal.0, Some(Error::InvalidCertificate(_))),
            "{what}: {refusal:?}"
        );
    }
}

#[test]
fn the_zoo_is_refused_as_client() {
    let ca = Ca::new("mesh");
    for auth in [ClientAuth::Required, ClientAuth::Optional] {
        let us = server_config(&ca.leaf(ORDER), &ca.bundle(), auth, &[]).unwrap();
        for (what, raw) in zoo(&ca) {
            let refusal = handshake(&raw.client(), &us).map(|_| what).unwrap_err();
            assert!(
                matches!(refusal.1, Some(Error::InvalidCertificate(_))),
                "{what}: {refusal:?}"
            );
        }
    }
}

#[test]
fn the_zoo_makes_no_leaf_of_our_own() {
    let ca = Ca::new("mesh");
    for (what, raw) in zoo(&ca) {
        // Root, time and domain are questions of the handshake, not of the file.
        if ["foreign", "expired", "not yet", "domain as", "other domain"]
            .iter()
            .any(|skip| what.starts_with(skip))
        {
            continue;
        }
        assert!(
            Leaf::from_parts(raw.chain.clone(), raw.private()).is_err(),
            "{what}"
        );
    }
}

#[test]
fn somebody_else_of_the_mesh_is_not_the_expected_one() {
    let ca = Ca::new("mesh");
    let (client, server) = meet(&ca.leaf(ORDER), &ca.leaf(ORDER), &ca.bundle(), USER);
    let (error, _) = *handshake(&client, &server).unwrap_err();
    let text = error.unwrap().to_string();
    assert!(text.contains(ORDER) && text.contains(USER), "{text}");
}

#[test]
fn any_of_several_expected_ids_will_do() {
    let ca = Ca::new("mesh");
    let ids = [USER, ORDER].map(|id| id.parse().unwrap());
    let server = server_config(&ca.leaf(ORDER), &ca.bundle(), ClientAuth::Required, &[]).unwrap();
    for expected in [Expected::Ids(ids.into()), Expected::AnyOfTrustDomain] {
        let client = client_config(Some(&ca.leaf(USER)), &ca.bundle(), expected, &[]).unwrap();
        handshake(&client, &server).unwrap();
    }
}

#[test]
fn a_client_without_certificate_is_met_only_where_that_is_allowed() {
    let ca = Ca::new("mesh");
    let client = client_config(None, &ca.bundle(), USER.parse::<SpiffeId>().unwrap().into(), &[]).unwrap();
    let strict = server_config(&ca.leaf(USER), &ca.bundle(), ClientAuth::Required, &[]).unwrap();
    let (_, error) = *handshake(&client, &strict).unwrap_err();
    assert!(error.is_some());
    let open = server_config(&ca.leaf(USER), &ca.bundle(), ClientAuth::Optional, &[]).unwrap();
    let (_, server) = handshake(&client, &open).unwrap();
    assert!(server.peer_certificates().is_none());
    assert_eq!(peer(&[]), Err(CertificateError::Missing));
}

#[test]
fn no_session_is_resumed() {
    let ca = Ca::new("mesh");
    let (client, server) = meet(&ca.leaf(ORDER), &ca.leaf(USER), &ca.bundle(), USER);
    for _ in 0..3 {
        let (client, server) = handshake(&client, &server).unwrap();
        assert_eq!(client.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(server.handshake_kind(), Some(rustls::HandshakeKind::Full));
        assert_eq!(client.tls13_tickets_received(), 0);
    }
}

#[test]
fn no_protocol_in_common_is_no_connection() {
    let ca = Ca::new("mesh");
    let id: SpiffeId = USER.parse().unwrap();
    let client = client_config(Some(&ca.leaf(ORDER)), &ca.bundle(), id.into(), &[alpn::H1]).unwrap();
    let server = server_config(&ca.leaf(USER), &ca.bundle(), ClientAuth::Required, &[alpn::H2]).unwrap();
    assert!(handshake(&client, &server).is_err());
}

#[test]
fn roots_are_exchanged_without_a_gap() {
    let (old, new) = (Ca::new("old"), Ca::new("new"));
    let both = TrustBundle::new(
        "cluster.local".parse().unwrap(),
        vec![new.root.clone(), old.root.clone()],
    )
    .unwrap();
    for (client, server) in [(&old, &new), (&new, &old), (&new, &new)] {
        let (client, server) = meet(&client.leaf(ORDER), &server.leaf(USER), &both, USER);
        handshake(&client, &server).unwrap();
    }
    let (client, server) = meet(&old.leaf(ORDER), &new.leaf(USER), &new.bundle(), USER);
    assert!(
        handshake(&client, &server).is_err(),
        "the old root has been retired"
    );
}

#[test]
fn only_tls13_suites_and_post_quantum_first() {
    let provider = provider();
    assert!(provider.cipher_suites.iter().all(|suite| suite.tls13().is_some()));
    assert_eq!(provider.kx_groups[0].name(), NamedGroup::X25519MLKEM768);
}

#[test]
fn leaves_and_bundles_survive_the_disk() {
    use std::os::unix::fs::PermissionsExt;
    let ca = Ca::new("mesh");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leaf.pem");
    assert!(Leaf::load(&path).unwrap().is_none());
    let leaf = ca.leaf(USER);
    leaf.save(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let again = Leaf::load(&path).unwrap().unwrap();
    assert_eq!(
        (again.serial(), again.id(), again.chain()),
        (leaf.serial(), leaf.id(), leaf.chain())
    );
    let (client, server) = meet(&again, &again, &ca.bundle(), USER);
    handshake(&client, &server).unwrap();

    let other =
        TrustBundle::from_pem("cluster.local".parse().unwrap(), ca.bundle().to_pem().as_bytes()).unwrap();
    assert_eq!(other, ca.bundle());
    assert_eq!(other.fingerprint().len(), 64);
    assert_ne!(other.fingerprint(), Ca::new("mesh").bundle().fingerprint());
}

#[test]
fn broken_files_are_refused_and_keys_stay_out_of_messages() {
    let ca = Ca::new("mesh");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("leaf.pem");
    let (user, order) = (ca.leaf(USER), ca.leaf(ORDER));
    for text in [
        String::new(),
        user.chain_pem(),
        user.key_pem(),
        user.chain_pem() + &order.key_pem(),
        user.chain_pem().repeat(5) + &user.key_pem(),
        "\0\u{1}garbage".to_owned(),
    ] {
        std::fs::write(&path, &text).unwrap();
        assert!(Leaf::load(&path).is_err(), "{text}");
    }
    std::fs::write(&path, user.chain_pem() + &order.key_pem()).unwrap();
    assert!(matches!(Leaf::load(&path), Err(LeafError::WrongKey)));
    let secret = user.key_pem().lines().nth(1).unwrap().to_owned();
    assert!(!format!("{user:?}").contains(&secret));
}

#[test]
fn a_leaf_is_made_of_a_request_and_its_answer() {
    let ca = Ca::new("mesh");
    let key = KeyPair::generate().unwrap();
    let request = rcgen::CertificateSigningRequestParams::from_der(&key.csr_der().unwrap().into()).unwrap();
    assert!(
        request.params.subject_alt_names.is_empty(),
        "a request names nobody"
    );
    let signed = workload(USER).signed_by(&request.public_key, &ca.issuer).unwrap();
    let leaf = Leaf::new(vec![signed.der().clone()], &key).unwrap();
    assert_eq!(leaf.id().as_str(), USER);
    assert!(leaf.is_valid_at(SystemTime::now()));
    assert!(!leaf.is_valid_at(SystemTime::now() + Duration::from_secs(3601)));
    vouches(&ca.bundle(), &leaf, SystemTime::now()).unwrap();
    assert!(vouches(&Ca::new("mesh").bundle(), &leaf, SystemTime::now()).is_err());
    assert!(vouches(&ca.bundle(), &leaf, SystemTime::now() + Duration::from_secs(3601)).is_err());
    let other = KeyPair::generate().unwrap();
    assert!(matches!(
        Leaf::new(vec![signed.der().clone()], &other),
        Err(LeafError::WrongKey)
    ));
}

#[test]
fn a_bundle_holds_authorities_only() {
    let ca = Ca::new("mesh");
    let domain = || "cluster.local".parse::<TrustDomain>().unwrap();
    assert!(TrustBundle::new(domain(), Vec::new()).is_err());
    assert!(TrustBundle::new(domain(), ca.leaf(USER).chain().to_vec()).is_err());
    assert!(TrustBundle::new(domain(), vec![vec![1, 2, 3].into()]).is_err());
    let twice = TrustBundle::new(domain(), vec![ca.root.clone(), ca.root.clone()]).unwrap();
    assert_eq!(twice.roots().len(), 1);
    assert!(RootCertStore::empty().add(twice.roots()[0].clone()).is_ok());
}

/// Takes anything for a good server.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
