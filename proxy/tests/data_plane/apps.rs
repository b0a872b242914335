//! Applications and clients of the plainest kind: text over TCP.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

/// A request as an application saw it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub line: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Seen {
    /// The first value of a field, by its lower-case name.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }
}

/// What an application saw.
pub type Journal = Rc<RefCell<Vec<Seen>>>;

/// Accepts for ever and handles each connection in a task of its own.
pub async fn listen<F: Future<Output = ()> + 'static>(
    handle: impl Fn(TcpStream) -> F + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_local(handle(stream));
        }
    });
    address
}

/// An HTTP/1.1 application that answers every request with `answer` of it, and writes down what it saw.
pub async fn http1(answer: impl Fn(&Seen) -> String + Clone + 'static) -> (SocketAddr, Journal) {
    let journal = Journal::default();
    let written = Rc::clone(&journal);
    let address = listen(move |stream| {
        let (journal, answer) = (Rc::clone(&written), answer.clone());
        async move {
            let mut stream = BufStream::new(stream);
            while let Some(seen) = read_request(&mut stream).await {
                let text = answer(&seen);
                journal.borrow_mut().push(seen);
                if stream.write_all(text.as_bytes()).await.is_err() || stream.flush().await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (address, journal)
}

/// A whole answer with a body.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Reads one request; `None` at the end.
pub async fn read_request(stream: &mut BufStream<TcpStream>) -> Option<Seen> {
    let (line, fields) = read_head(stream).await?;
    let mut seen = Seen {
        line,
        fields,
        body: Vec::new(),
    };
    seen.body = read_body(stream, &seen.fields, false).await;
    Some(seen)
}

async fn read_head(stream: &mut BufStream<TcpStream>) -> Option<(String, Vec<(String, String)>)> {
    let mut line = String::new();
    if stream.read_line(&mut line).await.ok()? == 0 {
        return None;
    }
    let mut fields = Vec::new();
    loop {
        let mut field = String::new();
        stream.read_line(&mut field).await.ok()?;
        let Some((name, value)) = field.trim_end().split_once(':') else {
            break;
        };
        fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Some((line.trim_end().to_owned(), fields))
}

async fn read_body(
    stream: &mut BufStream<TcpStream>,
    fields: &[(String, String)],
    until_end: bool,
) -> Vec<u8> {
    let field = |name: &str| {
        fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    };
    let mut body = Vec::new();
    if let Some(length) = field("content-length") {
        body.resize(length.parse().unwrap(), 0);
        stream.read_exact(&mut body).await.unwrap();
    } else if field("transfer-encoding").is_some() {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).await.unwrap();
            let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
            let mut chunk = vec![0; size + 2];
            stream.read_exact(&mut chunk).await.unwrap();
            body.extend_from_slice(&chunk[..size]);
            if size == 0 {
                break;
            }
        }
    } else if until_end {
        stream.read_to_end(&mut body).await.unwrap();
    }
    body
}

/// A response as a client saw it.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
    }
}

/// An HTTP/1.1 client's connection.
pub struct Client(pub BufStream<TcpStream>);

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self(BufStream::new(TcpStream::connect(address).await.unwrap()))
    }

    /// Sends text and reads one response to a request that was no HEAD.
    pub async fn send(&mut self, text: &str) -> Option<Answer> {
        self.0.write_all(text.as_bytes()).await.unwrap();
        self.0.flush().await.unwrap();
        self.read().await
    }

    /// Reads one response; `None` when the connection ends instead.
    pub async fn read(&mut self) -> Option<Answer> {
        let (line, fields) = read_head(&mut self.0).await?;
        let status: u16 = line.split(' ').nth(1).unwrap().parse().unwrap();
        let bodyless = status < 200 || status == 204 || status == 304;
        let body = if bodyless {
            Vec::new()
        } else {
            read_body(&mut self.0, &fields, true).await
        };
        Some(Answer {
            status,
            fields,
            body: String::from_utf8(body).unwrap(),
        })
    }

    /// One GET, by the short name of a Service.
    pub async fn get(&mut self, host: &str, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
            .await
            .expect("an answer")
    }
}
