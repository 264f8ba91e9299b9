//! Listening for hosts: TCP with or without TLS, and Unix sockets.
//!
//! Bound first, served later: every address is known, and every mistake told, before anything
//! runs. Each connection is one task and a small one that watches it; they end with the front.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use super::flow::Flow;
use super::modern::Last;
use super::{Endpoint, Streams};
use crate::config::{Front, Listen, Tls};
use crate::drain::Drain;
use crate::front::origin::Origins;
use crate::gate::Gate;
use crate::identity::{Certificate, Peer};
use crate::platform::{UnixListener, UnixStream, is_socket, user_of};

/// An unused connection is closed after so long.
const IDLE: Duration = Duration::from_secs(75);
/// So long may pass from the first byte of a request to the last of its headers.
const SLOWEST: Duration = Duration::from_secs(10);
/// How often a connection is looked at while chillgate stops.
const LOOK: Duration = Duration::from_millis(50);
/// A TLS handshake may take so long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The most that a request's line and headers may have.
const HEAD: usize = 64 << 10;
/// The most headers of a request.
const HEADERS: usize = 100;

/// A front whose address is taken.
pub struct Bound {
    front: Front,
    socket: Socket,
    tls: Option<TlsAcceptor>,
    /// It is for other replicas alone.
    is_inner: bool,
}

enum Socket {
    Tcp(TcpListener, SocketAddr),
    Unix(UnixListener, PathBuf),
}

/// Why a front cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is in use, not ours, or not allowed.
    #[error("cannot listen on {0}: {1}")]
    Bind(String, String),
    /// The certificate or its key.
    #[error("{0}")]
    Tls(String),
}

