// The tools of the legacy server that go on after they have been called: tasks of 2025-11-25.
//
// They stand apart because their clients ask for a task and fetch what came of it, and because the
// SDK hands what they ask to whoever waits for the result and to nobody else. The names are those
// that the official suite calls in its scenarios of the tasks extension. It never keeps a task
// longer than its session.

import { setTimeout as pause } from "node:timers/promises";

const TTL_MS = 60_000;
const POLL_MS = 50;
const ENDED = ["completed", "failed", "cancelled"];

const said = (words) => ({ content: [{ type: "text", text: words }] });
const failed = (words) => ({ ...said(words), isError: true });
const string = { type: "string" };
const object = (properties) => ({ type: "object", properties, required: Object.keys(properties) });
const FORM = object({ name: string, confirm: { type: "boolean" } });

const question = (message) => ({ mode: "form", message, requestedSchema: FORM });

/** Asks before it does anything. */
async function confirm({ ask }, { filename }) {
  const answer = await ask(`Delete ${filename}?`);
  return said(`${filename}: ${answer.action} ${JSON.stringify(answer.content ?? {})}`);
}

/** Takes so many seconds. */
async function slow(_task, { seconds }) {
  await pause(seconds * 1000);
  return said(`It took ${seconds} s.`);
}

// Each tool: whether it may or must be called as a task, what it does in words, what it does, and
// its input schema.
const TASKS = {
  slow_compute: ["optional", "Takes a while", slow, object({ seconds: { type: "number" } })],
  slow_required: ["required", "Takes a while, as a task only", slow, object({ seconds: { type: "number" } })],
  failing_job: [
    "required",
    "Fails after a while",
    async () => {
      await pause(500);
      return failed("The job has failed.");
    },
  ],
  protocol_error_job: [
    "optional",
    "Ends in an error that is no result",
    async ({ breakDown }) => {
      await pause(100);
      return breakDown();
    },
  ],
  confirm_delete: ["optional", "Asks first", confirm, object({ filename: string })],
  confirm_required: ["required", "Asks first, and runs as a task only", confirm, object({ filename: string })],
  report: [
    "required",
    "Writes a report, as a task only",
    async (_task, { topic }) => {
      await pause(300);
      return { ...said(`All about ${topic}.`), structuredContent: { topic } };
    },
    object({ topic: string }),
  ],
  multi_input: [
    "optional",
    "Asks two things at once",
    async ({ ask }) => said(JSON.stringify(await Promise.all([ask("First?"), ask("Second?")]))),
  ],
  early_question: [
    "optional",
    "Asks before its caller can know of the task",
    async ({ early }) => said(JSON.stringify(await early)),
    undefined,
    undefined,
    "Early?",
  ],
  test_tool_with_task: [
    "required",
    "Asks for a name before it becomes a task",
    async (_task, _args, before) => {
      await pause(100);
      return said(`It was for ${before.content?.name}.`);
    },
    undefined,
    (call) => call.elicit("For whom?", { name: string }, "user_name"),
  ],
};

/** The tasks of one session. */
export class Tasks {
  #sdk;
  #broken = new Set();
  #made = [];
  #runs = {};

  constructor(sdk) {
    this.#sdk = sdk;
    const { InMemoryTaskStore, InMemoryTaskMessageQueue } = sdk(
      "@modelcontextprotocol/sdk/experimental/tasks/stores/in-memory.js",
    );
    this.store = new InMemoryTaskStore();
    this.queue = new InMemoryTaskMessageQueue();
    // The SDK knows no task that ends in an error of the protocol, which the revision allows.
    const stored = this.store.getTaskResult.bind(this.store);
    this.store.getTaskResult = async (id, session) => {
      const { McpError, ErrorCode } = sdk("@modelcontextprotocol/sdk/types.js");
      if (this.#broken.has(id)) throw new McpError(ErrorCode.InternalError, "The job broke.");
      return stored(id, session);
    };
  }

  /** What the server declares. */
  static capability = { list: {}, cancel: {}, requests: { tools: { call: {} } } };

  static has(name) {
    return Object.hasOwn(TASKS, name);
  }

  static listed() {
    return Object.entries(TASKS).map(([name, [taskSupport, description, , inputSchema]]) => ({
      name,
      description,
      inputSchema: inputSchema ?? { type: "object", properties: {} },
      execution: { taskSupport },
    }));
  }

  /** How often each tool was run, so that a call that is made twice is seen; and what was cancelled. */
  async counted() {
    const tasks = await Promise.all(this.#made.map((id) => this.store.getTask(id)));
    return { ...this.#runs, cancelled: tasks.filter((task) => task?.status === "cancelled").length };
  }

  /** Calls a tool: as a task, or to its end where it may be called in this way. */
  async call(call, { name, arguments: args = {}, task }, extra) {
    const [support, , work, , before, early] = TASKS[name];
    const { McpError, ErrorCode, ElicitResultSchema } = this.#sdk("@modelcontextprotocol/sdk/types.js");
    if (!task && support === "required") {
      throw new McpError(ErrorCode.MethodNotFound, `${name} is called as a task only`);
    }
    this.#runs[name] = (this.#runs[name] ?? 0) + 1;
    const first = await before?.(call);
    if (!task) {
      const ask = (message) => call.elicit(message, FORM.properties);
      const breakDown = () => {
        throw new Error("The job broke.");
      };
      return work({ ask, breakDown }, args, first);
    }
    const made = await extra.taskStore.createTask({ ttl: task.ttl ?? TTL_MS, pollInterval: POLL_MS });
    this.#made.push(made.taskId);
    // Sent at once and not left to whoever waits for the result, as servers without the SDK do.
    const about = { "io.modelcontextprotocol/related-task": { taskId: made.taskId } };
    const asked = early && call.ask("elicitation/create", { ...question(early), _meta: about }, ElicitResultSchema);
    this.#run(made.taskId, extra, (task) => work({ ...task, early: asked }, args, first));
    return { task: made };
  }

  #run(taskId, extra, work) {
    const { ElicitResultSchema } = this.#sdk("@modelcontextprotocol/sdk/types.js");
    let open = 0;
    const ask = async (message) => {
      open += 1;
      await this.store.updateTaskStatus(taskId, "input_required", message);
      const request = { method: "elicitation/create", params: question(message) };
      const answer = await extra.sendRequest(request, ElicitResultSchema, { relatedTask: { taskId } });
      open -= 1;
      if (open === 0) await this.store.updateTaskStatus(taskId, "working");
      return answer;
    };
    const breakDown = () => {
      this.#broken.add(taskId);
      return failed("");
    };
    const end = async (result) => {
      if (ENDED.includes((await this.store.getTask(taskId))?.status)) return;
      await extra.taskStore.storeTaskResult(taskId, result.isError ? "failed" : "completed", result);
    };
    work({ ask, breakDown }).catch((error) => failed(String(error))).then(end).catch(() => {});
  }
}
