//! Remote servers over HTTP+SSE of 2024-11-05: a stream to hear them, POSTs to speak to them.
//!
//! Such a server is one conversation, as a child is, so it stands behind a [`Pipe`] and this is
//! only the way there: lines become POSTs, events become lines. It keeps no session and maps
//! nothing. Where to post is the server's to say, within its own origin.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use chillgate_wire::{Envelope, Kind, Limits, Lines, code, message};
use http::{StatusCode, Uri};
use tokio::io::{AsyncReadExt, DuplexStream};
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::backend::pipe::{Audience, Pipe, Terms};
use crate::backend::pipes::{Opener, Unopened, Whose};
use crate::backend::reach::Reach;
use crate::backend::streamable_http::events::Events;
use crate::backend::streamable_http::{unwanted, unwelcome};
use crate::client::{Http, HttpError, is_same_origin};
use crate::config::RemoteServer;
use crate::line::Line;

/// What may be on its way to the server before the writer waits.
const ON_ITS_WAY: usize = 64 << 10;
/// How long a server may take to acknowledge a message.
const ACKNOWLEDGE: Duration = Duration::from_secs(30);

/// Opens streams at one server.
#[derive(Debug)]
pub struct HttpSse {
    http: Http,
    reach: Arc<Reach>,
}

impl HttpSse {
    /// A server as configured; nothing is connected yet.
    pub fn new(server: &RemoteServer, http: Http) -> Self {
        Self {
            http,
            reach: Arc::new(Reach::new(server)),
        }
    }

    /// Opens the stream; with it where to post.
    async fn stream(&self, http: &Http, terms: &Terms) -> Result<(Events, Uri), Unopened> {
        let reply = http.get(&[]).await.map_err(|error| match error {
            HttpError::Caller(cause) => Unopened::Caller(cause),
            other => Unopened::Server(other.to_string()),
        })?;
        let status = reply.status();
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(if http.is_by_caller() {
                Unopened::Caller(unwelcome(status))
            } else {
                Unopened::Server(unwanted(status))
            });
        }
        if !status.is_success() || !reply.is_events() {
            return Err(Unopened::Server(format!(
                "it answered GET with HTTP {status} and no event stream; is it an HTTP+SSE server?"
            )));
        }
        let mut events = Events::new(reply, terms.limits.message);
        let place = events.endpoint().await;
        let place =
            place.ok_or_else(|| "its stream ended before it said where to post".to_owned())?;
        let to = within_origin(http.uri(), &place)?;
        Ok((events, to))
    }
}

#[async_trait]
impl Opener for HttpSse {
    async fn open(
        &self,
        terms: &Terms,
        audience: Arc<Audience>,
        whose: Whose<'_>,
        tasks: &TaskTracker,
    ) -> Result<Arc<Pipe>, Unopened> {
        let http = whose
            .caller
            .map_or_else(|| self.http.clone(), |it| self.http.of(it));
        let stream = self.stream(&http, terms).await;
        let (events, to) = stream.map_err(|unopened| match unopened {
            Unopened::Server(cause) => Unopened::Server(self.reach.failed(terms, &cause).0),
            own @ Unopened::Caller(_) => own,
        })?;
        let (ours, theirs) = tokio::io::duplex(ON_ITS_WAY);
        let (line, writing) = Line::new(ours);
        let pipe = Pipe::new(terms, line, audience);
        pipe.note_origin(self.reach.origin(terms));
        let owned = pipe.clone();
        let (reach, terms) = (self.reach.clone(), terms.clone());
        tasks.spawn(async move {
            let (mut why, asked_to) = tokio::select! {
                () = owned.until_closed() => ("it was stopped".to_owned(), true),
                why = hear(&owned, events) => (why, false),
                why = speak(&owned, &http, &to, theirs) => (why, false),
                why = write_out(writing) => (why, false),
            };
            if !asked_to {
                why = reach.failed(&terms, &why).0;
            }
            owned.finish(why);
        });
        Ok(pipe)
    }

    fn silent(&self, terms: &Terms, _audience: &Arc<Audience>, cause: String) -> String {
        let cause = format!("{cause}; `start-timeout` allows more");
        self.reach.failed(terms, &cause).0
    }

    fn ready(&self, terms: &Terms, _audience: &Arc<Audience>) {
        self.reach.answered(terms);
    }
}

/// Writes the line out; that it ends is for the pipe's own closing to say.
async fn write_out(writing: impl Future<Output = std::io::Result<()>>) -> String {
    match writing.await {
        Ok(()) => std::future::pending().await,
        Err(error) => format!("nothing more could be said to it: {error}"),
    }
}

