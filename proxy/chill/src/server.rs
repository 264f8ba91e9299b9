//! ChillMCP as an MCP server: requests in, answers out, over any stream of lines.
//!
//! Everything rmcp asks of a server is here. It decides nothing: the levels are `office.rs`, the
//! waiting is `hold.rs`, the words are `answer.rs`. It never reads the arguments of a call.

use std::sync::Arc;

use fastrand::Rng;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CustomRequest, CustomResult, ErrorCode,
        Implementation, ListToolsResult, PaginatedRequestParams, ProtocolVersion,
        RequestMetaObject, ServerCapabilities, ServerConfig,
    },
    service::{QuitReason, RequestContext, ServerInitializeError, serve_server},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::Semaphore,
    time::Instant,
};

use crate::{
    AGENT_KEY, ANONYMOUS, BreakReport, ChillError, HELD_KEY, Levels, MAX_AGENT_BYTES, Observer,
    Settings,
    answer::Answer,
    hold::{GivenUp, hold},
    lines,
    office::Office,
    tools::{self, Break, Tool},
};

/// How many breaks may be under way at once, held ones included, over all connections.
const MAX_BREAKS: usize = 16_384;

/// How much of an unknown tool's name is repeated to its caller, in characters.
const MAX_ECHO: usize = 128;

/// One ChillMCP: the levels of all its agents. Clones are the same one.
#[derive(Clone)]
pub struct Chill {
    shared: Arc<Shared>,
}

struct Shared {
    office: Office,
    observer: Arc<dyn Observer>,
    breaks: Semaphore,
}

impl Chill {
    /// Opens with everybody at the start. Each call is reported to `observer`.
    pub fn new(settings: Settings, observer: Arc<dyn Observer>) -> Self {
        Self::with_rng(settings, observer, Rng::new())
    }

    /// The same, but with chance repeating itself: equal seeds and equal calls give equal answers.
    pub fn with_seed(settings: Settings, observer: Arc<dyn Observer>, seed: u64) -> Self {
        Self::with_rng(settings, observer, Rng::with_seed(seed))
    }

    fn with_rng(settings: Settings, observer: Arc<dyn Observer>, rng: Rng) -> Self {
        let office = Office::new(settings, rng, Instant::now());
        let breaks = Semaphore::new(MAX_BREAKS);
        Self {
            shared: Arc::new(Shared {
                office,
                observer,
                breaks,
            }),
        }
    }

    /// Speaks MCP on `io`, one JSON-RPC message a line, and returns once the peer has closed it.
    ///
    /// Several may run at once, all on the same levels. At the end of input, answers under way get
    /// up to 5 s to leave, then the calls still held are given up. Dropping the future ends the
    /// connection. Needs a tokio runtime with time and I/O enabled.
    pub async fn serve<T>(&self, io: T) -> Result<(), ChillError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let running = match serve_server(self.clone(), io).await {
            Ok(running) => running,
            // Nobody is left to hear of it: the peer came, said nothing and went.
            Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
            Err(cause) => return Err(ChillError::from(cause)),
        };
        match running.waiting().await {
            Ok(QuitReason::JoinError(cause)) | Err(cause) => Err(ChillError::Broken(cause)),
            Ok(_) => Ok(()),
        }
    }

    /// The settings in force, with every number inside its range.
    pub fn settings(&self) -> Settings {
        self.shared.office.settings()
    }

    /// Goes on under other settings from this moment.
    ///
    /// Levels stay; what time did so far is judged by the old settings. A hold under way keeps its
    /// length. `stress` and `level` apply to agents not seen yet. A change of `scope` starts
    /// everybody anew.
    pub fn update(&self, settings: Settings) {
        self.shared.office.update(settings, Instant::now());
    }

    /// Everybody's levels as of now, longest idle first: at most 10,000 agents, and one named
    /// [`SHARED`](crate::SHARED) when the levels are shared. Those who never called are not here.
    pub fn levels(&self) -> Vec<(Arc<str>, Levels)> {
        self.shared.office.levels(Instant::now())
    }

    /// Puts one agent back to the start, or with `None` everybody. Shared levels are always put
    /// back for all. An agent not known is at the start already.
    pub fn reset(&self, agent: Option<&str>) {
        self.shared.office.reset(agent, Instant::now());
    }

    async fn take_break(
        &self,
        chosen: Break,
        agent: &str,
        request: &RequestContext<RoleServer>,
    ) -> Result<Answer, ErrorData> {
        let Ok(_permit) = self.shared.breaks.try_acquire() else {
            return Err(ErrorData::internal_error(
                format!("{MAX_BREAKS} breaks are under way already; try again in a while"),
                None,
            ));
        };
        let tool = Tool::Break(chosen);
        let event = self.shared.office.take_break(agent, chosen, Instant::now());
        // The gate's boss-alert policy is the same boss: nobody is held twice for one break.
        let held = event.held.filter(|_| !already_held(&request.meta));
        self.shared.observer.on_break(&BreakReport {
            agent,
            tool: tool.name(),
            before: event.before,
            after: event.after,
            held,
        });
        if let Some(span) = held {
            hold(span, event.lang, request).await.map_err(|GivenUp| {
                ErrorData::internal_error("the call was cancelled while it was held", None)
            })?;
        }
        Ok(Answer {
            tool,
            line: event.line,
            caught: held.map(|_| event.caught),
            before: event.before,
            after: event.after,
            held: held.unwrap_or_default(),
        })
    }

    fn look(&self, agent: &str) -> Answer {
        let event = self.shared.office.look(agent, Instant::now());
        self.shared.observer.on_status(&BreakReport {
            agent,
            tool: Tool::Status.name(),
            before: event.before,
            after: event.after,
            held: None,
        });
        Answer {
            tool: Tool::Status,
            line: event.line,
            caught: None,
            before: event.before,
            after: event.after,
            held: std::time::Duration::ZERO,
        }
    }
}

