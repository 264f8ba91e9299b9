// A server of the revisions up to 2025-11-25 only, with everything that the official conformance
// suite calls in its server scenarios, of both of its requirement sets.
//
// It stands apart from the mock server of the Rust tests because the official SDK must speak here:
// a check that fails through chillgate and not straight at this server is then chillgate's fault.
// The names that the suite calls on a 2026-07-28 wire are served the way an older server does it:
// the handler asks its client for input in the middle of the call, and waits for the answer.
// It never knows of 2026-07-28, and it never listens beyond loopback.
//
//     legacy-server.mjs               stdio
//     legacy-server.mjs --http PORT   Streamable HTTP with sessions, on http://127.0.0.1:PORT/mcp

import { randomUUID } from "node:crypto";
import { createRequire } from "node:module";
import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";

import { Tasks } from "./legacy-tasks.mjs";

// The SDK at the version of the interop tests, so that the two never drift apart.
const sdk = createRequire(new URL("../interop/ts/package.json", import.meta.url));
const { Server } = sdk("@modelcontextprotocol/sdk/server/index.js");
const {
  CallToolRequestSchema,
  CompleteRequestSchema,
  CreateMessageResultSchema,
  ElicitResultSchema,
  GetPromptRequestSchema,
  ListPromptsRequestSchema,
  ListResourceTemplatesRequestSchema,
  ListResourcesRequestSchema,
  ListRootsResultSchema,
  ListToolsRequestSchema,
  ReadResourceRequestSchema,
  SetLevelRequestSchema,
  SubscribeRequestSchema,
  UnsubscribeRequestSchema,
  isInitializeRequest,
} = sdk("@modelcontextprotocol/sdk/types.js");

const STEP_MS = 50; // between two notifications of one call: they must not all arrive at once
const RECONNECT_MS = 300; // a dropped client comes back after this
const EVENTS_KEPT = 1000;
const ANSWER_MS = 60_000; // how long a handler waits for its client's answer
const INVALID_PARAMS = -32602;
const INTERNAL_ERROR = -32603;
const RESOURCE_NOT_FOUND = -32002; // the code of these revisions
const LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

const RED_DOT_PNG =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";

/** Ten milliseconds of silence: 8-bit mono PCM at 8 kHz behind a RIFF header. */
function silence() {
  const samples = Buffer.alloc(80, 0x80);
  const head = Buffer.alloc(44);
  head.write("RIFF", 0);
  head.writeUInt32LE(36 + samples.length, 4);
  head.write("WAVEfmt ", 8);
  head.writeUInt32LE(16, 16);
  head.writeUInt16LE(1, 20);
  head.writeUInt16LE(1, 22);
  head.writeUInt32LE(8000, 24);
  head.writeUInt32LE(8000, 28);
  head.writeUInt16LE(1, 32);
  head.writeUInt16LE(8, 34);
  head.write("data", 36);
  head.writeUInt32LE(samples.length, 40);
  return Buffer.concat([head, samples]).toString("base64");
}

const text = (words) => ({ type: "text", text: words });
const said = (words) => ({ content: [text(words)] });
const image = () => ({ type: "image", data: RED_DOT_PNG, mimeType: "image/png" });
const embedded = (uri, mimeType, words) => ({ type: "resource", resource: { uri, mimeType, text: words } });
const user = (content) => ({ role: "user", content });

/** What is answered as a JSON-RPC error, whatever was being handled. */
class Refusal extends Error {
  constructor(code, message, data) {
    super(message);
    Object.assign(this, { code, data });
  }
}

/** A schema of an object with these properties, all of them required. */
function object(properties) {
  return { type: "object", properties, required: Object.keys(properties) };
}

const string = (description) => ({ type: "string", description });
const titled = (...titles) => titles.map((title, at) => ({ const: `value${at + 1}`, title }));

/** One request's side of a session: what a handler may say to its client and ask of it. */
class Call {
  constructor(session, extra) {
    this.session = session;
    this.extra = extra;
  }

  get declared() {
    return this.session.server.getClientCapabilities() ?? {};
  }

