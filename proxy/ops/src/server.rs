//! The MCP side: requests in, answers out, over any stream of lines.
//!
//! Everything rmcp asks of a server is here. It decides nothing: what it tells comes from the
//! site, and what it runs is what the site has planned.

use std::sync::Arc;
use std::time::Duration;

use rmcp::{
    ErrorData, Peer, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, CustomRequest,
        CustomResult, ErrorCode, Implementation, JsonObject, ListResourceTemplatesResult,
        ListResourcesResult, ListToolsResult, PaginatedRequestParams, ProgressNotificationParam,
        ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult,
        RequestMetaObject, ServerCapabilities, ServerConfig,
    },
    service::{QuitReason, RequestContext, ServerInitializeError, serve_server},
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use crate::{
    AGENT_KEY, ANONYMOUS,
    confirm::confirm,
    resources,
    site::{Refused, Site},
    tools::{self, Tool},
};

/// How often a caller hears that its runbook is still at work, so that it does not give up.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How much of a caller's own word is repeated to it, in characters.
const MAX_ECHO: usize = 128;

const INSTRUCTIONS: &str = "\
Operations of this chillgate and of the machine it runs on. Call `situation` first: it says in one \
answer what runs, what is down, what went wrong and what helps. Act only after you have looked, \
and look again after you acted. The other tools are runbooks: each does one thing that an operator \
has allowed, with arguments that are checked; nothing else can be run. When a runbook refuses an \
argument it says what it takes; do not try to work around it. A runbook that asks for consent waits \
for a person.";

/// What can end a connection other than its peer closing it.
#[derive(Debug, thiserror::Error)]
#[error("the operations server's connection failed: {0}")]
pub struct OpsError(String);

/// One server for any number of connections; clones are the same one.
#[derive(Clone)]
pub struct Ops {
    site: Arc<dyn Site>,
}

impl std::fmt::Debug for Ops {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ops")
    }
}

impl Ops {
    /// A server that tells about this site.
    pub fn new(site: Arc<dyn Site>) -> Self {
        Self { site }
    }

    /// Speaks MCP on `io`, one JSON-RPC message a line, and returns once the peer has closed it.
    /// Dropping the future ends the connection and whatever runs for it.
    pub async fn serve<T>(&self, io: T) -> Result<(), OpsError>
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let changes = self.site.changes();
        let running = match serve_server(self.clone(), io).await {
            Ok(running) => running,
            // Nobody is left to hear of it: the peer came, said nothing and went.
            Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
            Err(cause) => return Err(OpsError(cause.to_string())),
        };
        let peer = running.peer().clone();
        let ended = tokio::select! {
            ended = running.waiting() => ended,
            never = tell_changes(changes, peer) => match never {},
        };
        match ended {
            Ok(QuitReason::JoinError(cause)) | Err(cause) => Err(OpsError(cause.to_string())),
            Ok(_) => Ok(()),
        }
    }

    async fn look(&self, tool: Tool, arguments: &JsonObject) -> Result<Value, String> {
        let text = |key: &str| match arguments.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(format!("`{key}` must be a string")),
        };
        match tool {
            Tool::Situation => Ok(self.site.situation()),
            Tool::Servers => {
                let Some(name) = text("name")? else {
                    return Ok(json!({"servers": self.site.servers()}));
                };
                let one = resources::server(&*self.site, name).ok_or_else(|| no_server(name))?;
                Ok(json!({"servers": [one]}))
            }
            Tool::Incidents => {
                let server = text("server")?;
                if let Some(name) = server
                    && resources::server(&*self.site, name).is_none()
                {
                    return Err(no_server(name));
                }
                Ok(json!({"incidents": self.site.incidents(server)}))
            }
            Tool::Endpoints => {
                let check = match arguments.get("check") {
                    None | Some(Value::Null) => false,
                    Some(Value::Bool(check)) => *check,
                    Some(_) => return Err("`check` must be true or false".to_owned()),
                };
                Ok(json!({"endpoints": self.site.endpoints(check).await}))
            }
        }
    }

    async fn run(
        &self,
        name: &str,
        arguments: &JsonObject,
        request: &RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let agent = agent(&request.meta);
        let plan = match self.site.plan(name, arguments, agent) {
            Ok(plan) => plan,
            Err(Refused::Unknown) => return Err(unknown_tool(name)),
            Err(Refused::Because(words)) => return Ok(refusal(words)),
        };
        let work = async {
            if let Some(question) = plan.question()
                && let Err(why) = confirm(question, request).await
            {
                return refusal(format!("not carried out: {why}"));
            }
            let done = plan.carry_out().await;
            let mut result = CallToolResult::structured(done.structured);
            result.content = vec![ContentBlock::text(done.text)];
            result.is_error = Some(done.failed);
            result
        };
        tokio::select! {
            biased;
            () = request.ct.cancelled() => {
                Err(ErrorData::internal_error("the call was cancelled; what it ran was ended", None))
            }
            result = work => Ok(result),
            never = keep_waiting(request) => match never {},
        }
    }
}

