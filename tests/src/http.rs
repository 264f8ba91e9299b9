//! HTTP/1.1 as a test needs it: exact headers, exact bytes, streams, and raw sockets.
//!
//! It stands apart from [`crate::host`] because many tests say something that no proper host would
//! say. It adds no header but `Host` and `Content-Length`, follows no redirect and retries nothing.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HeaderMap;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wait::within;

/// How long a test waits for a response to begin.
const PATIENCE: Duration = Duration::from_mins(1);

/// A response whose body has been read.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// A header as text, empty when absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One connection that is kept alive.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Full<Bytes>>,
    address: SocketAddr,
}

impl Connection {
    /// Connects.
    ///
    /// # Panics
    /// When nothing listens there.
    pub async fn open(address: SocketAddr) -> Self {
        Self::try_open(address)
            .await
            .unwrap_or_else(|error| panic!("connect to {address}: {error}"))
    }

    /// Connects, or says why not.
    pub async fn try_open(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(std::io::Error::other)?;
        // Ends with the connection: when the sender is dropped and the last body was read.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, address })
    }

    /// Whether the server has not closed it meanwhile.
    pub fn usable(&self) -> bool {
        self.sender.is_ready()
    }

    /// Sends a request; the body of the response is still to be read.
    ///
    /// # Panics
    /// When the connection breaks or nothing is answered within a minute.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> hyper::Response<Incoming> {
        let what = format!("{method} {path}");
        let sent = self.try_send(method, path, headers, body);
        within(&what, PATIENCE, sent)
            .await
            .unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Sends a request, or says why it was not answered.
    pub async fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<hyper::Response<Incoming>, hyper::Error> {
        let mut request = hyper::Request::builder().method(method).uri(path);
        if !headers
            .iter()
            .any(|(name, _)| name.eq_ignore_ascii_case("host"))
        {
            request = request.header("host", self.address.to_string());
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(body))
            .expect("a test writes legal headers");
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }
}

/// Reads the whole body.
///
/// # Panics
/// When the body breaks off or does not end within a minute.
pub async fn collect(response: hyper::Response<Incoming>) -> Answer {
    let (head, body) = response.into_parts();
    let body = within("the body", PATIENCE, body.collect())
        .await
        .expect("the body arrives whole");
    Answer {
        status: head.status.as_u16(),
        headers: head.headers,
        body: body.to_bytes(),
    }
}

/// One request on a connection of its own.
pub async fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let mut connection = Connection::open(address).await;
    let body = body.into();
    let answer = collect(connection.send(method, path, headers, body.clone()).await).await;
    let is_modern = headers.contains(&("mcp-protocol-version", "2026-07-28"));
    if is_modern && let Ok(sent) = serde_json::from_slice::<serde_json::Value>(&body) {
        let asked = sent["method"].as_str().unwrap_or_default();
        for heard in crate::modern::messages(&answer) {
            crate::judge::host_heard("2026-07-28", asked, &heard);
        }
    }
    answer
}

/// A plain GET.
pub async fn get(address: SocketAddr, path: &str) -> Answer {
    request(address, "GET", path, &[], Bytes::new()).await
}

/// The bytes of a POST with these headers, for who writes them in pieces or reads no answer.
pub fn post(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\n");
    for (name, value) in headers {
        text.extend([name, ": ", value, "\r\n"]);
    }
    let length = body.len().to_string();
    text.extend(["content-length: ", &length, "\r\n\r\n", body]);
    text.into_bytes()
}

/// Writes bytes as they are and reads until the peer closes or falls silent for `quiet`.
///
/// # Panics
/// When nothing listens there.
pub async fn raw(address: SocketAddr, bytes: &[u8], quiet: Duration) -> Vec<u8> {
    let mut stream = TcpStream::connect(address)
        .await
        .expect("the front listens");
    // A peer that refuses early may close while we write; what it said is still to be read.
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    while let Ok(Ok(n)) = tokio::time::timeout(quiet, stream.read(&mut chunk)).await {
        if n == 0 {
            break;
        }
        answer.extend_from_slice(&chunk[..n]);
    }
    answer
}

/// The status codes of all responses in raw bytes, in order.
pub fn statuses(raw: &[u8]) -> Vec<u16> {
    String::from_utf8_lossy(raw)
        .split("HTTP/1.1 ")
        .skip(1)
        .filter_map(|rest| rest.get(..3)?.parse().ok())
        .collect()
}
