// What each server must still do for the TypeScript SDK's client, check by check.
//
// It stands apart from `peer.mjs` so that the list of what MCP offers reads without the plumbing.
// A check never prints and never skips: it returns a short detail or throws.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";

/** The call must be answered with a JSON-RPC error of one of these codes. */
async function refused(call, ...codes) {
  const answer = await call.then(
    (value) => ({ value }),
    (error) => ({ error }),
  );
  assert.ok(answer.error, `answered instead of refused: ${JSON.stringify(answer.value)}`);
  assert.ok(codes.includes(answer.error.code), String(answer.error));
}

// --- server-everything ---------------------------------------------------------------------

const everything = {
  async initialize(p) {
    const has = p.client.getServerCapabilities();
    for (const capability of ["tools", "resources", "prompts", "logging", "completions"]) {
      assert.ok(has[capability], `${capability} is not offered`);
    }
    return p.client.getServerVersion().name;
  },

  async ping(p) {
    await p.client.ping();
  },

  async tools(p) {
    const names = [];
    let cursor;
    for (let pages = 0; pages < 50; pages += 1) {
      const page = await p.client.listTools({ cursor });
      names.push(...page.tools.map((tool) => tool.name));
      cursor = page.nextCursor;
      if (!cursor) break;
    }
    for (const bare of ["echo", "get-sum", "get-structured-content"]) {
      assert.ok(names.includes(p.name(bare)), `${p.name(bare)} is not in ${names}`);
    }
    assert.equal(new Set(names).size, names.length, "a name is listed twice");
    assert.equal(await p.text("echo", { message: "hi \u2028 🧊" }), "Echo: hi \u2028 🧊");
    assert.match(await p.text("get-sum", { a: 19, b: 23 }), /42/);
    const weather = await p.call("get-structured-content", { location: "Chicago" });
    assert.equal(typeof weather.structuredContent.temperature, "number");
    const image = (await p.call("get-tiny-image")).content.find((item) => item.type === "image");
    assert.equal(Buffer.from(image.data, "base64").subarray(1, 4).toString(), "PNG");
    return `${names.length} tools`;
  },

  async tool_errors(p) {
    const wrong = await p.call("get-sum", { a: "x" });
    assert.ok(wrong.isError, JSON.stringify(wrong));
    const unknown = await p.call("no-such-tool").catch((error) => error);
    assert.ok(unknown.isError || unknown.code === -32602, JSON.stringify(unknown));
    assert.equal(await p.text("echo", { message: "still here" }), "Echo: still here");
  },

  async resources(p) {
    const { resources } = await p.client.listResources();
    assert.ok(resources.length > 0, "no resource is listed");
    const first = await p.client.readResource({ uri: resources[0].uri });
    assert.ok(first.contents[0].text);
    const { resourceTemplates } = await p.client.listResourceTemplates();
    assert.ok(resourceTemplates.some((t) => t.uriTemplate.includes("dynamic/text")));
    const text = await p.client.readResource({ uri: "demo://resource/dynamic/text/1" });
    assert.match(text.contents[0].text, /Resource 1/);
    const blob = await p.client.readResource({ uri: "demo://resource/dynamic/blob/2" });
    assert.ok(Buffer.from(blob.contents[0].blob, "base64").length > 0);
    await refused(p.client.readResource({ uri: "demo://no/such/resource" }), -32602, -32002);
    return `${resources.length} resources, ${resourceTemplates.length} templates`;
  },

  async prompts(p) {
    const names = (await p.client.listPrompts()).prompts.map((prompt) => prompt.name);
    assert.ok(names.includes(p.name("args-prompt")), String(names));
    assert.ok((await p.client.getPrompt({ name: p.name("simple-prompt") })).messages[0].content.text);
    const filled = await p.client.getPrompt({ name: p.name("args-prompt"), arguments: { city: "Seoul" } });
    assert.match(filled.messages[0].content.text, /Seoul/);
    const embedded = await p.client.getPrompt({
      name: p.name("resource-prompt"),
      arguments: { resourceType: "Text", resourceId: "3" },
    });
    assert.ok(embedded.messages.some((message) => message.content.type === "resource"));
    return `${names.length} prompts`;
  },

  async completion(p) {
    const ref = { type: "ref/prompt", name: p.name("completable-prompt") };
    const department = await p.client.complete({ ref, argument: { name: "department", value: "S" } });
    assert.deepEqual(department.completion.values, ["Sales", "Support"]);
    const name = await p.client.complete({
      ref,
      argument: { name: "name", value: "" },
      context: { arguments: { department: "Sales" } },
    });
    assert.deepEqual(name.completion.values, ["David", "Eve", "Frank"]);
    const template = { type: "ref/resource", uri: "demo://resource/dynamic/text/{resourceId}" };
    const id = await p.client.complete({ ref: template, argument: { name: "resourceId", value: "7" } });
    assert.deepEqual(id.completion.values, ["7"]);
  },

  async sampling(p) {
    const text = await p.text("trigger-sampling-request", { prompt: "what is chill", maxTokens: 7 });
    assert.match(text, /sampled:.*what is chill/);
    assert.equal(p.sampled.at(-1).maxTokens, 7);
  },

  async elicitation(p) {
    assert.match(await p.text("trigger-elicitation-request"), /Mina/);
    assert.ok(p.elicited.at(-1).requestedSchema.properties.name);
  },

  async url_elicitation(p) {
    const before = p.elicited.length;
    await p.call("trigger-url-elicitation", { url: "https://example.org/consent" });
    const asked = p.elicited.slice(before).find((params) => params.mode === "url");
    assert.equal(new URL(asked.url).hostname, "example.org");
  },

  async roots(p) {
    await p.until("the server's roots/list", () => p.rootsAsked > 0);
    assert.match(await p.text("get-roots-list"), /interop-root/);
    const asked = p.rootsAsked;
    await p.client.sendRootsListChanged();
    await p.until("roots/list after roots/list_changed", () => p.rootsAsked > asked);
  },

  async progress(p) {
    const seen = [];
    await p.text("trigger-long-running-operation", { duration: 0.6, steps: 4 }, {
      onprogress: ({ progress, total }) => seen.push([progress, total]),
    });
    // This client forgets the callback when the answer comes in the same read as the last step, and
    // server-everything repeats events when a stream is resumed.
    const steps = ["1/4", "2/4", "3/4", "4/4"];
    const heard = [...new Set(seen.map(([done, total]) => `${done}/${total}`))];
    assert.ok(heard.length >= 3, String(seen));
    assert.deepEqual(heard, steps.slice(0, heard.length));
  },

  async logging(p) {
    await p.client.setLoggingLevel("debug");
    const before = p.logs.length;
    await p.text("toggle-simulated-logging");
    await p.until("a log message", () => p.logs.length > before);
    await p.text("toggle-simulated-logging");
    return p.logs.at(-1).level;
  },

  async subscriptions(p) {
    const uri = "demo://resource/dynamic/text/1";
    await p.client.subscribeResource({ uri });
    const before = p.updates.length;
    await p.text("toggle-subscriber-updates");
    await p.until("notifications/resources/updated", () => p.updates.length > before);
    assert.equal(p.updates.at(-1).uri, uri);
    await p.text("toggle-subscriber-updates");
    await p.client.unsubscribeResource({ uri });
  },

  async cancellation(p) {
    const started = Date.now();
    const abort = new AbortController();
    setTimeout(() => abort.abort("enough"), 400);
    const call = p.call("trigger-long-running-operation", { duration: 60, steps: 60 }, { signal: abort.signal });
    await assert.rejects(call);
    assert.equal(await p.text("echo", { message: "after" }), "Echo: after");
    assert.ok(Date.now() - started < 10_000, "the cancelled call held the session");
  },

  async concurrency(p) {
    const all = Array.from({ length: 50 }, async (_, n) => {
      assert.equal(await p.text("echo", { message: `n${n}` }), `Echo: n${n}`);
    });
    await Promise.all(all);
  },

  // 2025-11-25 tasks pass through a same-era relay untouched: create, poll, fetch the result.
  async tasks(p) {
    const stream = p.client.experimental.tasks.callToolStream(
      { name: p.name("simulate-research-query"), arguments: { topic: "chill" } },
      undefined,
      { task: { ttl: 60_000 } },
    );
    const kinds = [];
    for await (const message of stream) {
      kinds.push(message.type);
      assert.notEqual(message.type, "error", String(message.error));
    }
    assert.equal(kinds[0], "taskCreated", String(kinds));
    assert.equal(kinds.at(-1), "result", String(kinds));
  },
};

