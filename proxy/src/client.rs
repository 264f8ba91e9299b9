//! The one HTTP client: names, TLS, Unix sockets, pooled connections, own credentials.
//!
//! For remote servers, model endpoints and issuers of tokens. Knows HTTP and nothing of MCP. Redirects are not followed: a server that moves is configured
//! anew, so that credentials never travel to an address nobody wrote down (`abroad.rs`).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::ExposeSecret;
use tower_service::Service;

use crate::config::secret::SecretText;
use crate::config::{RemoteServer, ServerToken, userinfo};
use crate::platform::UnixStream;

mod abroad;
mod caller;
mod tokens;

pub use abroad::is_same_origin;
pub use caller::{Caller, Credential};
use tokens::Tokens;

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(10);
/// How long an unused connection stays open: less than the 5 s after which Node and uvicorn close
/// theirs. A call that meets such a close is lost, for nobody knows whether it was carried out.
const IDLE: Duration = Duration::from_secs(3);

/// How often a connection on which nothing is heard is looked at.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

type Net = Client<HttpsConnector<HttpConnector<Names>>, Full<Bytes>>;
type Unix = Client<UnixDial, Full<Bytes>>;

/// What a POST says of its body.
pub const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ACCEPT_BOTH: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const ACCEPT_EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");

/// Whom to reach, as the configuration says it.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'c> {
    /// `http://…`, `https://…`, or `unix:/path.sock` with the path `/mcp`.
    pub url: &'c str,
    /// What is sent along with each request.
    pub headers: &'c BTreeMap<String, SecretText>,
    /// What is shown as `Authorization: Bearer …`, unless `headers` say something else there.
    pub bearer: Option<&'c SecretText>,
    /// Where a token of chillgate's own is got from, to be shown in the same way.
    pub token: Option<&'c ServerToken>,
    /// A PEM file with certificate authorities to trust besides the system's.
    pub ca: Option<&'c Path>,
    /// Nobody has configured it: it is only reached where it is public.
    pub is_named: bool,
}

impl<'c> From<&'c RemoteServer> for Destination<'c> {
    fn from(server: &'c RemoteServer) -> Self {
        Self {
            url: &server.url,
            headers: &server.headers,
            bearer: None,
            token: server.token.as_ref(),
            ca: server.ca.as_deref(),
            is_named: false,
        }
    }
}

/// One remote endpoint. Clones are the same: connections, and the tokens for it.
#[derive(Clone)]
pub struct Http {
    to: Arc<To>,
    /// For whom, where each host has a token of its own.
    caller: Option<Caller>,
}

struct To {
    client: Dialed,
    uri: Uri,
    headers: Vec<(HeaderName, SecretText)>,
    bearer: Option<SecretText>,
    tokens: Option<Tokens>,
}

enum Dialed {
    Net(Net),
    Unix(Unix),
}

impl std::fmt::Debug for Http {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http")
            .field("uri", &userinfo::masked(&self.to.uri.to_string()))
            .finish_non_exhaustive()
    }
}

/// Why there is no reply.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// No connection could be made; nothing was sent.
    #[error("no connection: {0}")]
    Connect(String),
    /// A header's value could not be had; nothing was sent.
    #[error("{0}")]
    Secret(String),
    /// There is no token for this caller; nothing was sent, and others may well be served.
    #[error("{0}")]
    Caller(String),
    /// The connection broke; what was sent may have been carried out.
    #[error("the connection broke: {0}")]
    Broken(String),
}

impl HttpError {
    fn of(error: &ClientError) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        if error.is_connect() {
            Self::Connect(text)
        } else {
            Self::Broken(text)
        }
    }
}

