//! The connections of the health listener: few, short, and one request each.
//!
//! Probes come from wherever the pod network reaches, so a connection that says nothing ends soon
//! and a crowd of them waits outside. What is answered is decided in `answer`.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Sources;
use super::answer::answer;

/// Connections at one time; the next wait in the kernel's queue.
pub(super) const MOST: usize = 64;

/// How long a request's head may take.
pub(super) const HEAD: Duration = Duration::from_secs(3);

/// How long a connection may take in all.
const WHOLE: Duration = Duration::from_secs(15);

/// How large a request's head may be.
const BUFFER: usize = 16 << 10;

/// Pause after an accept that failed for want of something, e.g. descriptors.
const BREATH: Duration = Duration::from_millis(50);

/// Until told to stop.
pub(super) async fn serve(
    listener: TcpListener,
    sources: Arc<Sources>,
    mut stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(MOST));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let next = async {
            let place = Arc::clone(&places)
                .acquire_owned()
                .await
                .map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok::<_, io::Error>((place, stream))
        };
        tokio::select! {
            biased;
            _ = &mut stopped => return Ok(()),
            accepted = next => match accepted {
                Ok((place, stream)) => {
                    let sources = Arc::clone(&sources);
                    connections.spawn(async move {
                        converse(stream, &sources).await;
                        drop(place);
                    });
                }
                Err(_) => sleep(BREATH).await,
            },
        }
    }
}

async fn converse(stream: TcpStream, sources: &Sources) {
    let service = service_fn(async |request: hyper::Request<hyper::body::Incoming>| {
        Ok::<_, Infallible>(answer(sources, request.method(), request.uri().path()))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .keep_alive(false)
        .max_buf_size(BUFFER);
    // A client that breaks off or talks nonsense has lost its own probe; there is nobody to tell.
    let _ = timeout(WHOLE, http.serve_connection(TokioIo::new(stream), service)).await;
}