// --- server-filesystem, server-memory ------------------------------------------------------

async function files(p) {
  const path = join(p.root, "note-typescript.txt");
  const body = "first\nsecond é \u2028 end\n".repeat(2000);
  await p.text("write_file", { path, content: body });
  assert.equal(readFileSync(path, "utf8"), body, "the file on disk differs");
  assert.equal(await p.text("read_text_file", { path }), body);
  assert.match(await p.text("list_directory", { path: p.root }), /note-typescript\.txt/);
  const outside = await p.call("read_text_file", { path: "/etc/hostname" });
  assert.ok(outside.isError && /denied/i.test(outside.content[0].text), JSON.stringify(outside));
}

async function memory(p) {
  const mark = `typescript-${process.pid}`;
  const entity = { name: mark, entityType: "test", observations: ["is chill"] };
  await p.text("create_entities", { entities: [entity] });
  const graph = (await p.call("read_graph")).structuredContent;
  assert.ok(graph.entities.some((known) => known.name === mark), JSON.stringify(graph));
  assert.ok((await p.text("search_nodes", { query: mark })).includes(mark));
  await p.text("delete_entities", { entityNames: [mark] });
  assert.ok(!(await p.text("search_nodes", { query: mark })).includes(mark));
}

// --- fast_server.py (fastmcp), mcp-server-time ---------------------------------------------

