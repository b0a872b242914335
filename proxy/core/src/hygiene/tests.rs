use proptest::prelude::*;

use super::*;

fn headers(fields: &[(&str, &str)]) -> HeaderMap {
    fields
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).expect("name"),
                HeaderValue::from_str(value).expect("value"),
            )
        })
        .collect()
}

fn request(
    version: Version,
    method: &str,
    uri: &str,
    fields: &[(&str, &str)],
) -> Result<RequestFacts, Violation> {
    let method = Method::from_bytes(method.as_bytes()).expect("method");
    check_request(version, &method, &uri.parse().expect("uri"), &headers(fields))
}

const H11: Version = Version::HTTP_11;

#[test]
fn an_ordinary_request_passes() {
    let facts = request(H11, "GET", "/a?b", &[("host", "User.Shop:80"), ("accept", "*/*")]).expect("passes");
    assert_eq!(facts.authority.expect("authority").to_string(), "user.shop:80");
    assert_eq!(facts.length, BodyLength::Undeclared);
    assert_eq!(facts.upgrade, None);
}

type Refused<'a> = (Version, &'a str, &'a str, &'a [(&'a str, &'a str)], Violation);

#[test]
fn refused_requests() {
    use Violation as V;
    let host = ("host", "a");
    let cases: &[Refused<'_>] = &[
        (H11, "GET", "/", &[], V::NoHost),
        (H11, "GET", "/", &[host, host], V::ManyHosts),
        (
            H11,
            "GET",
            "/",
            &[("host", "a@evil")],
            V::Authority(AuthorityError::Userinfo),
        ),
        (
            H11,
            "GET",
            "/",
            &[("host", "")],
            V::Authority(AuthorityError::Empty),
        ),
        (
            H11,
            "GET",
            "/",
            &[("host", "a:99999")],
            V::Authority(AuthorityError::Port),
        ),
        (H11, "GET", "http://b/", &[host], V::AuthorityMismatch),
        (H11, "GET", "http://a:81/", &[host], V::AuthorityMismatch),
        (
            H11,
            "GET",
            "http://u@a/",
            &[host],
            V::Authority(AuthorityError::Userinfo),
        ),
        (Version::HTTP_2, "GET", "http://b/", &[host], V::AuthorityMismatch),
        (H11, "GET", "ftp://a/", &[host], V::Scheme),
        (H11, "GET", "https://a/", &[host], V::Https),
        (Version::HTTP_2, "GET", "ftp://a/", &[host], V::Scheme),
        (H11, "GET", "/", &[host, ("expect", "a miracle")], V::Expect),
        (
            H11,
            "GET",
            "/",
            &[host, ("expect", "100-continue"), ("expect", "x")],
            V::Expect,
        ),
        (H11, "GET", "/a%00b", &[host], V::Nul),
        (
            H11,
            "POST",
            "/",
            &[host, ("transfer-encoding", "gzip, chunked")],
            V::TransferEncoding,
        ),
        (
            H11,
            "POST",
            "/",
            &[host, ("transfer-encoding", "chunked, identity")],
            V::TransferEncoding,
        ),
        (
            H11,
            "POST",
            "/",
            &[
                host,
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked"),
            ],
            V::TransferEncoding,
        ),
        (
            Version::HTTP_10,
            "POST",
            "/",
            &[("transfer-encoding", "chunked")],
            V::TransferEncoding,
        ),
        (
            Version::HTTP_2,
            "POST",
            "/",
            &[("transfer-encoding", "chunked")],
            V::TransferEncoding,
        ),
        (
            H11,
            "POST",
            "/",
            &[host, ("transfer-encoding", "chunked"), ("content-length", "3")],
            V::TwoLengths,
        ),
        (
            H11,
            "POST",
            "/",
            &[host, ("content-length", "3"), ("content-length", "3")],
            V::ContentLength,
        ),
        (
            H11,
            "POST",
            "/",
            &[host, ("content-length", "5, 5")],
            V::ContentLength,
        ),
        (
            H11,
            "POST",
            "/",
            &[host, ("content-length", "")],
            V::ContentLength,
        ),
        (
            H11,
            "POST",
            "/",
            &[host, ("content-length", "+5")],
            V::ContentLength,
        ),
        (
            H11,
            "POST",
            "/",
            &[host, ("content-length", "0x5")],
            V::ContentLength,
        ),
        (
            H11,
            "POST",
            "/",
            &[host, ("content-length", "18446744073709551616")],
            V::ContentLength,
        ),
        (
            H11,
            "CONNECT",
            "a:80",
            &[("host", "a:80"), ("content-length", "3")],
            V::ConnectWithBody,
        ),
        (
            H11,
            "CONNECT",
            "a:80",
            &[("host", "a:80"), ("transfer-encoding", "chunked")],
            V::ConnectWithBody,
        ),
        (H11, "CONNECT", "a:80", &[("host", "b:80")], V::AuthorityMismatch),
    ];
    for (version, method, uri, fields, violation) in cases {
        assert_eq!(
            request(*version, method, uri, fields),
            Err(*violation),
            "{method} {uri} {fields:?}"
        );
        assert!(violation.of_request().status().is_client_error());
    }
}

