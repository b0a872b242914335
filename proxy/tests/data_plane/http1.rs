//! HTTP/1.1 from end to end.

use weft_proxy_core::resource::{Protocol, TlsMode};

use crate::apps::{Client, http1, ok};
use crate::mesh::{Ca, Proxy, USER, id, meshed, run};

#[test]
fn a_request_passes_two_sidecars() {
    run(async {
        let ca = Ca::new();
        let (app, journal) = http1(|_| ok("hello")).await;
        let server = Proxy::service(&ca, "user", app, Protocol::Http1, TlsMode::Strict);
        let client = Proxy::client(&ca, "order");
        client.know(USER, Protocol::Http1, vec![meshed(server.inbound[0], "user")]);
        let mut connection = Client::connect(client.outbound).await;
        for number in 0..3 {
            let answer = connection.get("user", &format!("/things/{number}?q=1")).await;
            assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
        }
        let seen = journal.borrow();
        assert_eq!(seen.len(), 3);
        assert_eq!(seen[2].line, "GET /things/2?q=1 HTTP/1.1");
        assert_eq!(seen[0].field("host"), Some("user"));
        assert_eq!(seen[0].field("x-weft-client-id"), Some(id("order").as_str()));
        assert_eq!(seen[0].field("x-weft-attempt"), None);
        assert!(seen[0].field("traceparent").is_some());
    });
}
