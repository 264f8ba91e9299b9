// A server of revision 2026-07-28 and no other, as the official TypeScript SDK (v2) makes one.
//
// It stands apart because what it wants of its host it says as the outcome of a call, and because it
// refuses hosts of older revisions. The same tools as `../python/new_server.py`, so that one suite
// judges both. It never reads the network or the disk.
//
//     node new_server.mjs [--http PORT]

import { createServer } from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import { parseArgs } from "node:util";

import { toNodeHandler } from "@modelcontextprotocol/node";
import {
  InMemoryServerEventBus,
  McpServer,
  ResourceTemplate,
  createMcpHandler,
  inputRequired,
} from "@modelcontextprotocol/server";
import { serveStdio } from "@modelcontextprotocol/server/stdio";
import { z } from "zod";

const { values } = parseArgs({ options: { http: { type: "string" } } });
const board = { text: "nothing yet" };
const name = z.object({ name: z.string() });
const said = (words) => ({ content: [{ type: "text", text: words }] });
const ask = (message) => inputRequired.elicit({ message, requestedSchema: name });

/** Tells whoever listens; over stdio the server itself does, over HTTP its handler. */
let changed;

function make() {
  const server = new McpServer(
    { name: "new-server", version: "7" },
    {
      instructions: "Asks in its answers.",
      capabilities: { logging: {}, tools: { listChanged: true }, resources: { subscribe: true, listChanged: true } },
    },
  );

  server.registerTool("add", { inputSchema: z.object({ a: z.number(), b: z.number() }) }, ({ a, b }) => ({
    ...said(String(a + b)),
    structuredContent: { result: a + b },
  }));

  server.registerTool("fail", { inputSchema: z.object({ why: z.string() }) }, ({ why }) => {
    throw new Error(why);
  });

  server.registerTool("three", {}, (ctx) => {
    const answers = ctx.mcpReq.inputResponses ?? {};
    if (!answers.who || !answers.what || !answers.where) {
      const messages = [{ role: "user", content: { type: "text", text: "what is chill?" } }];
      return inputRequired({
        inputRequests: {
          who: ask("Who are you?"),
          what: inputRequired.createMessage({ messages, maxTokens: 16 }),
          where: inputRequired.listRoots(),
        },
        requestState: "three",
      });
    }
    const where = answers.where.roots.map((root) => root.uri);
    const what = [answers.what.content].flat()[0].text;
    return said(JSON.stringify({ who: answers.who.content, what, where, state: ctx.mcpReq.requestState() }));
  });

  server.registerTool("rounds", { inputSchema: z.object({ upto: z.number() }) }, ({ upto }, ctx) => {
    const names = JSON.parse(ctx.mcpReq.requestState() ?? "[]");
    const next = ctx.mcpReq.inputResponses?.next;
    if (next) names.push(next.action === "accept" ? next.content.name : next.action);
    if (names.length >= upto) return said(JSON.stringify(names));
    return inputRequired({
      inputRequests: { next: ask(`Number ${names.length + 1}?`) },
      requestState: JSON.stringify(names),
    });
  });

  server.registerTool("steps", { inputSchema: z.object({ count: z.number() }) }, async ({ count }, ctx) => {
    const progressToken = ctx.mcpReq._meta?.progressToken;
    for (let step = 1; step <= count; step += 1) {
      if (progressToken !== undefined) {
        const params = { progressToken, progress: step, total: count };
        await ctx.mcpReq.notify({ method: "notifications/progress", params });
      }
      await ctx.mcpReq.log("info", `step ${step}`);
      await pause(20);
    }
    return said("done");
  });

  server.registerTool("sleep", { inputSchema: z.object({ seconds: z.number() }) }, async ({ seconds }) => {
    await pause(seconds * 1000);
    return said("slept");
  });

  server.registerTool("pin", { inputSchema: z.object({ text: z.string() }) }, async ({ text }) => {
    board.text = text;
    await changed(server);
    return said("pinned");
  });

  server.registerResource("now", "board://now", {}, (uri) => ({ contents: [{ uri: uri.href, text: board.text }] }));
  const old = new ResourceTemplate("board://old/{day}", { list: undefined });
  server.registerResource("old", old, {}, (uri, { day }) => ({
    contents: [{ uri: uri.href, text: `nothing on ${day}` }],
  }));

  server.registerPrompt("ask_break", { argsSchema: z.object({ minutes: z.string() }) }, ({ minutes }) => ({
    messages: [{ role: "user", content: { type: "text", text: `May I take a break of ${minutes} minutes?` } }],
  }));
  return server;
}

if (values.http === undefined) {
  changed = async (server) => {
    await server.server.sendResourceUpdated({ uri: "board://now" });
    await server.sendToolListChanged();
  };
  serveStdio(make, { legacy: "reject" });
} else {
  const bus = new InMemoryServerEventBus();
  const handler = createMcpHandler(make, { legacy: "reject", bus });
  changed = async () => {
    handler.notify.resourceUpdated("board://now");
    handler.notify.toolsChanged();
  };
  createServer(toNodeHandler(handler)).listen(Number(values.http), "127.0.0.1");
}