  // Sent raw: the SDK's helpers would refuse what the client has not declared, and a server that
  // asks all the same is one of the cases.
  ask(method, params, schema) {
    return this.extra.sendRequest({ method, params }, schema, { timeout: ANSWER_MS });
  }

  // `key`: what a 2026-07-28 client of chillgate's is to know the question by.
  elicit(message, properties, key) {
    const _meta = key && { "dev.chillgate/key": key };
    const params = { message, requestedSchema: object(properties), ...(_meta && { _meta }) };
    return this.ask("elicitation/create", params, ElicitResultSchema);
  }

  async sample(prompt, maxTokens = 100) {
    const params = { messages: [user(text(prompt))], maxTokens };
    const answer = await this.ask("sampling/createMessage", params, CreateMessageResultSchema);
    return answer.content.type === "text" ? answer.content.text : answer.content.type;
  }

  async roots() {
    const { roots } = await this.ask("roots/list", {}, ListRootsResultSchema);
    return roots.map((root) => root.uri);
  }

  async log(level, data) {
    if (LEVELS.indexOf(level) < LEVELS.indexOf(this.session.level)) return;
    const params = { level, logger: "legacy", data };
    await this.extra.sendNotification({ method: "notifications/message", params });
  }

  async progress(progress, total) {
    const progressToken = this.extra._meta?.progressToken;
    if (progressToken === undefined) return;
    const params = { progressToken, progress, total };
    await this.extra.sendNotification({ method: "notifications/progress", params });
  }
}

const NAME = { name: { type: "string" } };
const outcome = (answer) => `action=${answer.action}, content=${JSON.stringify(answer.content ?? {})}`;

// An object schema that uses what JSON Schema 2020-12 has and its predecessors have not.
const DELIVERY = {
  $schema: "https://json-schema.org/draft/2020-12/schema",
  type: "object",
  $defs: {
    address: {
      $anchor: "place",
      type: "object",
      properties: { street: { type: "string" }, town: { type: "string" } },
    },
  },
  properties: {
    address: { $ref: "#/$defs/address" },
    express: { type: "boolean" },
    phone: { type: "string" },
    email: { type: "string" },
  },
  allOf: [{ anyOf: [{ required: ["phone"] }, { required: ["email"] }] }],
  if: { properties: { express: { const: true } }, required: ["express"] },
  then: { required: ["phone"] },
  else: { required: ["email"] },
  additionalProperties: false,
};

const REGION = { type: "string", description: "Where to look", "x-mcp-header": "Region" };
const PRIORITY = { type: "integer", description: "How soon", "x-mcp-header": "Priority" };
const VERBOSE = { type: "boolean", description: "Say more; may be left out", "x-mcp-header": "Verbose" };

