//! What is no part of the mesh, where egress is allowed.

use weft_proxy_core::resource::Protocol;

use crate::apps::{Client, http1, ok};
use crate::mesh::{Ca, Proxy, id, run};

fn allowing() -> std::rc::Rc<Proxy> {
    let ca = Ca::new();
    let proxy = Proxy::start(Some(ca.identity(&id("order"))), &[], &["--egress=allow"]);
    proxy.know("user.shop.svc.cluster.local:80", Protocol::Http1, Vec::new());
    proxy
}

#[test]
fn the_outside_gets_requests_as_they_are() {
    run(async {
        let (app, journal) = http1(|_| ok("outside")).await;
        let proxy = allowing();
        proxy.know_absent(&app.to_string());
        let mut connection = Client::connect(proxy.outbound).await;
        let answer = connection.get(&app.to_string(), "/path?q").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "outside"));
        let seen = journal.borrow();
        assert_eq!(seen[0].line, "GET /path?q HTTP/1.1");
        assert_eq!(seen[0].field("host"), Some(app.to_string().as_str()));
        assert_eq!(seen[0].field("x-weft-client-id"), None);
    });
}

#[test]
fn a_request_to_the_proxy_itself_does_not_go_round() {
    run(async {
        let proxy = allowing();
        let itself = [
            proxy.outbound.to_string(),
            format!("0.0.0.0:{}", proxy.outbound.port()),
        ];
        for name in itself {
            proxy.know_absent(&name);
            let answer = Client::connect(proxy.outbound).await.get(&name, "/").await;
            assert_eq!(answer.status, 403, "{name}");
            assert!(
                answer
                    .field("proxy-status")
                    .unwrap()
                    .contains("destination_ip_prohibited")
            );
        }
    });
}

#[test]
fn a_name_is_asked_for_as_it_was_written() {
    run(async {
        let (app, _journal) = http1(|_| ok("outside")).await;
        let proxy = allowing();
        // One label, so from within the mesh it might be a Service; it isn't.
        let expanded = format!("localhost.shop.svc.cluster.local:{}", app.port());
        proxy.know_absent(&expanded);
        let host = format!("localhost:{}", app.port());
        let answer = Client::connect(proxy.outbound).await.get(&host, "/").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "outside"));
    });
}
