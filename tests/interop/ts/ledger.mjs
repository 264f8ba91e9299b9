// An MCP server over HTTP that keeps every byte of every request that reaches it, in whichever of three
// transports: `/mcp` is Streamable HTTP of the older eras, `/modern` of 2026-07-28, `/sse` HTTP+SSE.
//
// It judges nothing, but for subjects that it was told to refuse. It prints its address on the first
// line of standard output and ends with its standard input; `/kept` gives what it has kept.
import { createServer } from "node:http";

const kept = [];
const streams = new Map();
let refused = [];
let next = 1;

const tools = [{ name: "echo", description: "e", inputSchema: { type: "object", properties: { message: { type: "string" } } } }];
const info = { name: "ledger", version: "1" };
const result = ({ method, params }, isModern) => ({
  "initialize": () => ({ protocolVersion: "2025-06-18", capabilities: { tools: {} }, serverInfo: info }),
  "server/discover": () => ({ supportedVersions: ["2026-07-28"], capabilities: { tools: {} }, serverInfo: info, ttlMs: 0, cacheScope: "private" }),
  "tools/list": () => ({ tools, ...(isModern ? { ttlMs: 0, cacheScope: "private" } : {}) }),
  "tools/call": () => ({ content: [{ type: "text", text: params?.arguments?.message ?? "" }] }),
  "ping": () => ({}),
})[method];

function answer(message, isModern) {
  const known = result(message, isModern);
  const head = { jsonrpc: "2.0", id: message.id };
  if (!known) return { ...head, error: { code: -32601, message: "Method not found" } };
  return { ...head, result: { ...known(), ...(isModern ? { resultType: "complete" } : {}) } };
}

const subject = (headers) => {
  const claims = (headers.authorization ?? "").split(".")[1];
  return claims && JSON.parse(Buffer.from(claims, "base64url").toString()).sub;
};

const server = createServer(async (request, response) => {
  let body = "";
  for await (const chunk of request) body += chunk;
  const { pathname, searchParams } = new URL(request.url, "http://ledger");
  const reply = (value, status = 200, headers = {}) => {
    response.writeHead(status, { "content-type": "application/json", ...headers });
    response.end(value === undefined ? "" : JSON.stringify(value));
  };
  if (pathname === "/kept") return reply(kept);
  if (pathname === "/set") {
    refused = JSON.parse(body).refused ?? refused;
    return reply({});
  }
  kept.push({ path: pathname, method: request.method, url: request.url, head: request.rawHeaders, body });
  if (refused.includes(subject(request.headers))) {
    return reply({ error: "invalid_token" }, 401, { "www-authenticate": "Bearer realm=\"ledger\"" });
  }
  if (pathname === "/sse" && request.method === "GET") {
    const id = String(next++);
    response.writeHead(200, { "content-type": "text/event-stream" });
    response.write(`event: endpoint\ndata: /messages?id=${id}\n\n`);
    streams.set(id, response);
    return request.on("close", () => streams.delete(id));
  }
  if (request.method === "DELETE") return reply(undefined);
  if (request.method !== "POST") return reply({ error: "POST" }, 405);
  const message = JSON.parse(body);
  if (pathname === "/messages") {
    reply(undefined, 202);
    const said = message.id !== undefined && message.method && answer(message, false);
    if (said) streams.get(searchParams.get("id"))?.write(`event: message\ndata: ${JSON.stringify(said)}\n\n`);
    return;
  }
  if (message.id === undefined || !message.method) return reply(undefined, 202);
  const isModern = pathname === "/modern";
  const session = message.method === "initialize" ? { "mcp-session-id": `s-${next++}` } : {};
  return reply(answer(message, isModern), 200, session);
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
