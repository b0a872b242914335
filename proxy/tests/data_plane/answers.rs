//! What the proxy answers by itself, and that it says so.

use std::rc::Rc;

use http::StatusCode;
use weft_proxy_core::outcome::Reason;
use weft_proxy_core::resource::{
    Action, HeaderEdit, PathMatch, PathRewrite, Protocol, Redirect, Rewrite, Target, WeightedBackend,
};

use crate::apps::{Answer, Client, http1, ok};
use crate::mesh::{Ca, Proxy, USER, plain, rule, run};

fn check(answer: &Answer, reason: Reason) {
    assert_eq!(answer.status, reason.status().as_u16(), "{answer:?}");
    let told = answer.field("proxy-status").unwrap_or_default();
    assert!(
        told.starts_with(&format!("weft; error={}", reason.facts().error)),
        "{told}"
    );
    assert!(told.contains(reason.facts().text), "{told}");
}

fn backend(weight: u32, target: Target) -> WeightedBackend {
    WeightedBackend {
        weight,
        target,
        request: HeaderEdit::default(),
        response: HeaderEdit::default(),
    }
}

/// A sidecar with a rule for each reason.
async fn sidecar() -> (Rc<Proxy>, Client) {
    let (app, _) = http1(|_| ok("app")).await;
    let client = Proxy::client(&Ca::new(), "order");
    let at = |path: &str, action: Action| {
        let mut rule = rule(USER);
        rule.matches.path = PathMatch::Exact(path.to_owned());
        rule.action = action;
        rule
    };
    let redirect = Redirect {
        scheme: Some("https".to_owned()),
        host: Some("other.example".to_owned()),
        port: None,
        path: None,
        status: StatusCode::MOVED_PERMANENTLY,
    };
    let mut rewrite = at(
        "/old",
        Action::Forward(vec![backend(1, Target::Cluster(USER.into()))]),
    );
    rewrite.rewrite = Rewrite {
        host: Some("renamed".to_owned()),
        path: Some(PathRewrite::Full("/new".to_owned())),
    };
    let rules = vec![
        at(
            "/",
            Action::Forward(vec![backend(1, Target::Cluster(USER.into()))]),
        ),
        at("/invalid", Action::Forward(vec![backend(1, Target::Invalid)])),
        at(
            "/zero",
            Action::Forward(vec![backend(0, Target::Cluster(USER.into()))]),
        ),
        at("/filter", Action::Respond(StatusCode::INTERNAL_SERVER_ERROR)),
        at("/redirect", Action::Redirect(redirect)),
        rewrite,
    ];
    client.know_with(USER, Protocol::Http1, vec![plain(app)], rules, |_| {});
    let connection = Client::connect(client.outbound).await;
    (client, connection)
}

#[test]
fn routes_that_lead_nowhere() {
    run(async {
        let (_client, mut connection) = sidecar().await;
        for (path, reason) in [
            ("/nothing", Reason::NoRoute),
            ("/invalid", Reason::InvalidBackend),
            ("/zero", Reason::ZeroWeight),
            ("/filter", Reason::UnsupportedFilter),
        ] {
            check(&connection.get("user", path).await, reason);
        }
        assert_eq!(connection.get("user", "/").await.body, "app");
    });
}

#[test]
fn a_redirect_and_a_rewrite() {
    run(async {
        let (app, journal) = http1(|_| ok("new")).await;
        let (client, mut connection) = sidecar().await;
        let answer = connection.get("user", "/redirect?a=b").await;
        assert_eq!(answer.status, 301);
        assert_eq!(
            answer.field("location"),
            Some("https://other.example/redirect?a=b")
        );
        let view = client.published.load();
        let weft_proxy_core::snapshot::Lookup::Known(destination) = view.lookup(USER) else {
            panic!("known")
        };
        let rules = destination
            .routes
            .as_ref()
            .unwrap()
            .rules()
            .iter()
            .map(|rule| rule.rule().clone())
            .collect();
        client.know_with(USER, Protocol::Http1, vec![plain(app)], rules, |_| {});
        assert_eq!(connection.get("user", "/old?a=b").await.body, "new");
        let seen = journal.borrow();
        assert_eq!(
            (seen[0].line.as_str(), seen[0].field("host")),
            ("GET /new?a=b HTTP/1.1", Some("renamed"))
        );
    });
}

#[test]
fn destinations_that_are_not_there() {
    run(async {
        let (client, mut connection) = sidecar().await;
        check(&connection.get("absent", "/").await, Reason::DestinationUnknown);
        client.know("empty.shop.svc.cluster.local:80", Protocol::Http1, Vec::new());
        check(&connection.get("empty", "/").await, Reason::NoEndpoint);
    });
}

#[test]
fn requests_that_say_two_things_reach_nobody() {
    run(async {
        let (client, _) = sidecar().await;
        for (head, reason) in [
            (
                "GET http://user/ HTTP/1.1\r\nHost: other\r\n",
                Reason::AuthorityMismatch,
            ),
            (
                "GET / HTTP/1.1\r\nHost: user\r\nHost: other\r\n",
                Reason::BadRequest,
            ),
            ("GET / HTTP/1.1\r\nHost: user@evil\r\n", Reason::BadRequest),
            ("GET / HTTP/1.1\r\n", Reason::BadRequest),
            (
                "POST / HTTP/1.1\r\nHost: user\r\nTransfer-Encoding: gzip, chunked\r\n",
                Reason::BadRequest,
            ),
            ("GET / HTTP/1.1\r\nHost: user\r\nA : b\r\n", Reason::BadRequest),
            (
                "CONNECT 127.0.0.1:80 HTTP/1.1\r\nHost: 127.0.0.1:80\r\n",
                Reason::ConnectForbidden,
            ),
            (
                "CONNECT 169.254.169.254:80 HTTP/1.1\r\nHost: 169.254.169.254:80\r\n",
                Reason::ConnectForbidden,
            ),
            (
                "CONNECT absent:80 HTTP/1.1\r\nHost: absent:80\r\n",
                Reason::DestinationUnknown,
            ),
        ] {
            let mut connection = Client::connect(client.outbound).await;
            let answer = connection
                .send(&format!("{head}\r\n"))
                .await
                .unwrap_or_else(|| panic!("{head}"));
            assert_eq!(answer.status, reason.status().as_u16(), "{head}");
            let told = answer
                .field("proxy-status")
                .unwrap_or_else(|| panic!("{head}: {answer:?}"));
            assert!(told.contains(reason.facts().error), "{head}: {told}");
        }
        let mut connection = Client::connect(client.outbound).await;
        let absolute = connection
            .send("GET http://user/ HTTP/1.1\r\nHost: USER:80\r\n\r\n")
            .await
            .unwrap();
        assert_eq!(absolute.body, "app");
    });
}

#[test]
fn heads_that_are_too_large() {
    run(async {
        let (client, _) = sidecar().await;
        let many = "X: 1\r\n".repeat(101);
        let long = format!("X: {}\r\n", "a".repeat(70_000));
        for fields in [many, long] {
            let mut connection = Client::connect(client.outbound).await;
            let answer = connection
                .send(&format!("GET / HTTP/1.1\r\nHost: user\r\n{fields}\r\n"))
                .await
                .unwrap();
            check(&answer, Reason::HeadersTooLarge);
        }
    });
}
