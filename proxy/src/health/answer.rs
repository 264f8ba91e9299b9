//! What each path of the health listener answers: a `match` and the words.
//!
//! Values in, response out; no sockets here.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use serde::Serialize;

use super::Sources;
use super::endpoint::EndpointReport;
use crate::clock;
use crate::incidents::{Finding, Recognised};

/// Whether calls should come here.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Readiness {
    /// False while draining, before a configuration is in force, and while a required audit log is
    /// down. One broken server does not make it false.
    pub ready: bool,
    /// Stopping: no new work is taken.
    pub draining: bool,
    /// Each configured server.
    pub servers: Vec<ServerState>,
    /// Each model endpoint that is watched. None of them makes `ready` false.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<EndpointReport>,
}

/// How one server is.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct ServerState {
    /// Its name.
    pub name: String,
    /// In one word.
    pub state: State,
    /// Why it is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What to do about that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// What is known of such failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident: Option<Arc<Recognised>>,
    /// What the look before its start has found, until it works.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub preflight: Vec<Finding>,
}

/// The state of a server.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Nobody has asked for it yet.
    Idle,
    /// Nobody has, and it would only fail: it is started once its cause is gone.
    HeldBack,
    /// Being started.
    Starting,
    /// Answers.
    Up,
    /// Wakes with the next call.
    Asleep,
    /// Does not, and fails time and again.
    CrashLoop,
    /// Does not.
    Down,
}

const PATHS: &str = "/livez\n/readyz (also /health)\n/startupz\n/metrics\n";
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

pub(super) fn answer(sources: &Sources, method: &Method, path: &str) -> Response<Full<Bytes>> {
    // HEAD is answered like GET; hyper leaves the body out.
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut refusal = respond(
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "only GET and HEAD\n".to_owned(),
        );
        refusal
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/livez" if sources.is_alive(clock::real()) => say(true, "alive\n"),
        "/livez" => say(false, "the data path has not moved for 10 s\n"),
        "/startupz" if (sources.started)() => say(true, "started\n"),
        "/startupz" => say(false, "starting\n"),
        "/readyz" | "/health" => {
            let readiness = (sources.readiness)();
            let body = serde_json::to_string(&readiness).unwrap_or_default();
            respond(
                status(readiness.ready && !readiness.draining),
                JSON,
                body + "\n",
            )
        }
        "/metrics" => respond(StatusCode::OK, METRICS, (sources.metrics)()),
        _ => respond(StatusCode::NOT_FOUND, TEXT, format!("there is\n{PATHS}")),
    }
}

fn say(fine: bool, words: &'static str) -> Response<Full<Bytes>> {
    respond(status(fine), TEXT, words.to_owned())
}

fn status(fine: bool) -> StatusCode {
    if fine {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    }
}

fn respond(status: StatusCode, kind: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
