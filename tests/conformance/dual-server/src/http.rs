//! Streamable HTTP on loopback: the SDK's service behind one path, and the refusals of one era.
//!
//! It stands apart because a server of one era refuses with an HTTP status as well, which the SDK
//! leaves at 200 for what it takes for the older era. It never listens beyond 127.0.0.1.

use std::{convert::Infallible, net::Ipv4Addr, sync::Arc};

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited, combinators::BoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rmcp::{
    ErrorData,
    model::{ClientJsonRpcMessage, JsonRpcError, ProtocolVersion, RequestId},
    transport::{StreamableHttpServerConfig, StreamableHttpService},
};
use tokio::net::TcpListener;

use crate::{
    eras::Eras,
    house::House,
    server::Dual,
    sessions::{COMING_BACK, Sessions},
};

const PATH: &str = "/mcp";
const LONGEST_BODY: usize = 4 * 1024 * 1024;
const VERSION: &str = "mcp-protocol-version";
const SESSION: &str = "mcp-session-id";

type Body = BoxBody<Bytes, Infallible>;

/// Serves until the future is dropped.
pub(crate) async fn serve(house: Arc<House>, port: u16) -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .with_context(|| format!("cannot listen on port {port}"))?;
    let endpoint = Endpoint::new(&house);
    loop {
        let (stream, _) = listener
            .accept()
            .await
            .context("cannot accept a connection")?;
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let endpoint = endpoint.clone();
                async move { Ok::<_, Infallible>(endpoint.answer(request).await) }
            });
            // A connection that breaks is its client's business.
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .await;
        });
    }
}

#[derive(Clone)]
struct Endpoint {
    eras: Eras,
    service: StreamableHttpService<Dual, Sessions>,
}

impl Endpoint {
    fn new(house: &Arc<House>) -> Self {
        let eras = house.eras;
        // A server without sessions has no older clients, so each request must say what it is.
        let config = StreamableHttpServerConfig::default()
            .with_legacy_session_mode(eras.has_legacy())
            .with_stateless_protocol_metadata_required(!eras.has_legacy())
            .with_allowed_origins(["http://localhost:*", "http://127.0.0.1:*", "http://[::1]:*"])
            .with_sse_retry(Some(COMING_BACK));
        let house = Arc::clone(house);
        let each = move || Ok(Dual::new(Arc::clone(&house)));
        let sessions = Arc::new(Sessions::new());
        Self {
            eras,
            service: StreamableHttpService::new(each, sessions, config),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() != PATH {
            return plain(StatusCode::NOT_FOUND, "There is nothing but /mcp here");
        }
        if request.method() != Method::POST || self.eras == Eras::Both {
            return self.service.handle(request).await;
        }
        let (parts, body) = request.into_parts();
        let Ok(body) = Limited::new(body, LONGEST_BODY).collect().await else {
            return plain(StatusCode::BAD_REQUEST, "The body did not arrive");
        };
        let body = body.to_bytes();
        let refusal = self.refusal(&parts.headers, &body);
        let answer = self
            .service
            .handle(Request::from_parts(parts, Full::new(body)))
            .await;
        match refusal {
            // Whom it does not serve at all, the SDK has told already.
            Some(refusal) if answer.status() != StatusCode::FORBIDDEN => refusal,
            _ => answer,
        }
    }

    /// The answer to what belongs to the other era. The SDK has declined that as well by the time
    /// this is sent, but not in the words of a server that knows one era only.
    fn refusal(&self, headers: &HeaderMap, body: &[u8]) -> Option<Response<Body>> {
        let message: ClientJsonRpcMessage = serde_json::from_slice(body).ok()?;
        let ClientJsonRpcMessage::Request(request) = message else {
            return None;
        };
        let known = headers.contains_key(SESSION);
        if let Some(error) = self.eras.refusal(&request.request) {
            // In a session an unknown method is an answer like any other; a client that has none
            // has to open one first.
            let status = if self.eras == Eras::Legacy && known {
                StatusCode::OK
            } else {
                StatusCode::BAD_REQUEST
            };
            return Some(refused(status, request.id, error));
        }
        let newer = ProtocolVersion::V_2026_07_28.as_str();
        let says_newer = headers.get(VERSION).is_some_and(|version| version == newer);
        (self.eras == Eras::Legacy && says_newer).then(|| {
            let error = ErrorData::invalid_request("Unsupported protocol version", None);
            refused(StatusCode::BAD_REQUEST, request.id, error)
        })
    }
}

fn refused(status: StatusCode, id: RequestId, error: ErrorData) -> Response<Body> {
    let error = JsonRpcError::new(Some(id), error);
    let body = serde_json::to_vec(&error).expect("errors are plain JSON");
    response(status, "application/json", body)
}

fn plain(status: StatusCode, words: &'static str) -> Response<Body> {
    response(status, "text/plain", words)
}

fn response(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, kind)
        .body(Full::new(body.into()).boxed())
        .expect("the parts are constants")
}