impl Http {
    /// Prepares to reach it; nothing is connected yet.
    pub fn new(to: Destination<'_>) -> Result<Self, String> {
        let mut headers = Vec::new();
        for (name, value) in to.headers {
            let name = name
                .parse()
                .map_err(|_| format!("`{name}` is no header name"))?;
            headers.push((name, value.clone()));
        }
        let bearer = to.bearer.cloned();
        let tokens = to.token.map(|token| Tokens::new(token, to.url));
        let tokens = tokens.transpose()?;
        let builder = || {
            let mut builder = Client::builder(TokioExecutor::new());
            builder
                .pool_idle_timeout(IDLE)
                .pool_timer(hyper_util::rt::TokioTimer::new());
            builder
        };
        if let Some(path) = to.url.strip_prefix("unix:") {
            let client = Dialed::Unix(builder().build(UnixDial(Arc::new(PathBuf::from(path)))));
            return Ok(Self::to(To {
                client,
                uri: Uri::from_static("http://localhost/mcp"),
                headers,
                bearer,
                tokens,
            }));
        }
        let uri: Uri = to
            .url
            .parse()
            .map_err(|error| format!("`{}` is no URL: {error}", userinfo::masked(to.url)))?;
        // An address that stands in the URL is asked of no resolver.
        if to.is_named && abroad::literal(&uri).is_some_and(|ip| !abroad::is_public(ip)) {
            return Err(format!(
                "{} {}",
                userinfo::masked(to.url),
                abroad::NOT_PUBLIC
            ));
        }
        let mut tcp = HttpConnector::new_with_resolver(Names::new(to.is_named));
        tcp.set_connect_timeout(Some(CONNECT));
        tcp.set_nodelay(true);
        // A machine that has gone without a word is noticed, however long an answer may take.
        tcp.set_keepalive(Some(KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(KEEP_ALIVE));
        tcp.set_keepalive_retries(Some(3));
        tcp.enforce_http(false);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(trust(to)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self::to(To {
            client: Dialed::Net(builder().build(https)),
            uri,
            headers,
            bearer,
            tokens,
        }))
    }

    fn to(to: To) -> Self {
        let (to, caller) = (Arc::new(to), None);
        Self { to, caller }
    }

    /// The same endpoint, asked for this caller.
    #[must_use]
    pub fn of(&self, caller: &Caller) -> Self {
        Self {
            to: self.to.clone(),
            caller: Some(caller.clone()),
        }
    }

    /// Whether each host has a token of its own here.
    pub fn is_by_caller(&self) -> bool {
        let tokens = self.to.tokens.as_ref();
        tokens.is_some_and(Tokens::are_exchanged)
    }

    /// Whether this caller can be served: has its token exchanged, where that is needed.
    ///
    /// # Errors
    /// Why not, in words for this caller alone.
    pub async fn serves(&self, caller: &Caller) -> Result<(), HttpError> {
        match &self.to.tokens {
            Some(tokens) if tokens.are_exchanged() => tokens.get(Some(caller)).await.map(drop),
            _ => Ok(()),
        }
    }

    /// POSTs a message.
    pub async fn post(
        &self,
        body: Bytes,
        extra: &[(HeaderName, HeaderValue)],
    ) -> Result<Reply, HttpError> {
        self.send(Method::POST, &self.to.uri, body, ACCEPT_BOTH, extra)
            .await
    }

    /// POSTs a message to another address of the same server.
    pub async fn post_to(&self, uri: &Uri, body: Bytes) -> Result<Reply, HttpError> {
        self.send(Method::POST, uri, body, ACCEPT_BOTH, &[]).await
    }

    /// The server's address.
    pub fn uri(&self) -> &Uri {
        &self.to.uri
    }

    /// Opens an event stream.
    pub async fn get(&self, extra: &[(HeaderName, HeaderValue)]) -> Result<Reply, HttpError> {
        self.send(
            Method::GET,
            &self.to.uri,
            Bytes::new(),
            ACCEPT_EVENTS,
            extra,
        )
        .await
    }

    /// GETs another address of the same server, whatever it holds.
    pub async fn get_from(&self, uri: &Uri) -> Result<Reply, HttpError> {
        let accept = HeaderValue::from_static("application/json, */*");
        self.send(Method::GET, uri, Bytes::new(), accept, &[]).await
    }

    /// Ends a session.
    pub async fn delete(&self, extra: &[(HeaderName, HeaderValue)]) -> Result<Reply, HttpError> {
        self.send(
            Method::DELETE,
            &self.to.uri,
            Bytes::new(),
            ACCEPT_BOTH,
            extra,
        )
        .await
    }

    /// Sends a request as it came from somebody else, to another path of the same server.
    pub async fn hand_on(
        &self,
        method: Method,
        target: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Reply, HttpError> {
        let mut parts = self.uri().clone().into_parts();
        parts.path_and_query = target.parse().ok();
        let uri = Uri::from_parts(parts).map_err(|error| HttpError::Connect(error.to_string()))?;
        let mut request = Request::new(Full::new(body));
        (*request.method_mut(), *request.uri_mut()) = (method, uri);
        *request.headers_mut() = headers;
        self.dispatch(request).await
    }

    async fn send(
        &self,
        method: Method,
        uri: &Uri,
        body: Bytes,
        accept: HeaderValue,
        extra: &[(HeaderName, HeaderValue)],
    ) -> Result<Reply, HttpError> {
        let mut request = self.request(method, uri, body, accept, extra)?;
        let Some(tokens) = &self.to.tokens else {
            return self.dispatch(request).await;
        };
        let (mut first, caller) = (request.clone(), self.caller.as_ref());
        let shown = tokens.show(first.headers_mut(), caller).await?;
        let reply = self.dispatch(first).await?;
        if reply.status() != StatusCode::UNAUTHORIZED {
            return Ok(reply);
        }
        // Refused before anything was done: once more, with a token that is new.
        tokens.forget(&shown, caller).await;
        tokens.show(request.headers_mut(), caller).await?;
        self.dispatch(request).await
    }

    /// A request with everything but a token that has to be got first.
    fn request(
        &self,
        method: Method,
        uri: &Uri,
        body: Bytes,
        accept: HeaderValue,
        extra: &[(HeaderName, HeaderValue)],
    ) -> Result<Request<Full<Bytes>>, HttpError> {
        let is_post = method == Method::POST;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        headers.insert(header::ACCEPT, accept);
        if is_post {
            headers.insert(header::CONTENT_TYPE, JSON);
        }
        for (name, value) in extra {
            headers.insert(name.clone(), value.clone());
        }
        if let Some(secret) = &self.to.bearer {
            let value = secret_value(&header::AUTHORIZATION, secret, "Bearer ")?;
            headers.insert(header::AUTHORIZATION, value);
        }
        for (name, secret) in &self.to.headers {
            headers.insert(name.clone(), secret_value(name, secret, "")?);
        }
        Ok(request)
    }

    async fn dispatch(&self, request: Request<Full<Bytes>>) -> Result<Reply, HttpError> {
        let response = match &self.to.client {
            Dialed::Net(client) => client.request(request).await,
            Dialed::Unix(client) => client.request(request).await,
        };
        response.map(Reply).map_err(|error| HttpError::of(&error))
    }
}

fn secret_value(
    name: &HeaderName,
    secret: &SecretText,
    before: &str,
) -> Result<HeaderValue, HttpError> {
    let value = secret
        .resolve()
        .map_err(|error| HttpError::Secret(error.to_string()))?;
    let value = HeaderValue::from_str(&format!("{before}{}", value.expose_secret()));
    let mut value =
        value.map_err(|_| HttpError::Secret(format!("the value for {name} is no header value")))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A reply whose body has not been read.
pub struct Reply(Response<Incoming>);

impl Reply {
    /// Its status.
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// One of its headers.
    pub fn header(&self, name: &HeaderName) -> Option<HeaderValue> {
        self.0.headers().get(name).cloned()
    }

    /// Whether the body is an event stream.
    pub fn is_events(&self) -> bool {
        let kind = self.0.headers().get(header::CONTENT_TYPE);
        kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"))
    }

    /// The whole body, at most `cap` bytes.
    pub async fn body(self, cap: usize) -> Result<Bytes, HttpError> {
        let body = Limited::new(self.0.into_body(), cap).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|error| HttpError::Broken(error.to_string()))
    }

    /// The body, to be read as it comes.
    pub fn into_body(self) -> Incoming {
        self.0.into_body()
    }
}

/// The system's certificate authorities, Mozilla's where it has none, and the destination's own `ca`.
fn trust(to: Destination<'_>) -> Result<rustls::ClientConfig, String> {
    let mut roots = rustls::RootCertStore::empty();
    if to.url.starts_with("https:") {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
    }
    if let Some(file) = to.ca {
        let fail = |error: &dyn std::fmt::Display| format!("`ca` {}: {error}", file.display());
        let certificates = CertificateDer::pem_file_iter(file).map_err(|error| fail(&error))?;
        for certificate in certificates {
            let certificate = certificate.map_err(|error| fail(&error))?;
            roots.add(certificate).map_err(|error| fail(&error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(config)
}

/// Names to addresses without the C library, so that a static binary resolves them too.
#[derive(Clone, Debug, Default)]
struct Names {
    resolver: Arc<std::sync::OnceLock<Result<TokioResolver, String>>>,
    /// Names of what is near are names of nothing.
    is_public: bool,
}

impl Names {
    fn new(is_public: bool) -> Self {
        Self {
            is_public,
            ..Self::default()
        }
    }
}

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (cell, is_public) = (self.resolver.clone(), self.is_public);
        Box::pin(async move {
            // RFC 6761, section 6.3: never asked of a resolver, which may not even be there.
            let is_local = name.as_str().eq_ignore_ascii_case("localhost");
            if is_local && !is_public {
                let addresses = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
                return Ok(addresses
                    .map(|ip| SocketAddr::new(ip, 0))
                    .to_vec()
                    .into_iter());
            }
            let resolver = cell.get_or_init(|| {
                TokioResolver::builder_tokio()
                    .and_then(hickory_resolver::ResolverBuilder::build)
                    .map_err(|error| format!("the system's resolver settings: {error}"))
            });
            let resolver = resolver
                .as_ref()
                .map_err(|cause| std::io::Error::other(cause.clone()))?;
            let found = resolver
                .lookup_ip(name.as_str())
                .await
                .map_err(std::io::Error::other)?;
            let found = found
                .iter()
                .filter(|ip| !is_public || abroad::is_public(*ip));
            let found: Vec<_> = found.map(|ip| SocketAddr::new(ip, 0)).collect();
            if found.is_empty() && is_public {
                let cause = format!("`{}` {}", name.as_str(), abroad::NOT_PUBLIC);
                return Err(std::io::Error::other(cause));
            }
            Ok(found.into_iter())
        })
    }
}

/// Connects to one Unix socket, whatever the URL says.
#[derive(Clone)]
struct UnixDial(Arc<PathBuf>);

/// A Unix socket as the HTTP client wants it.
struct UnixLink(TokioIo<UnixStream>);

impl Service<Uri> for UnixDial {
    type Response = UnixLink;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<UnixLink, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move {
            let stream = UnixStream::connect(&*path).await.map_err(|error| {
                std::io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            })?;
            Ok(UnixLink(TokioIo::new(stream)))
        })
    }
}

impl Connection for UnixLink {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for UnixLink {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for UnixLink {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