#[test]
fn accepted_authorities() {
    for (version, method, uri, fields, expected) in [
        (H11, "GET", "http://a/", &[("host", "A.:80")][..], Some("a")),
        (
            Version::HTTP_2,
            "GET",
            "https://a/",
            &[("host", "a:443")],
            Some("a"),
        ),
        (H11, "CONNECT", "a:7000", &[("host", "a")], Some("a:7000")),
        (Version::HTTP_10, "GET", "/", &[], None),
        (Version::HTTP_2, "GET", "/", &[("host", "a")], Some("a")),
        (Version::HTTP_2, "GET", "http://a/", &[], Some("a")),
    ] {
        let facts = request(version, method, uri, fields).expect(uri);
        assert_eq!(
            facts.authority.map(|a| a.to_string()).as_deref(),
            expected,
            "{uri}"
        );
    }
}

#[test]
fn limits_hold_at_their_edges() {
    let many = |count: usize| -> HeaderMap {
        (0..count)
            .map(|i| {
                (
                    HeaderName::from_bytes(format!("x-{i}").as_bytes()).expect("name"),
                    HeaderValue::from_static("v"),
                )
            })
            .collect()
    };
    let uri = Uri::from_static("/");
    let check = |headers: &HeaderMap| check_request(Version::HTTP_2, &Method::GET, &uri, headers).map(drop);
    assert_eq!(check(&many(MAX_FIELDS)), Ok(()));
    assert_eq!(check(&many(MAX_FIELDS + 1)), Err(Violation::ManyFields));
    let mut relayed = many(MAX_FIELDS);
    relayed.insert("traceparent", HeaderValue::from_static("00"));
    relayed.insert(ATTEMPT, HeaderValue::from_static("1"));
    assert!(
        check(&relayed).is_ok(),
        "what one sidecar takes, the next does, too"
    );
    let crumbs = std::iter::repeat_n((COOKIE, HeaderValue::from_static("a=b")), MAX_FIELDS + 1).collect();
    assert_eq!(check(&crumbs), Err(Violation::ManyFields));
    let long = |len: usize| {
        HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(&"a".repeat(len)).expect("value"))])
    };
    let room = MAX_HEAD - "/".len() - "cookie".len();
    assert_eq!(check(&long(room)), Ok(()));
    assert_eq!(check(&long(room + 1)), Err(Violation::LongHead));
    assert_eq!(Violation::LongHead.of_request(), Reason::HeadersTooLarge);
}