impl Bound {
    /// Takes the front's address.
    pub async fn new(front: Front) -> Result<Self, ListenError> {
        let tls = front.tls.as_ref().map(acceptor).transpose()?;
        let listen = front
            .listen
            .clone()
            .unwrap_or(Listen::Tcp(crate::config::DEFAULT_LISTEN));
        let fail = |error: std::io::Error| {
            let help = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "; something else listens there: choose another with `listen` or `--listen`"
                }
                std::io::ErrorKind::PermissionDenied => "; ports below 1024 need privileges",
                _ => "",
            };
            ListenError::Bind(listen.to_string(), format!("{error}{help}"))
        };
        let socket = match &listen {
            Listen::Tcp(address) => {
                let listener = TcpListener::bind(address).await.map_err(fail)?;
                let bound = listener.local_addr().map_err(fail)?;
                Socket::Tcp(listener, bound)
            }
            Listen::Unix(path) => {
                remove_stale(path).await.map_err(fail)?;
                Socket::Unix(UnixListener::bind(path).map_err(fail)?, path.clone())
            }
        };
        Ok(Self {
            front,
            socket,
            tls,
            is_inner: false,
        })
    }

    /// The same, for other replicas alone.
    #[must_use]
    pub fn inner(mut self) -> Self {
        self.is_inner = true;
        self
    }

    /// The TCP address that is taken.
    pub fn taken(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(_, address) => Some(*address),
            Socket::Unix(..) => None,
        }
    }

    /// Where hosts find it.
    pub fn address(&self) -> String {
        match &self.socket {
            Socket::Tcp(_, address) => {
                let scheme = if self.tls.is_some() { "https" } else { "http" };
                format!("{scheme}://{address}/mcp")
            }
            Socket::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }

    /// Serves hosts until no new work is taken, then until every host has its last answer.
    /// Connections that are open when the future is dropped end with it.
    pub async fn serve(self, gate: Gate, streams: Streams) {
        if !self.is_inner {
            info!(address = %self.address(), "Listening for hosts.");
        }
        let origins = Origins::new(&self.front, self.taken());
        let mut endpoint = Endpoint::new(gate.clone(), origins, &self.front, streams);
        if self.is_inner {
            endpoint = endpoint.inner();
        }
        let endpoint = Arc::new(endpoint);
        let places = Arc::new(Semaphore::new(gate.snapshot().config.limits.connections));
        let mut connections = JoinSet::new();
        let accepting = async {
            loop {
                // Full: the next connection waits in the kernel's queue.
                let Ok(place) = places.clone().acquire_owned().await else {
                    return;
                };
                while connections.try_join_next().is_some() {}
                let (endpoint, gate) = (endpoint.clone(), gate.clone());
                match &self.socket {
                    Socket::Tcp(listener, _) => {
                        let Some((stream, peer)) = accepted(listener.accept().await).await else {
                            continue;
                        };
                        let _ = stream.set_nodelay(true);
                        let tls = self.tls.clone();
                        connections.spawn(async move {
                            let _place = place;
                            tcp(endpoint, gate, stream, peer, tls).await;
                        });
                    }
                    Socket::Unix(listener, _) => {
                        let Some((stream, _)) = accepted(listener.accept().await).await else {
                            continue;
                        };
                        let peer = Peer {
                            user: user_of(&stream),
                            ..Peer::default()
                        };
                        connections.spawn(async move {
                            let _place = place;
                            connection(endpoint, gate, stream, peer).await;
                        });
                    }
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = gate.drain().until_refusing() => {}
        }
        // Whoever comes now is refused by the system, which every host understands.
        drop(self);
        while connections.join_next().await.is_some() {}
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Socket::Unix(_, path) = &self.socket {
            // Whoever comes next finds the place free.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether a connection is in use, looked at now and then.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    waits: AtomicBool,
    /// Some bytes of a request's head are here, and those before it were served.
    begun: AtomicBool,
    /// How many requests there have been.
    started: AtomicUsize,
    /// The head that has begun is waited for.
    partial: Notify,
    /// The host will say no more on this connection.
    ended: AtomicBool,
    running: AtomicUsize,
    served: AtomicUsize,
    last: Last,
    /// Wakes whoever reads a connection whose host has closed its half.
    rest: AtomicWaker,
}

/// A request and its reply, to the end of the body.
pub struct OneRequest(Arc<Traffic>);

impl Traffic {
    fn request(self: &Arc<Self>) -> OneRequest {
        self.running.fetch_add(1, Ordering::Relaxed);
        self.started.fetch_add(1, Ordering::Relaxed);
        self.begun.store(false, Ordering::Relaxed);
        OneRequest(self.clone())
    }

    /// Whether a request runs.
    pub(super) fn is_used(&self) -> bool {
        self.running.load(Ordering::Relaxed) > 0
    }

    /// Whether bytes wait for the host to read them.
    pub(super) fn set_waits(&self, waits: bool) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// Bytes have come where no request runs: those of the next one.
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Relaxed);
    }

    /// There is no more to read: a head that has begun is only a part of one.
    pub(super) fn wait_for_head(&self) {
        if self.begun.load(Ordering::Relaxed) {
            self.partial.notify_one();
        }
    }

    /// Resolves when a head takes longer than it may.
    async fn until_slow(&self) {
        loop {
            self.partial.notified().await;
            let started = self.started.load(Ordering::Relaxed);
            tokio::time::sleep(SLOWEST).await;
            let is_same = self.started.load(Ordering::Relaxed) == started;
            if is_same && self.begun.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// The host has closed its half, or all of the connection; true the first time.
    pub(super) fn end(&self) -> bool {
        !self.ended.swap(true, Ordering::Relaxed)
    }

    /// Wakes this reader once no request runs any more.
    pub(super) fn wake_at_rest(&self, reader: &Waker) {
        self.rest.register(reader);
    }

    /// Resolves when no request runs and every byte of its reply is on its way.
    async fn until_done(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            if !self.is_used() && !self.waits.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Resolves when no request has been complete for [`IDLE`].
    async fn until_idle(&self) {
        const LOOKS: u32 = 5;
        let (mut seen, mut idle) = (0, 0);
        while idle < LOOKS {
            tokio::time::sleep(IDLE / LOOKS).await;
            let served = self.served.load(Ordering::Relaxed);
            let is_used = served != seen || self.is_used();
            (seen, idle) = (served, if is_used { 0 } else { idle + 1 });
        }
    }
}

impl OneRequest {
    /// What the last modern request of its connection said.
    pub(super) fn last(&self) -> &Last {
        &self.0.last
    }

    /// Whether the host will say no more on this connection.
    pub fn is_ended(&self) -> bool {
        self.0.ended.load(Ordering::Relaxed)
    }

    /// Resolves when the host has closed its half, or all of the connection. Only for futures of the
    /// connection's own task, which is woken then.
    pub async fn until_ended(&self) {
        std::future::poll_fn(|_| {
            if self.is_ended() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

impl Drop for OneRequest {
    fn drop(&mut self) {
        self.0.served.fetch_add(1, Ordering::Relaxed);
        self.0.running.fetch_sub(1, Ordering::Relaxed);
        // The end of the host's bytes was kept back; now it is the connection's.
        self.0.rest.wake();
    }
}

/// Why a connection is closed that its host keeps open.
enum Enough {
    Idle,
    Stopping,
}

/// Looks after one connection until it has lasted long enough. A task of its own: beside the
/// connection it would be looked at with every request.
async fn watch(traffic: Arc<Traffic>, drain: Drain) -> Enough {
    tokio::select! {
        () = traffic.until_idle() => Enough::Idle,
        () = traffic.until_slow() => Enough::Idle,
        () = drain.until_refusing() => Enough::Stopping,
    }
}

/// Out of file descriptors and the like: wait instead of spinning.
async fn accepted<T>(result: std::io::Result<T>) -> Option<T> {
    match result {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            debug!(%error, "A connection could not be accepted.");
            tokio::time::sleep(Duration::from_millis(20)).await;
            None
        }
    }
}

async fn tcp(
    endpoint: Arc<Endpoint>,
    gate: Gate,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<TlsAcceptor>,
) {
    let mut peer = Peer {
        address: Some(Arc::from(peer.to_string())),
        ..Peer::default()
    };
    let Some(tls) = tls else {
        return connection(endpoint, gate, stream, peer).await;
    };
    // Boxed, so that connections without it take no room for it.
    Box::pin(async {
        match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates();
                let own = shown.and_then(<[_]>::first);
                peer.certificate = own.map(|der| Arc::new(Certificate::read(der)));
                connection(endpoint, gate, stream, peer).await;
            }
            Ok(Err(error)) => debug!(%error, "A TLS handshake failed."),
            Err(_) => debug!("A TLS handshake took too long."),
        }
    })
    .await;
}

async fn connection<S>(endpoint: Arc<Endpoint>, gate: Gate, stream: S, peer: Peer)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let traffic = Arc::new(Traffic::default());
    let counted = traffic.clone();
    let service = service_fn(move |request| {
        endpoint
            .clone()
            .serve(request, peer.clone(), counted.request())
    });
    // hyper's own header timeout arms a timer for each request; `Traffic` needs none.
    let serving = http1::Builder::new()
        .header_read_timeout(None)
        // `Flow` tells hyper of the end of a host's bytes when it is the connection's.
        .half_close(false)
        .max_buf_size(HEAD)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(Flow::new(stream, traffic.clone())), service);
    let watched =
        || AbortOnDropHandle::new(tokio::spawn(watch(traffic.clone(), gate.drain().clone())));
    let mut watching = watched();
    let mut serving = std::pin::pin!(serving);
    let ended = loop {
        let enough = tokio::select! {
            biased;
            ended = &mut serving => break ended,
            enough = &mut watching => enough,
        };
        match enough {
            // A request has come between that verdict and now.
            Ok(Enough::Idle) if traffic.is_used() => watching = watched(),
            Ok(Enough::Idle) => {
                // Half a request, or nothing: there is nobody to answer.
                serving.as_mut().graceful_shutdown();
                return;
            }
            Ok(Enough::Stopping) | Err(_) => {
                // The answer that is on its way goes out; the host finds the connection closed then.
                serving.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut serving => break ended,
                    // Nothing, or half a request: there is nobody to answer.
                    () = traffic.until_done() => return,
                }
            }
        }
    };
    if let Err(error) = ended {
        debug!(%error, "A connection ended.");
    }
}

/// A socket file that nobody listens on any more is in the way of a new one. Anything else at its
/// place is somebody's file.
pub(crate) async fn remove_stale(path: &Path) -> std::io::Result<()> {
    let Ok(there) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !is_socket(there.file_type()) {
        let text = "there is a file that is no socket; choose another path";
        return Err(std::io::Error::new(std::io::ErrorKind::AlreadyExists, text));
    }
    if let Err(error) = UnixStream::connect(path).await
        && error.kind() == std::io::ErrorKind::ConnectionRefused
    {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

fn acceptor(tls: &Tls) -> Result<TlsAcceptor, ListenError> {
    let fail = |path: &Path, error: &dyn std::fmt::Display| {
        ListenError::Tls(format!("tls: {}: {error}", path.display()))
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(&tls.certificate)
        .and_then(Iterator::collect)
        .map_err(|error| fail(&tls.certificate, &error))?;
    if chain.is_empty() {
        return Err(fail(
            &tls.certificate,
            &"no certificate in PEM form is in it",
        ));
    }
    let key = PrivateKeyDer::from_pem_file(&tls.key).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => {
            fail(&tls.key, &"no private key in PEM form is in it")
        }
        other => fail(&tls.key, &other),
    })?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| fail(&tls.certificate, &error))?
        .with_client_cert_verifier(clients(tls, &provider)?)
        .with_single_cert(chain, key)
        .map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                let certificate = tls.certificate.display();
                fail(&tls.key, &format!("this is not the key of {certificate}"))
            }
            other => fail(&tls.certificate, &other),
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Which certificates of hosts are good.
fn clients(
    tls: &Tls,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, ListenError> {
    let Some(path) = &tls.client_ca else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let fail = |error: &dyn std::fmt::Display| {
        ListenError::Tls(format!("tls: {}: {error}", path.display()))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fail(&error))? {
        let certificate = certificate.map_err(|error| fail(&error))?;
        roots.add(certificate).map_err(|error| fail(&error))?;
    }
    if roots.is_empty() {
        return Err(fail(&"no certificate in PEM form is in it"));
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
    let verifier = if tls.client_optional {
        verifier.allow_unauthenticated()
    } else {
        verifier
    };
    verifier.build().map_err(|error| fail(&error))
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_unused_connection_has_lasted_long_enough_after_its_time() {
        let traffic = Arc::new(Traffic::default());
        let began = Instant::now();
        let watching = watch(traffic.clone(), Drain::default());
        let enough = timeout(IDLE * 9, watching).await;
        assert!(matches!(enough, Ok(Enough::Idle)));
        assert_eq!(began.elapsed(), IDLE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_in_use_lasts_until_chillgate_stops() {
        let (traffic, drain) = (Arc::new(Traffic::default()), Drain::default());
        let running = traffic.request();
        let mut watching = tokio::spawn(watch(traffic.clone(), drain.clone()));
        assert!(timeout(IDLE * 9, &mut watching).await.is_err());
        drop(running);
        drain.refuse();
        assert!(matches!(watching.await, Ok(Enough::Stopping)));
    }
}