// Each tool: what it does in words, what it does, and its input schema where it has one.
const TOOLS = {
  // First, because the suite calls the first tool of the list with no arguments.
  test_simple_text: ["Says one sentence", () => said("A sentence and nothing else.")],
  test_image_content: ["Shows an image", () => ({ content: [image()] })],
  test_audio_content: [
    "Plays silence",
    () => ({ content: [{ type: "audio", data: silence(), mimeType: "audio/wav" }] }),
  ],
  test_embedded_resource: [
    "Carries a resource",
    () => ({ content: [embedded("test://carried", "text/plain", "What was carried.")] }),
  ],
  test_multiple_content_types: [
    "Answers with a text, an image and a resource",
    () => ({
      content: [text("Three kinds:"), image(), embedded("test://carried.json", "application/json", '{"kinds":3}')],
    }),
  ],
  test_tool_with_logging: [
    "Logs while it works",
    async (call) => {
      await call.log("info", "started");
      await pause(STEP_MS);
      await call.log("info", "working");
      await pause(STEP_MS);
      await call.log("info", "done");
      return said("Three lines were logged.");
    },
  ],
  test_error_handling: ["Always fails", () => ({ ...said("This tool always fails."), isError: true })],
  test_tool_with_progress: [
    "Reports how far it is",
    async (call) => {
      for (const percent of [0, 50, 100]) {
        await call.progress(percent, 100);
        await pause(STEP_MS);
      }
      return said("Done.");
    },
  ],
  test_sampling: [
    "Asks the client's model",
    async (call, { prompt }) => said(`LLM response: ${await call.sample(prompt)}`),
    object({ prompt: string("What to ask") }),
  ],
  test_elicitation: [
    "Asks the user who they are",
    async (call, { message }) => {
      const answer = await call.elicit(message, { username: string("A name"), email: string("An address") });
      return said(`User response: ${outcome(answer)}`);
    },
    object({ message: string("What to say to the user") }),
  ],
  test_elicitation_sep1034_defaults: [
    "Asks the user with a default for each primitive type",
    async (call) => {
      const answer = await call.elicit("Check these", {
        name: { type: "string", default: "John Doe" },
        age: { type: "integer", default: 30 },
        score: { type: "number", default: 95.5 },
        status: { type: "string", enum: ["active", "inactive", "pending"], default: "active" },
        verified: { type: "boolean", default: true },
      });
      return said(`Elicitation completed: ${outcome(answer)}`);
    },
  ],
  test_elicitation_sep1330_enums: [
    "Asks the user to choose, in each way that there is",
    async (call) => {
      const plain = { type: "string", enum: ["option1", "option2", "option3"] };
      const answer = await call.elicit("Choose", {
        untitledSingle: plain,
        titledSingle: { type: "string", oneOf: titled("One", "Two", "Three") },
        legacyEnum: { type: "string", enum: ["opt1", "opt2", "opt3"], enumNames: ["One", "Two", "Three"] },
        untitledMulti: { type: "array", items: plain },
        titledMulti: { type: "array", items: { anyOf: titled("One", "Two", "Three") } },
      });
      return said(`Elicitation completed: ${outcome(answer)}`);
    },
  ],
  json_schema_2020_12_tool: ["Takes an order", () => said("Ordered."), DELIVERY],
  test_reconnection: [
    "Drops the stream of its answer; the answer waits for the client's return",
    async (call, args) => {
      await pause(args?.before ?? 0);
      call.extra.closeSSEStream?.();
      await pause(2 * STEP_MS);
      return said("Welcome back.");
    },
  ],

  test_input_required_result_elicitation: [
    "Asks the user's name",
    async (call) => said(`Hello, ${(await call.elicit("What is your name?", NAME, "user_name")).content?.name}!`),
  ],
  test_input_required_result_sampling: [
    "Asks the client's model for a capital",
    async (call) => said(await call.sample("What is the capital of France?")),
  ],
  test_input_required_result_list_roots: [
    "Asks the client for its roots",
    async (call) => said(`Roots: ${(await call.roots()).join(", ")}`),
  ],
  test_input_required_result_request_state: [
    "Asks to go on; its state is the waiting call itself",
    async (call) => {
      const { content } = await call.elicit("Go on?", { ok: { type: "boolean" } });
      return said(content?.ok ? "state-ok" : "not confirmed");
    },
  ],
  test_input_required_result_multiple_inputs: [
    "Asks for a name, a greeting and the roots, all at once",
    async (call) => {
      const [name, greeting, roots] = await Promise.all([
        call.elicit("What is your name?", NAME),
        call.sample("Greet somebody", 50),
        call.roots(),
      ]);
      return said(`${greeting} ${name.content?.name}: ${roots.join(", ")}`);
    },
  ],
  test_input_required_result_multi_round: [
    "Asks for a name, then for a colour",
    async (call) => {
      const { content: first } = await call.elicit("Step 1: your name?", NAME);
      const { content: second } = await call.elicit("Step 2: your colour?", { color: { type: "string" } });
      return said(`${first?.name} likes ${second?.color}.`);
    },
  ],
  test_input_required_result_tampered_state: [
    "Asks to go on; a forged answer must not get here",
    async (call) => {
      const { content } = await call.elicit("Go on?", { ok: { type: "boolean" } });
      return said(content?.ok ? "Went on." : "Stopped.");
    },
  ],
  test_input_required_result_capabilities: [
    "Asks only for what the client has declared",
    async (call) => {
      const questions = [];
      if (call.declared.sampling) questions.push(call.sample("Say something"));
      if (call.declared.elicitation) questions.push(call.elicit("What is your name?", NAME));
      return said(JSON.stringify(await Promise.all(questions)));
    },
  ],
  test_missing_capability: [
    "Asks the client's model, whether or not it has one",
    async (call) => said(await call.sample("Are you there?")),
  ],
  test_streaming_elicitation: [
    "Reports progress and asks the user's name",
    async (call) => {
      await call.progress(1, 2);
      const answer = await call.elicit("What is your name?", NAME);
      await call.progress(2, 2);
      return said(outcome(answer));
    },
  ],
  test_logging_tool: [
    "Logs at each level",
    async (call) => {
      for (const level of LEVELS) await call.log(level, `a line of level ${level}`);
      return said("Logged.");
    },
  ],
  // What the suite runs as tasks of the tasks extension. These revisions have no such extension: the
  // tools answer at once, which the suite accepts wherever it does not ask for a task.
  greet: ["Greets", (_call, { name }) => said(`Hello, ${name}!`), object({ name: string("Whom to greet") })],
  slow_compute: [
    "Computes; never slow here",
    (_call, { label }) => said(`Computed ${label}.`),
    object({ seconds: { type: "number", description: "How long it may take" }, label: string("A word for it") }),
  ],
  failing_job: ["Always fails", () => ({ ...said("This job always fails."), isError: true })],
  protocol_error_job: [
    "Always fails, below the tools",
    () => {
      throw new Refusal(INTERNAL_ERROR, "This job cannot run");
    },
  ],
  confirm_delete: [
    "Asks before it deletes nothing",
    async (call, { filename }) => {
      const answer = await call.elicit(`Delete ${filename}?`, { confirm: { type: "boolean" } });
      return said(answer.content?.confirm ? "Deleted." : "Kept.");
    },
    object({ filename: string("What to delete") }),
  ],
  multi_input: [
    "Asks two questions at once",
    async (call) => {
      const [name, colour] = await Promise.all([
        call.elicit("What is your name?", NAME),
        call.elicit("What is your colour?", { color: { type: "string" } }),
      ]);
      return said(`${outcome(name)}; ${outcome(colour)}`);
    },
  ],
  test_tool_with_task: [
    "Asks to go on, then goes on",
    async (call) => said(outcome(await call.elicit("Go on?", { ok: { type: "boolean" } }))),
  ],
  test_trigger_tool_change: [
    "Adds a tool, or removes it again",
    async () => {
      extra.tool = !extra.tool;
      await everywhere((server) => server.sendToolListChanged());
      return said("The tools have changed.");
    },
  ],
  test_trigger_prompt_change: [
    "Adds a prompt, or removes it again",
    async () => {
      extra.prompt = !extra.prompt;
      await everywhere((server) => server.sendPromptListChanged());
      return said("The prompts have changed.");
    },
  ],
  test_custom_headers: [
    "Has arguments that a client of a newer revision also names in headers",
    (_call, { region }) => said(`Looked in ${region}.`),
    {
      type: "object",
      properties: { region: REGION, priority: PRIORITY, query: string("What to look for") },
      required: ["region", "priority", "query"],
    },
  ],
  test_custom_headers_null: [
    "The same with an argument that may be absent",
    (_call, { region, verbose }) => said(`Looked in ${region}${verbose ? ", everywhere" : ""}.`),
    {
      type: "object",
      properties: { region: REGION, priority: PRIORITY, verbose: VERBOSE, query: string("What to look for") },
      required: ["region", "priority", "query"],
    },
  ],
};