const fastmcp = {
  async tools(p) {
    const names = (await p.client.listTools()).tools.map((tool) => tool.name);
    assert.ok(names.includes(p.name("add")), String(names));
    assert.deepEqual((await p.call("add", { a: 20, b: 22 })).structuredContent, { result: 42 });
    const failing = await p.call("fail", { why: "on purpose" });
    assert.ok(failing.isError && failing.content[0].text.includes("on purpose"), JSON.stringify(failing));
    assert.equal((await p.text("blob", { size: 300_000 })).length, 300_000);
  },

  async resources(p) {
    const listed = (await p.client.listResources()).resources.map((resource) => resource.uri);
    assert.ok(listed.includes("fast://motto"), String(listed));
    assert.equal((await p.client.readResource({ uri: "fast://motto" })).contents[0].text, "Chill first.");
    assert.equal((await p.client.readResource({ uri: "fast://greet/Mina" })).contents[0].text, "Hello, Mina");
  },

  async prompts(p) {
    const prompt = await p.client.getPrompt({ name: p.name("ask_break"), arguments: { minutes: "7" } });
    assert.match(prompt.messages[0].content.text, /7 minutes/);
  },

  async talks_back(p) {
    const seen = [];
    const before = p.logs.length;
    const text = await p.text("talk_back", {}, { onprogress: ({ progress }) => seen.push(progress) });
    const said = JSON.parse(text);
    assert.match(said.sampled, /^sampled: /);
    assert.equal(said.elicited, "blue");
    assert.deepEqual(seen, [1, 2].slice(0, Math.max(seen.length, 1))); // as in `progress` above
    await p.until("the log line", () => p.logs.length > before);
  },
};

// --- new_server.py, new_server.mjs: servers of 2026-07-28 ------------------------------------

const newer = {
  async tools(p) {
    const names = (await p.client.listTools()).tools.map((tool) => tool.name);
    assert.ok(names.includes(p.name("add")), String(names));
    assert.deepEqual((await p.call("add", { a: 20, b: 22 })).structuredContent, { result: 42 });
    const failing = await p.call("fail", { why: "on purpose" });
    assert.ok(failing.isError && failing.content[0].text.includes("on purpose"), JSON.stringify(failing));
    assert.ok((await p.client.getPrompt({ name: p.name("ask_break"), arguments: { minutes: "7" } })).messages.length);
    const listed = (await p.client.listResources()).resources.map((resource) => resource.uri);
    assert.ok(listed.includes("board://now"), String(listed));
    const old = await p.client.readResource({ uri: "board://old/monday" });
    assert.equal(old.contents[0].text, "nothing on monday");
    await refused(p.client.readResource({ uri: "board://no/such/thing/at/all" }), -32602, -32002);
  },

  async questions(p) {
    const answer = JSON.parse(await p.text("three"));
    assert.equal(answer.who.name, "Mina");
    assert.equal(answer.what, "sampled: what is chill?");
    assert.deepEqual(answer.where, [`file://${p.root}`]);
    const asked = p.elicited.length;
    assert.deepEqual(JSON.parse(await p.text("rounds", { upto: 4 })), Array(4).fill("Mina"));
    assert.equal(p.elicited.length, asked + 4);
  },

  async progress(p) {
    const seen = [];
    const before = p.logs.length;
    assert.equal(await p.text("steps", { count: 5 }, { onprogress: ({ progress }) => seen.push(progress) }), "done");
    assert.deepEqual(seen, [1, 2, 3, 4, 5].slice(0, Math.max(seen.length, 1))); // as in `progress` above
    await p.until("five log lines", () => p.logs.length >= before + 5);
  },

  async subscriptions(p) {
    await p.client.subscribeResource({ uri: "board://now" });
    const before = p.updates.length;
    await p.text("pin", { text: "hello" });
    await p.until("notifications/resources/updated", () => p.updates.length > before);
    assert.equal(p.updates.at(-1).uri, "board://now");
    await p.client.unsubscribeResource({ uri: "board://now" });
  },

  async concurrency(p) {
    const all = Array.from({ length: 20 }, async (_, n) => {
      if (n % 4 === 0) {
        return assert.deepEqual(JSON.parse(await p.text("rounds", { upto: 2 })), ["Mina", "Mina"]);
      }
      return assert.deepEqual((await p.call("add", { a: n, b: 1000 })).structuredContent, { result: n + 1000 });
    });
    await Promise.all(all);
  },
};