#[test]
fn upgrades_pass_only_where_they_are_one() {
    let base = [("host", "a"), ("connection", "keep-alive, Upgrade")];
    let upgrade = |version, more: &[(&str, &str)]| {
        let fields: Vec<_> = base.iter().chain(more).copied().collect();
        request(version, "GET", "/", &fields).expect("passes").upgrade
    };
    assert_eq!(
        upgrade(H11, &[("upgrade", "websocket")]),
        Some(HeaderValue::from_static("websocket"))
    );
    assert_eq!(upgrade(Version::HTTP_10, &[("upgrade", "websocket")]), None);
    assert_eq!(upgrade(H11, &[("upgrade", "h2c")]), None);
    assert_eq!(upgrade(H11, &[("upgrade", "websocket, H2C")]), None);
    assert_eq!(
        upgrade(H11, &[("upgrade", "websocket"), ("content-length", "3")]),
        None
    );
    let unnamed = request(H11, "GET", "/", &[("host", "a"), ("upgrade", "websocket")]).expect("passes");
    assert_eq!(unnamed.upgrade, None);
}

#[test]
fn responses() {
    let check = |status: u16, fields: &[(&str, &str)], upgrade| {
        check_response(
            H11,
            StatusCode::from_u16(status).expect("status"),
            &headers(fields),
            upgrade,
        )
    };
    assert_eq!(
        check(200, &[("content-length", "3")], false),
        Ok(BodyLength::Known(3))
    );
    assert_eq!(check(101, &[], true), Ok(BodyLength::Undeclared));
    assert_eq!(check(101, &[], false), Err(Violation::Unsolicited101));
    assert_eq!(
        check(
            200,
            &[("content-length", "3"), ("transfer-encoding", "chunked")],
            false
        ),
        Err(Violation::TwoLengths)
    );
    assert_eq!(Violation::TwoLengths.of_response(), Reason::UpstreamProtocol);
    assert_eq!(Violation::Unsolicited101.of_response(), Reason::UpgradeFailed);
}