/// Says that the list of tools is another, each time that it is, until dropped.
async fn tell_changes(
    mut changes: watch::Receiver<u64>,
    peer: Peer<RoleServer>,
) -> std::convert::Infallible {
    while changes.changed().await.is_ok() {
        // A peer that is gone ends the connection, which is seen elsewhere.
        let _ = peer.notify_tool_list_changed().await;
    }
    std::future::pending().await
}

/// Reports progress to a caller that wants to hear of it, until dropped.
async fn keep_waiting(request: &RequestContext<RoleServer>) -> std::convert::Infallible {
    if let Some(token) = request.meta.get_progress_token() {
        let mut waited = Duration::ZERO;
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            waited += TELL_EVERY;
            let progress = ProgressNotificationParam::new(token.clone(), waited.as_secs_f64())
                .with_message(format!("at work for {} s", waited.as_secs()));
            if request.peer.notify_progress(progress).await.is_err() {
                break;
            }
        }
    }
    std::future::pending().await
}

impl ServerHandler for Ops {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_tool_list_changed()
            .enable_resources()
            .build();
        ServerConfig::new(capabilities)
            // What a peer gets that asks for a version unknown here.
            .with_protocol_version(ProtocolVersion::LATEST_WITH_INITIALIZE)
            .with_server_info(
                Implementation::new("chillgate-ops", env!("CARGO_PKG_VERSION"))
                    .with_title("chillgate operations")
                    .with_description("The situation of this chillgate, and its runbooks"),
            )
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        page: Option<PaginatedRequestParams>,
        request: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        one_page(page)?;
        let runbooks = self.site.runbooks(agent(&request.meta));
        Ok(ListToolsResult::with_all_items(tools::listed(runbooks)))
    }

    async fn call_tool(
        &self,
        call: CallToolRequestParams,
        request: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let arguments = call.arguments.unwrap_or_default();
        let Some(tool) = Tool::parse(&call.name) else {
            return Ok(self.run(&call.name, &arguments, &request).await?.into());
        };
        let looked = self.look(tool, &arguments).await;
        Ok(looked
            .map_or_else(refusal, CallToolResult::structured)
            .into())
    }

    async fn list_resources(
        &self,
        page: Option<PaginatedRequestParams>,
        _request: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        one_page(page)?;
        Ok(ListResourcesResult::with_all_items(resources::listed()))
    }

    async fn list_resource_templates(
        &self,
        page: Option<PaginatedRequestParams>,
        _request: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        one_page(page)?;
        let templates = resources::templates();
        Ok(ListResourceTemplatesResult::with_all_items(templates))
    }

    async fn read_resource(
        &self,
        wanted: ReadResourceRequestParams,
        request: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let contents = resources::read(&*self.site, &wanted.uri, agent(&request.meta));
        let contents = contents.ok_or_else(|| {
            ErrorData::resource_not_found(
                format!("there is no resource {}", echo(&wanted.uri)),
                Some(json!({"uri": echo(&wanted.uri)})),
            )
        })?;
        Ok(ReadResourceResult::new(vec![contents]).into())
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

/// Who asks. A name that is no text is nobody's.
fn agent(meta: &RequestMetaObject) -> &str {
    let name = meta.get(AGENT_KEY).and_then(Value::as_str);
    name.filter(|name| !name.is_empty()).unwrap_or(ANONYMOUS)
}

fn one_page(page: Option<PaginatedRequestParams>) -> Result<(), ErrorData> {
    if page.is_some_and(|page| page.cursor.is_some()) {
        return Err(ErrorData::invalid_params(
            "Unknown cursor: the list fits on one page, which is asked for without a cursor",
            None,
        ));
    }
    Ok(())
}

/// An answer that a model can learn from.
fn refusal(words: String) -> CallToolResult {
    CallToolResult::error(vec![ContentBlock::text(words)])
}

fn no_server(name: &str) -> String {
    format!(
        "there is no server {:?}; `servers` without a name lists them",
        echo(name)
    )
}

fn unknown_tool(name: &str) -> ErrorData {
    ErrorData::invalid_params(format!("Unknown tool: {}", echo(name)), None)
}

/// The beginning of a caller's own word, short enough to repeat.
fn echo(word: &str) -> String {
    word.chars().take(MAX_ECHO).collect()
}
