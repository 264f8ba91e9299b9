//! The connections of the admin API: few, short, small.
//!
//! One that says nothing ends soon, and a crowd of them waits outside. Who asks is the guard's
//! business, what is answered is decided in `answer`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Sources;
use super::answer::{Answer, answer};
use super::guard::{From, Guard};
use super::listener::{Bound, Visitor};

/// Connections at one time; the next wait in the kernel's queue.
const MOST: usize = 16;
/// How long a request's head may take.
const HEAD: Duration = Duration::from_secs(3);
/// How long its body may take.
const BODY: Duration = Duration::from_secs(5);
/// How long a connection may take in all.
const WHOLE: Duration = Duration::from_secs(30);
/// How large a request's head may be.
const BUFFER: usize = 16 << 10;
/// How large its body may be.
const LARGEST: usize = 64 << 10;
/// Pause after an accept that failed for want of something, e.g. descriptors.
const BREATH: Duration = Duration::from_millis(50);

/// Until dropped.
pub(super) async fn serve(bound: Bound, guard: Arc<Guard>, sources: Arc<Sources>) {
    let places = Arc::new(Semaphore::new(MOST));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (guard, sources) = (Arc::clone(&guard), Arc::clone(&sources));
        match bound.accept().await {
            Ok(Visitor::Tcp(stream, from)) => connections.spawn(async move {
                converse(stream, From::Tcp(from), &guard, &sources).await;
                drop(place);
            }),
            Ok(Visitor::Unix(stream, user)) => connections.spawn(async move {
                converse(stream, From::Unix(user), &guard, &sources).await;
                drop(place);
            }),
            Err(_) => {
                sleep(BREATH).await;
                continue;
            }
        };
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    from: From,
    guard: &Guard,
    sources: &Sources,
) {
    let service = service_fn(async |request: Request<Incoming>| {
        let said = handle(request, from, guard, sources).await;
        Ok::<_, Infallible>(said.into_response())
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .max_buf_size(BUFFER);
    // Who breaks off or talks nonsense has lost their own request; there is nobody to tell.
    let _ = timeout(WHOLE, http.serve_connection(TokioIo::new(stream), service)).await;
}

async fn handle(
    request: Request<Incoming>,
    from: From,
    guard: &Guard,
    sources: &Sources,
) -> Answer {
    let (head, body) = request.into_parts();
    // Before anything of the body is read.
    let who = match guard.admit(from, &head.headers) {
        Ok(who) => who,
        Err(stranger) => return Answer::refusal(stranger.status, &stranger.says, None),
    };
    let reading = timeout(BODY, Limited::new(body, LARGEST).collect());
    let body: Bytes = match reading.await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            let says = "the body is larger than 64 KiB";
            return Answer::refusal(StatusCode::PAYLOAD_TOO_LARGE, says, None);
        }
        Ok(Err(_)) | Err(_) => {
            let says = "the body did not come";
            return Answer::refusal(StatusCode::REQUEST_TIMEOUT, says, None);
        }
    };
    answer(sources, &head, &body, who).await
}
