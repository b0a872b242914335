//! An application that may be killed: it writes what it executes into a journal that outlives it, then takes its time.
//!
//! A request is executed when its whole body is there: one line `replica method id` (the id is the path) is appended
//! to the journal in one write, so that replicas can share the file and a killed process leaves whole lines only. The
//! answer follows after `--delay-ms`: until then the request is in flight, and lost with the process.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

#[derive(Debug, Parser)]
struct Arguments {
    /// Name of this process in the journal.
    #[arg(long)]
    replica: String,
    /// Where to append.
    #[arg(long)]
    journal: PathBuf,
    /// How long a request takes, in milliseconds.
    #[arg(long)]
    delay_ms: u64,
}

struct App {
    replica: String,
    journal: File,
    delay: Duration,
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        if body.collect().await.is_err() {
            let mut refused = Response::new(Full::default());
            *refused.status_mut() = StatusCode::BAD_REQUEST;
            return Ok(refused);
        }
        let id = head.uri.path().trim_start_matches('/');
        let line = format!("{} {} {id}\n", self.replica, head.method);
        (&self.journal)
            .write_all(line.as_bytes())
            .expect("the journal is writable");
        tokio::time::sleep(self.delay).await;
        Ok(Response::new(Full::new(Bytes::from(self.replica.clone()))))
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let arguments = Arguments::parse();
    let journal = File::options()
        .create(true)
        .append(true)
        .open(&arguments.journal)?;
    let delay = Duration::from_millis(arguments.delay_ms);
    let app = Rc::new(App {
        replica: arguments.replica,
        journal,
        delay,
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!(
        "{}",
        serde_json::json!({ "listening": { "http": listener.local_addr()? } })
    );
    tokio::task::LocalSet::new().run_until(serve(listener, app)).await
}

async fn serve(listener: TcpListener, app: Rc<App>) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let app = Rc::clone(&app);
        tokio::task::spawn_local(async move {
            let service = service_fn(move |request| {
                let app = Rc::clone(&app);
                async move { app.answer(request).await }
            });
            // A connection that fails is the client's business.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