#[test]
fn hop_by_hop_fields_go_and_protected_ones_stay() {
    let mut fields = headers(&[
        (
            "connection",
            "close, x-secret, Host, content-length, x-forwarded-for",
        ),
        ("connection", "x-weft-client-id, authorization"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic x"),
        ("te", "gzip, trailers;q=1"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAA"),
        ("x-secret", "1"),
        ("host", "a"),
        ("content-length", "3"),
        ("authorization", "Bearer x"),
        ("x-forwarded-for", "10.0.0.1"),
        ("x-weft-client-id", "spiffe://x/y"),
    ]);
    strip_hop_by_hop(&mut fields);
    let mut left: Vec<&str> = fields.keys().map(HeaderName::as_str).collect();
    left.sort_unstable();
    assert_eq!(
        left,
        [
            "authorization",
            "content-length",
            "host",
            "te",
            "x-forwarded-for",
            "x-weft-client-id"
        ]
    );
    assert_eq!(fields[TE], "trailers");
}

#[test]
fn private_fields_go_in_every_spelling() {
    let mut fields = headers(&[
        ("x-weft-client-id", "spiffe://evil/x"),
        ("X_Weft_Client_Id", "spiffe://evil/x"),
        ("x-weft_attempt", "3"),
        ("x-weftx", "stays"),
    ]);
    strip_private(&mut fields);
    assert_eq!(fields.len(), 1);
    assert!(fields.contains_key("x-weftx"));
}

#[test]
fn routes_edit_what_is_not_the_sidecars_to_write() {
    for (name, may) in [
        ("x-canary", true),
        ("authorization", true),
        ("x-weftx", true),
        ("host", false),
        ("content-length", false),
        ("transfer-encoding", false),
        ("connection", false),
        ("x-weft-client-id", false),
        ("x_weft_attempt", false),
    ] {
        assert_eq!(may_be_edited(&HeaderName::from_static(name)), may, "{name}");
    }
}

#[test]
fn private_fields_of_a_peer_are_read_once() {
    let mut fields = headers(&[
        ("x-weft-attempt", "3"),
        ("x-weft-unprocessed", "1"),
        ("x-weft-lost", "1"),
    ]);
    let private = take_private(&mut fields);
    assert_eq!((private.unprocessed, private.lost), (true, true));
    assert!(fields.is_empty());
    assert_eq!(take_private(&mut fields), Private::default());
}

#[test]
fn trailers_keep_what_grpc_needs() {
    let mut fields = headers(&[
        ("grpc-status", "0"),
        ("grpc-message", "ok"),
        ("content-length", "3"),
        ("host", "evil"),
        ("authorization", "x"),
        ("transfer-encoding", "chunked"),
        ("x-weft-client-id", "x"),
    ]);
    clean_trailers(&mut fields).expect("short");
    assert_eq!(fields.len(), 2);
    let long = "a".repeat(MAX_TRAILERS);
    assert_eq!(
        clean_trailers(&mut headers(&[("x", &long)])),
        Err(Violation::LongTrailers)
    );
}

fn any_fields() -> impl Strategy<Value = HeaderMap> {
    let name = prop_oneof![
        Just("connection"),
        Just("host"),
        Just("te"),
        Just("upgrade"),
        Just("content-length"),
        Just("x-a"),
        Just("x-b"),
        Just("transfer-encoding"),
        Just("x-weft-a"),
        Just("x_weft_b"),
        Just("keep-alive"),
    ];
    let value = prop_oneof![
        "[ -~]{0,12}",
        Just("x-a, x-weft-a".to_owned()),
        Just("close,host , te".to_owned()),
        Just("chunked".to_owned()),
        Just("upgrade".to_owned()),
        Just("trailers".to_owned()),
        Just("websocket".to_owned()),
        Just("a".to_owned()),
    ];
    proptest::collection::vec((name, value), 0..12).prop_map(|fields| {
        fields
            .into_iter()
            .filter_map(|(name, value)| {
                Some((HeaderName::from_static(name), HeaderValue::from_str(&value).ok()?))
            })
            .collect()
    })
}

proptest! {
    #[test]
    fn nothing_of_one_connection_survives_and_stripping_twice_changes_nothing(mut fields in any_fields()) {
        let host = fields.get(HOST).cloned();
        let named = named_in_connection(&fields);
        strip_hop_by_hop(&mut fields);
        strip_private(&mut fields);
        for name in [CONNECTION, KEEP_ALIVE, UPGRADE, TRANSFER_ENCODING] {
            prop_assert!(!fields.contains_key(name));
        }
        for name in named.iter().filter(|name| !is_protected(name)) {
            prop_assert!(!fields.contains_key(name));
        }
        prop_assert!(!fields.keys().any(|name| name.as_str().replace('_', "-").starts_with("x-weft-")));
        prop_assert!(fields.get(TE).is_none_or(|te| te == "trailers"));
        prop_assert_eq!(fields.get(HOST), host.as_ref());
        let once = fields.clone();
        strip_hop_by_hop(&mut fields);
        prop_assert_eq!(fields, once);
    }

    #[test]
    fn what_passes_has_one_reading(fields in any_fields(), h2 in any::<bool>()) {
        let version = if h2 { Version::HTTP_2 } else { Version::HTTP_11 };
        if let Ok(facts) = check_request(version, &Method::POST, &Uri::from_static("/"), &fields) {
            prop_assert!(fields.get_all(HOST).iter().count() <= 1);
            prop_assert!(h2 || facts.authority.is_some());
            let lengths = fields.get_all(CONTENT_LENGTH).iter().count();
            let codings = fields.get_all(TRANSFER_ENCODING).iter().count();
            prop_assert!(lengths + codings <= 1);
            prop_assert_eq!(facts.length == BodyLength::Chunked, codings == 1);
        }
    }
}
