// The official TypeScript SDK's client, driven through one endpoint and checked.
//
// It stands apart from the Rust tests because it must be the real client, as a user's host has it.
// It never knows whether chillgate is in between: the same command runs straight at a server (the
// control) and through the gate.
//
//     peer.mjs --suite everything [--prefix everything__] --url http://…/mcp
//     peer.mjs --suite filesystem --dir DIR -- node server-filesystem DIR
//
// One line of JSON per check on stdout: {"check", "ok", "detail"}. Exit 1 when any check failed.

import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport, getDefaultEnvironment } from "@modelcontextprotocol/sdk/client/stdio.js";
import { SSEClientTransport } from "@modelcontextprotocol/sdk/client/sse.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import {
  CreateMessageRequestSchema,
  ElicitRequestSchema,
  ListRootsRequestSchema,
  LoggingMessageNotificationSchema,
  ResourceUpdatedNotificationSchema,
} from "@modelcontextprotocol/sdk/types.js";
import assert from "node:assert/strict";
import { parseArgs } from "node:util";
import { SUITES } from "./suites.mjs";

const CONNECT_MS = 90_000; // a cold start through npx or uvx on a busy machine
const CHECK_MS = 45_000;
// Trust in a local certificate authority must reach servers that fetch themselves (npx, uvx).
const TRUST = ["SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"];

const { values: options, positionals: command } = parseArgs({
  allowPositionals: true,
  options: {
    suite: { type: "string" },
    checks: { type: "string", default: "" },
    prefix: { type: "string", default: "" },
    plain: { type: "boolean", default: false },
    header: { type: "string", multiple: true, default: [] },
    dir: { type: "string", default: "/tmp" },
    url: { type: "string", default: "" },
  },
});
if (!(options.suite in SUITES) || Boolean(options.url) === command.length > 0) {
  console.error("usage: peer.mjs --suite SUITE (--url URL | -- COMMAND…)");
  process.exit(2);
}

/** The client and everything that the server said to it unasked. */
class Peer {
  sampled = [];
  elicited = [];
  logs = [];
  updates = [];
  rootsAsked = 0;
  root = options.dir;

  constructor() {
    const capabilities = options.plain
      ? {}
      : { sampling: {}, elicitation: { form: {}, url: {} }, roots: { listChanged: true } };
    this.client = new Client({ name: "interop-typescript", version: "1" }, { capabilities });
    this.client.setNotificationHandler(LoggingMessageNotificationSchema, (n) => void this.logs.push(n.params));
    this.client.setNotificationHandler(ResourceUpdatedNotificationSchema, (n) => void this.updates.push(n.params));
    if (options.plain) return;
    this.client.setRequestHandler(CreateMessageRequestSchema, (request) => {
      this.sampled.push(request.params);
      const text = `sampled: ${[request.params.messages[0].content].flat()[0].text}`;
      return { role: "assistant", content: { type: "text", text }, model: "interop-model", stopReason: "endTurn" };
    });
    this.client.setRequestHandler(ElicitRequestSchema, (request) => {
      this.elicited.push(request.params);
      return { action: "accept", content: { name: "Mina", check: true, answer: "blue" } };
    });
    this.client.setRequestHandler(ListRootsRequestSchema, () => {
      this.rootsAsked += 1;
      return { roots: [{ uri: `file://${this.root}`, name: "interop-root" }] };
    });
  }

  /** A tool's or prompt's name as this endpoint shows it. */
  name(bare) {
    return options.prefix + bare;
  }

  call(tool, args = {}, more = {}) {
    return this.client.callTool({ name: this.name(tool), arguments: args }, undefined, more);
  }

  /** The text of a tool's answer, which must not be an error. */
  async text(tool, args = {}, more = {}) {
    const answer = await this.call(tool, args, more);
    const text = answer.content.filter((item) => item.type === "text").map((item) => item.text).join("\n");
    assert.ok(!answer.isError, `${tool} answered an error: ${text}`);
    return text;
  }

  /** Waits until `seen()` is true; the wait is bounded and says what was missing. */
  async until(what, seen, ms = 15_000) {
    const end = Date.now() + ms;
    while (!seen()) {
      assert.ok(Date.now() < end, `${what} did not arrive within ${ms} ms`);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}

function transport() {
  if (options.url) {
    const headers = Object.fromEntries(options.header.map((pair) => pair.split(/=(.*)/s).slice(0, 2)));
    if (options.url.endsWith("/sse")) {
      return new SSEClientTransport(new URL(options.url), { requestInit: { headers } });
    }
    return new StreamableHTTPClientTransport(new URL(options.url), { requestInit: { headers } });
  }
  const env = getDefaultEnvironment();
  for (const name of TRUST) if (process.env[name]) env[name] = process.env[name];
  return new StdioClientTransport({ command: command[0], args: command.slice(1), env });
}

function report(check, ok, detail) {
  console.log(JSON.stringify({ check, ok, detail: String(detail ?? "").slice(0, 2000) }));
}

function within(ms, what, work) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${ms} ms`)), ms);
  });
  return Promise.race([work, late]).finally(() => clearTimeout(timer));
}

async function run() {
  const peer = new Peer();
  const link = transport();
  let failed = 0;
  try {
    await within(CONNECT_MS, "connecting", peer.client.connect(link, { timeout: CONNECT_MS }));
    report("connect", true, link.protocolVersion ?? "");
  } catch (error) {
    report("connect", false, error?.stack ?? error);
    return 1;
  }
  const checks = SUITES[options.suite];
  for (const check of options.checks ? options.checks.split(",") : Object.keys(checks)) {
    try {
      report(check, true, await within(CHECK_MS, check, checks[check](peer)));
    } catch (error) {
      failed += 1;
      report(check, false, error?.stack ?? error);
    }
  }
  try {
    if (options.url) await within(CONNECT_MS, "DELETE", link.terminateSession?.());
    await within(CONNECT_MS, "closing", peer.client.close());
  } catch (error) {
    failed += 1;
    report("close", false, error?.stack ?? error);
  }
  return failed;
}

process.exit((await run()) ? 1 : 0);