// --- dual-server: tools that become tasks of the extension of 2026-07-28 ---------------------

/** Calls a tool as a task of 2025-11-25; what came, in order. */
async function asTask(p, name, args) {
  const came = [];
  const options = { task: { ttl: 60_000 } };
  const call = { name: p.name(name), arguments: args };
  for await (const one of p.client.experimental.tasks.callToolStream(call, undefined, options)) came.push(one);
  const last = came.at(-1);
  assert.equal(came[0].type, "taskCreated", JSON.stringify(came));
  return { created: came[0].task, result: last.result, error: last.error?.message };
}

const tasks = {
  async offered(p) {
    const { tasks } = p.client.getServerCapabilities();
    assert.ok(tasks?.requests?.tools?.call && tasks.cancel && !tasks.list, JSON.stringify(tasks));
    const { tools } = await p.client.listTools();
    assert.ok(tools.every((tool) => tool.execution?.taskSupport === "optional"), JSON.stringify(tools[0]));
  },

  /** One that takes its time, one that asks its host, one that fails, one that is no task at all. */
  async results(p) {
    const slow = await asTask(p, "slow_compute", { seconds: 1, label: "cake" });
    assert.match(slow.result?.content[0].text ?? slow.error, /cake/);
    assert.equal(slow.result._meta["io.modelcontextprotocol/related-task"].taskId, slow.created.taskId);
    const asked = p.elicited.length;
    const confirmed = await asTask(p, "confirm_delete", { filename: "a.txt" });
    assert.ok(confirmed.result.content.length, JSON.stringify(confirmed));
    assert.equal(p.elicited.length, asked + 1);
    // A tool that says that it failed is a task that has failed, in this revision.
    assert.match((await asTask(p, "failing_job", {})).error, /failed/);
    const plain = await asTask(p, "test_simple_text", {});
    assert.ok(plain.result.content[0].text);
  },

  async cancelled(p) {
    const stream = p.client.experimental.tasks.callToolStream(
      { name: p.name("slow_compute"), arguments: { seconds: 30, label: "never" } },
      undefined,
      { task: { ttl: 60_000 } },
    );
    const { value } = await stream.next();
    const ended = await p.client.experimental.tasks.cancelTask(value.task.taskId);
    assert.equal(ended.status, "cancelled");
    assert.equal((await p.client.experimental.tasks.getTask(value.task.taskId)).status, "cancelled");
    await refused(p.client.experimental.tasks.getTask("never-was"), -32602);
  },
};

// --- Streams that end before the answer ------------------------------------------------------

const returning = {
  /** The server ends the stream itself, to be asked again. */
  async sent_away(p) {
    assert.equal(await p.text("test_reconnection", {}), "Welcome back.");
  },

  /** Whoever runs this breaks the connection under the first step that comes by. */
  async broken(p) {
    const seen = [];
    const onprogress = ({ progress }) => seen.push(progress);
    assert.equal(await p.text("test_tool_with_progress", {}, { onprogress }), "Done.");
    // As in `progress` above: repeated by the server, and the last one may be forgotten.
    const heard = [...new Set(seen)];
    assert.ok(heard.length >= 2, String(seen));
    assert.deepEqual(heard, [0, 50, 100].slice(0, heard.length));
  },
};

async function clock(p) {
  const text = await p.text("get_current_time", { timezone: "Asia/Seoul" });
  assert.equal(JSON.parse(text).timezone, "Asia/Seoul");
}

export const SUITES = { everything, filesystem: { files }, memory: { memory }, fastmcp, new: newer, tasks, returning, clock: { clock } };
