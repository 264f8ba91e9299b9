//! What the SDK asks of a server, and who answers it.
//!
//! Everything here hands on; it stands apart so that what is offered never meets the SDK's traits.
//! There is one for each session, and one for each request of a 2026-07-28 client. It never keeps
//! more than the level from which its session wants to hear.

#![expect(
    deprecated,
    reason = "the SDK calls logging levels and subscriptions of the older revisions deprecated"
)]

use std::{
    borrow::Cow,
    sync::{Arc, Mutex, PoisonError},
};

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams,
        CompleteRequestParams, CompleteResult, CompletionInfo, ContentBlock,
        GetPromptRequestParams, GetPromptResponse, GetTaskParams, GetTaskResult, Implementation,
        InitializeRequestParams, InitializeResult, ListPromptsResult, ListResourceTemplatesResult,
        ListResourcesResult, ListToolsResult, LoggingLevel, PaginatedRequestParams,
        ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult,
        ServerCapabilities, ServerConfig, SetLevelRequestParams, SubscribeRequestParams,
        SubscriptionFilter, Tool, UnsubscribeRequestParams, UpdateTaskParams,
    },
    service::{NotificationContext, RequestContext, SubscriptionContext},
};
use tokio::sync::broadcast::error::RecvError;

use crate::{
    call::{Brought, Call, Stop},
    house::{Change, House},
    prompts, resources, tools,
};

const WORDS: [&str; 3] = ["testing", "tested", "other"];

pub(crate) struct Dual {
    house: Arc<House>,
    level: Mutex<LoggingLevel>,
}

impl Dual {
    pub(crate) fn new(house: Arc<House>) -> Self {
        Self {
            house,
            level: Mutex::new(LoggingLevel::Debug),
        }
    }

    fn begin(
        &self,
        place: String,
        brought: Brought,
        context: RequestContext<RoleServer>,
    ) -> Result<Call, ErrorData> {
        let level = *self.level.lock().unwrap_or_else(PoisonError::into_inner);
        Call::begin(Arc::clone(&self.house), place, brought, context, level)
    }
}

impl ServerHandler for Dual {
    fn get_info(&self) -> ServerConfig {
        let mut capabilities = ServerCapabilities::builder()
            .enable_logging()
            .enable_completions()
            .enable_prompts()
            .enable_prompts_list_changed()
            .enable_resources()
            .enable_resources_subscribe()
            .enable_resources_list_changed()
            .enable_tools()
            .enable_tool_list_changed()
            .build();
        if self.house.eras.has_modern() {
            let tasks = ServerCapabilities::builder().enable_tasks().build();
            capabilities.extensions = tasks.extensions;
        }
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("dual", "1.0.0"))
            .with_instructions(self.house.eras.about())
    }

    fn supported_protocol_versions(&self) -> Cow<'static, [ProtocolVersion]> {
        self.house.eras.versions()
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        let mut result = self.negotiate_initialize(&request)?;
        context.peer.set_peer_info(request);
        // The extension belongs to the revision without a handshake.
        result.capabilities.extensions = None;
        Ok(result)
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        self.house.join(context.peer);
    }

    async fn set_level(
        &self,
        request: SetLevelRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = request.level;
        Ok(())
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let begun = |word: &&str| word.starts_with(&request.argument.value);
        let words = WORDS.into_iter().filter(begun).map(str::to_owned).collect();
        let found = CompletionInfo::with_all_values(words)
            .map_err(|error| ErrorData::internal_error(error, None))?;
        Ok(CompleteResult::new(found))
    }

    async fn list_prompts(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(prompts::listed(
            &self.house,
        )))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let name = request.name;
        if !prompts::exists(&self.house, &name) {
            return Err(ErrorData::invalid_params(
                format!("Unknown prompt: {name}"),
                None,
            ));
        }
        let brought = Brought {
            arguments: request.arguments,
            responses: request.input_responses,
            state: request.request_state,
        };
        let call = self.begin(format!("prompts/get {name}"), brought, context)?;
        match prompts::get(&name, &call).await {
            Ok(result) => Ok(result.into()),
            Err(Stop::Asks(result)) => Ok((*result).into()),
            Err(Stop::Refused(error)) => Err(error),
            Err(Stop::Failed(why)) => Err(ErrorData::internal_error(why, None)),
        }
    }

    async fn list_resources(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(resources::listed()))
    }

    async fn list_resource_templates(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(
            resources::templates(),
        ))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        Ok(ReadResourceResult::new(vec![resources::read(&request.uri)?]).into())
    }

    // No resource ever changes, so there is nothing to remember.
    async fn subscribe(
        &self,
        request: SubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        resources::read(&request.uri).map(drop)
    }

    async fn unsubscribe(
        &self,
        _request: UnsubscribeRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        Ok(())
    }

    fn accepted_subscription_filter(
        &self,
        requested: &SubscriptionFilter,
    ) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let mut changes = self.house.listen();
        loop {
            let change = tokio::select! {
                () = context.cancelled() => return Ok(()),
                () = self.house.closed() => return Ok(()),
                change = changes.recv() => change,
            };
            // What was not asked for is refused by the sink, which is as good as not saying it.
            let _ = match change {
                Ok(Change::Tools) => context.sink().notify_tool_list_changed().await,
                Ok(Change::Prompts) => context.sink().notify_prompt_list_changed().await,
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return Ok(()),
            };
        }
    }

    async fn list_tools(
        &self,
        _page: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tools::listed(&self.house)))
    }

    // The HTTP transport looks here for the arguments that header fields repeat.
    fn get_tool(&self, name: &str) -> Option<Tool> {
        tools::find(&self.house, name).map(tools::Entry::listed)
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let name = request.name;
        let Some(tool) = tools::find(&self.house, &name) else {
            return Err(ErrorData::invalid_params(
                format!("Unknown tool: {name}"),
                None,
            ));
        };
        let brought = Brought {
            arguments: request.arguments,
            responses: request.input_responses,
            state: request.request_state,
        };
        let call = self.begin(format!("tools/call {name}"), brought, context)?;
        match tool.run(call).await {
            Ok(response) => Ok(response),
            Err(Stop::Asks(result)) => Ok((*result).into()),
            Err(Stop::Refused(error)) => Err(error),
            Err(Stop::Failed(why)) => {
                let words = ContentBlock::text(format!("The tool failed: {why}"));
                Ok(CallToolResult::error(vec![words]).into())
            }
        }
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        self.house
            .tasks
            .get_task(&request.task_id)
            .map(GetTaskResult::new)
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.house
            .tasks
            .update_task(&request.task_id, request.input_responses)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        self.house.tasks.cancel_task(&request.task_id)
    }
}