TOOLS.greet = ["Says hello", (_call, { name }) => said(`Hello, ${name}!`), object({ name: string("Whom to greet") })];
TOOLS.runs = ["How often each tool that can be a task was run", async (call) => said(JSON.stringify(await call.session.tasks.counted()))];

const argument = (name) => ({ name, description: `The argument ${name}`, required: true });

// Each prompt: what it is in words, its messages, and its arguments.
const PROMPTS = {
  test_simple_prompt: ["One sentence", () => [user(text("Say one sentence."))], []],
  test_prompt_with_arguments: [
    "A sentence with two gaps",
    (_call, { arg1, arg2 }) => [user(text(`First ${arg1}, then ${arg2}.`))],
    [argument("arg1"), argument("arg2")],
  ],
  test_prompt_with_embedded_resource: [
    "A resource and what to do with it",
    (_call, { resourceUri }) => [
      user(embedded(resourceUri, "text/plain", "What is to be read.")),
      user(text("Read it.")),
    ],
    [argument("resourceUri")],
  ],
  test_prompt_with_image: ["An image and what to do with it", () => [user(image()), user(text("Look at it."))], []],
  test_input_required_result_prompt: [
    "A sentence with a gap that the user fills",
    async (call) => {
      const { content } = await call.elicit("In what context?", { context: { type: "string" } });
      return [user(text(`In the context of ${content?.context}.`))];
    },
    [],
  ],
};

