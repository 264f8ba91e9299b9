//! What each path of the admin API answers: a `match`, and the words.
//!
//! Who asks is known here; sockets are not.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use chillgate_policies::engine::span;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Method, Response, StatusCode};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Sources, shown, usage};
use crate::reload::{NewOverride, Refused};

/// Every path and what may be done there.
const PATHS: [(&str, &str); 5] = [
    ("/api/v1", "GET"),
    ("/api/v1/policies", "GET"),
    ("/api/v1/quota", "GET, DELETE"),
    ("/api/v1/overrides", "GET, POST"),
    ("/api/v1/reload", "POST"),
];
/// Below it stands the id of one.
const OVERRIDE: &str = "/api/v1/overrides/";

/// A status and a JSON value.
#[derive(Debug, PartialEq)]
pub(super) struct Answer {
    status: StatusCode,
    body: Value,
    allow: Option<&'static str>,
}

/// What is asked for behind the `?`.
#[derive(Debug, Default)]
pub(super) struct Query<'q> {
    pub(super) policy: Option<Cow<'q, str>>,
    pub(super) agent: Option<Cow<'q, str>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewBody {
    policy: String,
    values: Map<String, Value>,
    #[serde(rename = "for")]
    span: String,
    reason: Option<String>,
}

impl Answer {
    pub(super) fn of(status: StatusCode, body: Value) -> Self {
        Self {
            status,
            body,
            allow: None,
        }
    }

    pub(super) fn ok(body: Value) -> Self {
        Self::of(StatusCode::OK, body)
    }

    pub(super) fn refusal(status: StatusCode, error: &str, help: Option<&str>) -> Self {
        let mut body = json!({ "error": error });
        if let Some(help) = help {
            body["help"] = help.into();
        }
        Self::of(status, body)
    }

    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(format!("{}\n", self.body).into()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(allow) = self.allow {
            headers.insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

impl From<Refused> for Answer {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Wrong(error, help) => {
                Self::refusal(StatusCode::UNPROCESSABLE_ENTITY, &error, Some(&help))
            }
            Refused::Unknown(error, help) => {
                Self::refusal(StatusCode::NOT_FOUND, &error, Some(&help))
            }
            Refused::Busy(error) => Self::refusal(StatusCode::SERVICE_UNAVAILABLE, &error, None),
        }
    }
}

/// Answers one request of `who`.
pub(super) async fn answer(sources: &Sources, head: &Parts, body: &Bytes, who: String) -> Answer {
    let path = match head.uri.path() {
        path if path.len() > 1 => path.trim_end_matches('/'),
        path => path,
    };
    let query = match Query::read(head.uri.query().unwrap_or_default()) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let id = path.strip_prefix(OVERRIDE);
    match (&head.method, path) {
        (&Method::GET, "/api/v1") => {
            let paths = PATHS.map(|(path, methods)| json!({ "path": path, "methods": methods }));
            Answer::ok(json!({ "paths": paths }))
        }
        (&Method::GET, "/api/v1/policies") => Answer::ok(shown::policies(sources)),
        (&Method::GET, "/api/v1/overrides") => Answer::ok(shown::overrides(sources)),
        (&Method::GET, "/api/v1/quota") => usage::show(sources, &query).await,
        (&Method::DELETE, "/api/v1/quota") => usage::reset(sources, &query, &who).await,
        (&Method::POST, "/api/v1/reload") => match sources.desk.reload(who).await {
            Ok(generation) => Answer::ok(json!({ "generation": generation })),
            Err(refused) => refused.into(),
        },
        (&Method::POST, "/api/v1/overrides") => {
            let is_json = |kind: &HeaderValue| kind.as_bytes().starts_with(b"application/json");
            if !head.headers.get(CONTENT_TYPE).is_some_and(is_json) {
                let error = "the body is no `application/json`";
                return Answer::refusal(StatusCode::UNSUPPORTED_MEDIA_TYPE, error, None);
            }
            begin(sources, body, who).await
        }
        (&Method::DELETE, _) if let Some(id) = id => {
            match sources.desk.end(id.to_owned(), who).await {
                Ok(()) => Answer::ok(json!({ "ended": id })),
                Err(refused) => refused.into(),
            }
        }
        _ => elsewhere(path, id),
    }
}

async fn begin(sources: &Sources, body: &Bytes, who: String) -> Answer {
    const HELP: &str =
        r#"write {"policy":"boss","values":{"alertness":95},"for":"30m","reason":"drill"}"#;
    let wrong = |error: &str| Answer::refusal(StatusCode::BAD_REQUEST, error, Some(HELP));
    let new: NewBody = match serde_json::from_slice(body) {
        Ok(new) => new,
        Err(error) => return wrong(&format!("the body is no override: {error}")),
    };
    let span: Duration = match new.span.parse::<span::Span>() {
        Ok(span) => span.0,
        Err(error) => return wrong(&format!("`for`: {error}")),
    };
    let new = NewOverride {
        policy: new.policy,
        values: new.values,
        span,
        reason: new.reason,
    };
    match sources.desk.set(new, who).await {
        Ok(one) => Answer::of(StatusCode::CREATED, shown::one(sources, &one)),
        Err(refused) => refused.into(),
    }
}

/// A path that is not there, or one at which something else may be done.
fn elsewhere(path: &str, id: Option<&str>) -> Answer {
    let known = PATHS.iter().find(|(known, _)| *known == path);
    let allow = known.map(|(_, methods)| *methods);
    if let Some(allow) = allow.or_else(|| id.map(|_| "DELETE")) {
        let error = format!("here one can {allow}");
        let refusal = Answer::refusal(StatusCode::METHOD_NOT_ALLOWED, &error, None);
        return Answer {
            allow: Some(allow),
            ..refusal
        };
    }
    let help = "GET /api/v1 lists what there is";
    Answer::refusal(StatusCode::NOT_FOUND, "there is nothing here", Some(help))
}

impl<'q> Query<'q> {
    fn read(text: &'q str) -> Result<Self, Answer> {
        let mut query = Self::default();
        for (key, value) in form_urlencoded::parse(text.as_bytes()) {
            match &*key {
                "policy" => query.policy = Some(value),
                "agent" => query.agent = Some(value),
                // What is not understood would mean more than was asked for.
                _ => {
                    let error = "what can be asked for is `policy` and `agent`";
                    return Err(Answer::refusal(StatusCode::BAD_REQUEST, error, None));
                }
            }
        }
        Ok(query)
    }
}
