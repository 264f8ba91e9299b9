//! Asking a running chillgate how it is: one GET at its health address.
//!
//! For verbs that look at a chillgate from outside. It understands no more of HTTP than this
//! program's own listener answers.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// How much of an answer is read.
const MOST: u64 = 4 << 20;

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The HTTP status.
    pub status: u16,
    /// The body as text.
    pub body: String,
}

/// The answer to GET of `path`, such as `/readyz`.
pub async fn ask(address: SocketAddr, path: &str) -> io::Result<Answered> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut raw = Vec::new();
        stream.take(MOST).read_to_end(&mut raw).await?;
        read(&String::from_utf8_lossy(&raw))
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answered) => answered,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn read(text: &str) -> io::Result<Answered> {
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((text, ""));
    let status = head
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| {
        let cause = "what listens there does not answer in HTTP";
        io::Error::new(io::ErrorKind::InvalidData, cause)
    })?;
    Ok(Answered {
        status,
        body: body.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_and_body_are_read_and_anything_else_is_refused() {
        let answered = read("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\nno\n").expect("HTTP");
        assert_eq!((answered.status, answered.body.as_str()), (503, "no\n"));
        for wrong in ["", "SSH-2.0-x\r\n", "HTTP/1.1\r\n\r\n"] {
            assert!(read(wrong).is_err(), "{wrong:?}");
        }
    }
}