const RESOURCES = {
  "test://static-text": ["A text", "text/plain", { text: "The text of a resource." }],
  "test://static-binary": ["An image", "image/png", { blob: RED_DOT_PNG }],
  "test://watched-resource": ["Something to watch", "text/plain", { text: "Nothing has happened yet." }],
};
const TEMPLATE = /^test:\/\/template\/([^/]+)\/data$/;

// The lists belong to the process, as a real server's do: a change is everybody's, and each session
// hears of it.
const extra = { tool: false, prompt: false };
const sessions = new Set();

async function everywhere(say) {
  await Promise.all([...sessions].map((session) => say(session.server).catch(() => {})));
}

function listed(name, [description, , inputSchema]) {
  return { name, description, inputSchema: inputSchema ?? { type: "object", properties: {} } };
}

function tools() {
  const all = [...Object.entries(TOOLS).map(([name, entry]) => listed(name, entry)), ...Tasks.listed()];
  // Last, so that the order of the others never depends on it.
  return extra.tool ? [...all, listed("test_extra_tool", ["Comes and goes"])] : all;
}

function prompts() {
  const all = Object.entries(PROMPTS).map(([name, [description, , args]]) => ({ name, description, arguments: args }));
  return extra.prompt ? [...all, { name: "test_extra_prompt", description: "Comes and goes" }] : all;
}

function contents(uri) {
  const known = RESOURCES[uri];
  if (known) return { uri, mimeType: known[1], ...known[2] };
  const id = TEMPLATE.exec(uri)?.[1];
  if (id === undefined) throw new Refusal(RESOURCE_NOT_FOUND, "Resource not found", { uri });
  return { uri, mimeType: "application/json", text: JSON.stringify({ id, data: `All about ${id}` }) };
}

/** A server for one session. */
class Session {
  level = LEVELS[0];
  watched = new Set();
  tasks = new Tasks(sdk);

  constructor() {
    this.server = new Server(
      { name: "legacy", version: "1.0.0" },
      {
        capabilities: {
          tools: { listChanged: true },
          prompts: { listChanged: true },
          resources: { subscribe: true, listChanged: true },
          logging: {},
          completions: {},
          tasks: Tasks.capability,
        },
        taskStore: this.tasks.store,
        taskMessageQueue: this.tasks.queue,
        instructions: "Speaks 2025-11-25 and older.",
      },
    );
    sessions.add(this);
    this.server.onclose = () => sessions.delete(this);
    this.serve();
  }