/// Hands on what the server says until it stops; returns why.
async fn hear(pipe: &Arc<Pipe>, mut events: Events) -> String {
    while let Some(event) = events.next().await {
        match event {
            Ok(message) if message.is_empty() => {}
            Ok(message) => pipe.hear(message),
            Err(error) => return error.to_string(),
        }
    }
    "it ended its event stream".to_owned()
}

/// Posts each line, in order; returns why that is over.
async fn speak(pipe: &Arc<Pipe>, http: &Http, to: &Uri, mut said: DuplexStream) -> String {
    let mut lines = Lines::new(usize::MAX);
    loop {
        for line in lines.by_ref() {
            let Ok(line) = line else { continue };
            let posting = http.post_to(to, Bytes::copy_from_slice(&line));
            match tokio::time::timeout(ACKNOWLEDGE, posting).await {
                Ok(Ok(reply)) if reply.status().is_success() => {}
                Ok(Ok(reply)) if is_about_the_message(reply.status()) => {
                    refuse(pipe, &line, reply.status());
                }
                Ok(Ok(reply)) => {
                    return format!("it answered a message with HTTP {}", reply.status());
                }
                Ok(Err(error)) => return error.to_string(),
                Err(_) => return "it does not acknowledge messages".to_owned(),
            }
        }
        match said.read_buf(lines.space()).await {
            Ok(0) | Err(_) => {
                debug!("Nothing more is said to the server.");
                return std::future::pending().await;
            }
            Ok(_) => {}
        }
    }
}

/// Whether a refusal means the one message, and not the stream that it belongs to.
fn is_about_the_message(status: StatusCode) -> bool {
    let is_gone = matches!(status, StatusCode::NOT_FOUND | StatusCode::GONE);
    status.is_client_error() && !is_gone
}

/// Whoever waits for the answer to this message hears that it was not taken.
fn refuse(pipe: &Arc<Pipe>, line: &Bytes, status: StatusCode) {
    let said = Envelope::parse(line.clone(), &Limits::default());
    if let Ok(said) = said
        && said.kind() == Kind::Request
    {
        let text = format!("the server did not take the message: HTTP {status}");
        let code = code::INTERNAL_ERROR;
        pipe.hear(message::error(said.id_bytes(), code, &text, None));
    }
}

/// Where to post, as the server says relative to its own address. Anything else would have
/// chillgate carry its credentials to an address that nobody wrote down.
fn within_origin(own: &Uri, place: &str) -> Result<Uri, String> {
    let place = place.trim();
    let foreign =
        || format!("it wants messages posted to {place:?}, which is not at its own address");
    let uri: Uri = if place.starts_with('/') && !place.starts_with("//") {
        let mut parts = own.clone().into_parts();
        parts.path_and_query = Some(place.parse().map_err(|_| foreign())?);
        Uri::from_parts(parts).map_err(|_| foreign())?
    } else if place.contains("://") {
        place.parse().map_err(|_| foreign())?
    } else if place.starts_with('?') {
        let path = format!("{}{place}", own.path());
        return within_origin(own, &path);
    } else if place.starts_with("//") {
        return Err(foreign());
    } else {
        let folder = own.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        return within_origin(own, &format!("{folder}/{place}"));
    };
    is_same_origin(&uri, own).then_some(uri).ok_or_else(foreign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_posted_to_the_servers_own_origin_alone() {
        let own: Uri = "https://mcp.example/a/sse".parse().expect("a URI");
        for (place, wanted) in [
            (
                "/messages?sessionId=1",
                "https://mcp.example/messages?sessionId=1",
            ),
            ("messages?x", "https://mcp.example/a/messages?x"),
            ("?session=1", "https://mcp.example/a/sse?session=1"),
            ("https://mcp.example/m", "https://mcp.example/m"),
            ("https://MCP.example:443/m", "https://MCP.example:443/m"),
        ] {
            let uri = within_origin(&own, place).expect(place);
            assert_eq!(
                uri.to_string(),
                wanted.replace("MCP", if place.contains("MCP") { "MCP" } else { "mcp" }),
                "{place}"
            );
        }
        for place in [
            "http://mcp.example/m",
            "https://evil.example/m",
            "https://mcp.example:8443/m",
            "https://mcp.example@evil.example/m",
            "//evil.example/m",
        ] {
            assert!(within_origin(&own, place).is_err(), "{place}");
        }
    }
}
