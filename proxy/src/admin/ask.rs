//! Asking a running chillgate through its admin API, as a verb of the same configuration does.
//!
//! Address and token come from `[admin]`. One request, one answer, nothing retried.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use http::{Method, Request};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use secrecy::ExposeSecret as _;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config::{Admin, Listen};
use crate::platform::UnixStream;

/// How long an answer may take; the data path has ten seconds for an order.
const PATIENCE: Duration = Duration::from_secs(15);
/// How much of an answer is read.
const MOST: usize = 64 << 20;

/// Why there is no good answer: what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoAnswer {
    /// What is wrong.
    pub says: String,
    /// What to do about it.
    pub help: Option<String>,
}

impl NoAnswer {
    fn new(says: String, help: &str) -> Self {
        Self {
            says,
            help: Some(help.to_owned()),
        }
    }
}

/// What the chillgate of this configuration answers.
///
/// # Errors
/// When nobody answers, or the answer is a refusal.
pub async fn ask(
    admin: &Admin,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, NoAnswer> {
    let mut request = Request::builder().method(method).uri(path);
    request = request.header(
        HOST,
        match &admin.listen {
            Listen::Tcp(address) => address.to_string(),
            Listen::Unix(_) => "localhost".to_owned(),
        },
    );
    if let Some(token) = &admin.token {
        let token = token.resolve().map_err(|error| {
            let help = "run this as the user that may read it, such as with sudo";
            NoAnswer::new(format!("the token of [admin] cannot be had: {error}"), help)
        })?;
        let shown = format!("Bearer {}", token.expose_secret().trim());
        request = request.header(AUTHORIZATION, shown);
    }
    if body.is_some() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let body = body.map(ToString::to_string).unwrap_or_default();
    let request = request
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| {
            NoAnswer::new(
                format!("the request cannot be made: {error}"),
                "look at admin.token",
            )
        })?;
    let asking = async {
        match &admin.listen {
            Listen::Tcp(address) => over(TcpStream::connect(address).await?, request).await,
            Listen::Unix(path) => over(UnixStream::connect(path).await?, request).await,
        }
    };
    let answered = match timeout(PATIENCE, asking).await {
        Ok(answered) => answered,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    let (status, text) = answered.map_err(|error| {
        let help = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "run this as root or as the user that chillgate runs as"
            }
            _ => "is chillgate running with this configuration? [admin] is read when it starts",
        };
        NoAnswer::new(format!("nobody answers on {}: {error}", admin.listen), help)
    })?;
    let answer: Value = serde_json::from_str(&text).unwrap_or_default();
    if (200..300).contains(&status) {
        return Ok(answer);
    }
    let said = |key: &str| answer[key].as_str().map(str::to_owned);
    Err(NoAnswer {
        says: said("error").unwrap_or_else(|| format!("chillgate answered with {status}")),
        help: said("help"),
    })
}

async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> io::Result<(u16, String)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let answer = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MOST).collect().await;
        let body = body.map_err(io::Error::other)?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        // The connection may end with its last byte; the answer is then here.
        _ = connection => answer.await,
    }
}