  serve() {
    const on = this.server.setRequestHandler.bind(this.server);
    on(ListToolsRequestSchema, () => ({ tools: tools() }));
    on(CallToolRequestSchema, async ({ params }, context) => {
      if (Tasks.has(params.name)) return this.tasks.call(new Call(this, context), params, context);
      const [, run] = TOOLS[params.name] ?? [];
      if (!run) throw new Refusal(INVALID_PARAMS, `Unknown tool: ${params.name}`);
      try {
        return await run(new Call(this, context), params.arguments ?? {});
      } catch (error) {
        if (error instanceof Refusal) throw error;
        // A refused question is the tool's own failure, which its caller should read.
        return { ...said(`The tool failed: ${error.message}`), isError: true };
      }
    });
    on(ListPromptsRequestSchema, () => ({ prompts: prompts() }));
    on(GetPromptRequestSchema, async ({ params }, context) => {
      const [description, messages] = PROMPTS[params.name] ?? [];
      if (!messages) throw new Refusal(INVALID_PARAMS, `Unknown prompt: ${params.name}`);
      return { description, messages: await messages(new Call(this, context), params.arguments ?? {}) };
    });
    on(ListResourcesRequestSchema, () => ({
      resources: Object.entries(RESOURCES).map(([uri, [description, mimeType]]) => ({
        uri,
        name: uri.slice("test://".length),
        description,
        mimeType,
      })),
    }));
    on(ListResourceTemplatesRequestSchema, () => ({
      resourceTemplates: [
        {
          uriTemplate: "test://template/{id}/data",
          name: "data",
          description: "Data by id",
          mimeType: "application/json",
        },
      ],
    }));
    on(ReadResourceRequestSchema, ({ params }) => ({ contents: [contents(params.uri)] }));
    on(SubscribeRequestSchema, ({ params }) => (this.watched.add(params.uri), {}));
    on(UnsubscribeRequestSchema, ({ params }) => (this.watched.delete(params.uri), {}));
    on(SetLevelRequestSchema, ({ params }) => ((this.level = params.level), {}));
    on(CompleteRequestSchema, ({ params }) => {
      const values = ["testing", "tested", "other"].filter((word) => word.startsWith(params.argument.value));
      return { completion: { values, total: values.length, hasMore: false } };
    });
  }
}

/** What was sent on the streams of one session, for a client that comes back. */
class Events {
  sent = [];
  next = 0;

  async storeEvent(stream, message) {
    const id = `${stream}.${this.next++}`;
    this.sent.push({ id, stream, message });
    if (this.sent.length > EVENTS_KEPT) this.sent.shift();
    return id;
  }

  async getStreamIdForEventId(id) {
    return this.sent.find((event) => event.id === id)?.stream;
  }

  async replayEventsAfter(id, { send }) {
    const at = this.sent.findIndex((event) => event.id === id);
    const stream = this.sent[at]?.stream ?? "";
    for (const event of at < 0 ? [] : this.sent.slice(at + 1)) {
      // Priming events are stored as well, and have no message to send again.
      if (event.stream === stream && "jsonrpc" in event.message) await send(event.id, event.message);
    }
    return stream;
  }
}

async function stdio() {
  const { StdioServerTransport } = sdk("@modelcontextprotocol/sdk/server/stdio.js");
  await new Session().server.connect(new StdioServerTransport());
}

function http(port) {
  const { createMcpExpressApp } = sdk("@modelcontextprotocol/sdk/server/express.js");
  const { StreamableHTTPServerTransport } = sdk("@modelcontextprotocol/sdk/server/streamableHttp.js");
  const open = new Map();
  const app = createMcpExpressApp({ host: "127.0.0.1" });
  const refuse = (response, status, code, message) =>
    response.status(status).json({ jsonrpc: "2.0", error: { code, message }, id: null });

  app.all("/mcp", async (request, response) => {
    const id = request.headers["mcp-session-id"];
    if (id !== undefined) {
      const known = open.get(id);
      if (!known) return refuse(response, 404, -32001, "Session not found");
      return known.handleRequest(request, response, request.body);
    }
    if (request.method !== "POST" || !isInitializeRequest(request.body)) {
      return refuse(response, 400, -32000, "Bad Request: Server not initialized");
    }
    const transport = new StreamableHTTPServerTransport({
      sessionIdGenerator: randomUUID,
      eventStore: new Events(),
      retryInterval: RECONNECT_MS,
      onsessioninitialized: (fresh) => void open.set(fresh, transport),
    });
    const session = new Session();
    session.server.onclose = () => {
      sessions.delete(session);
      open.delete(transport.sessionId);
    };
    await session.server.connect(transport);
    return transport.handleRequest(request, response, request.body);
  });
  app.listen(port, "127.0.0.1");
}

const { values: options } = parseArgs({ options: { http: { type: "string" } } });
if (options.http === undefined) await stdio();
else http(Number(options.http));
