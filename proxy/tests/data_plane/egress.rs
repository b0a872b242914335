//! What is no part of the mesh, where egress is allowed.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncWriteExt, BufStream};
use weft_proxy_core::resource::Protocol;

use crate::apps::{Client, http1, listen, ok, read_request};
use crate::mesh::{Ca, Proxy, id, run};

fn allowing() -> Rc<Proxy> {
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

#[test]
fn a_kept_connection_that_closes_as_it_is_taken_costs_no_request() {
    run(async {
        let kept = Rc::new(RefCell::new(None));
        let keep = Rc::clone(&kept);
        let app = listen(move |stream| {
            let keep = Rc::clone(&keep);
            async move {
                let mut stream = BufStream::new(stream);
                read_request(&mut stream).await.unwrap();
                stream.write_all(ok("outside").as_bytes()).await.unwrap();
                stream.flush().await.unwrap();
                *keep.borrow_mut() = Some(stream);
            }
        })
        .await;
        let proxy = allowing();
        proxy.know_absent(&app.to_string());
        let mut connection = Client::connect(proxy.outbound).await;
        let post = format!("POST / HTTP/1.1\r\nHost: {app}\r\nContent-Length: 1\r\n\r\nx");
        for number in 0..10 {
            connection.0.write_all(post.as_bytes()).await.unwrap();
            connection.0.flush().await.unwrap();
            drop(kept.take());
            assert_eq!(connection.read().await.unwrap().status, 200, "{number}");
        }
    });
}