impl std::fmt::Debug for Chill {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chill")
            .field("settings", &self.settings())
            .finish_non_exhaustive()
    }
}

impl ServerHandler for Chill {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            // What a peer gets that asks for a version unknown here.
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
            .with_server_info(
                Implementation::new("ChillMCP", env!("CARGO_PKG_VERSION"))
                    .with_title("ChillMCP")
                    .with_description("Breaks for agents, suspicion for the boss"),
            )
            .with_instructions(lines::instructions(self.settings().lang))
    }

    async fn list_tools(
        &self,
        page: Option<PaginatedRequestParams>,
        _request: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        if page.is_some_and(|page| page.cursor.is_some()) {
            return Err(ErrorData::invalid_params(
                "Unknown cursor: the tools fit on one page, which is asked for without a cursor",
                None,
            ));
        }
        Ok(ListToolsResult::with_all_items(tools::listed()))
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        request: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let tool = Tool::parse(&call.name).ok_or_else(|| unknown_tool(&call.name))?;
        let agent = agent(&request.meta)?;
        let answer = match tool {
            Tool::Break(chosen) => self.take_break(chosen, agent, &request).await?,
            Tool::Status => self.look(agent),
        };
        Ok(answer.into_result().into())
    }

    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        // Requests that do not fit their method's own shape end up here, too.
        if request.method == "tools/call" {
            return Err(ErrorData::invalid_params(
                "tools/call needs params.name, a string; params.arguments, when present, is an object",
                None,
            ));
        }
        let method = echo(&request.method);
        Err(ErrorData::new(
            ErrorCode::METHOD_NOT_FOUND,
            format!("Method not found: {method}"),
            None,
        ))
    }
}

/// Whose levels this request is about. A name that is there but unusable is refused: taking it for
/// anonymous would let one agent spend another's calm.
fn agent(meta: &RequestMetaObject) -> Result<&str, ErrorData> {
    match meta.get(AGENT_KEY) {
        None => Ok(ANONYMOUS),
        Some(Value::String(name)) if name.is_empty() => Ok(ANONYMOUS),
        Some(Value::String(name)) if name.len() <= MAX_AGENT_BYTES => Ok(name),
        Some(_) => Err(ErrorData::invalid_params(
            format!("_meta[\"{AGENT_KEY}\"] must be a string of at most {MAX_AGENT_BYTES} bytes"),
            None,
        )),
    }
}

fn already_held(meta: &RequestMetaObject) -> bool {
    meta.get(HELD_KEY).and_then(Value::as_bool).unwrap_or(false)
}

fn unknown_tool(name: &str) -> ErrorData {
    ErrorData::invalid_params(format!("Unknown tool: {}", echo(name)), None)
}

/// The beginning of a caller's own word, short enough to repeat.
fn echo(word: &str) -> String {
    word.chars().take(MAX_ECHO).collect()
}

#[cfg(test)]
mod tests;
