// A small world of its own, for a network namespace: names that lead to near addresses, an issuer and
// MCP servers that send their clients there, and whoever is found there.
//
// Nothing of it is reached from outside. It takes a folder: `rows.json` there says what each path
// answers, `asked` gets a line for each path that was asked, `hits` one for each address reached.
import { generateKeyPairSync } from "node:crypto";
import { createSocket } from "node:dgram";
import { appendFileSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";

const folder = process.argv[2];
const { rows, names } = JSON.parse(readFileSync(join(folder, "rows.json"), "utf8"));
const key = { ...generateKeyPairSync("ec", { namedCurve: "P-256" }).publicKey.export({ format: "jwk" }), alg: "ES256", kid: "k" };
const jwks = JSON.stringify({ keys: [key] });

// The issuer and the servers: what each path answers is a row's to say.
createServer((request, response) => {
  const { pathname } = new URL(request.url, "http://issuer");
  appendFileSync(join(folder, "asked"), `${request.method} ${pathname}\n`);
  const { status = 200, headers = {}, body = "" } = rows[pathname] ?? { status: 404 };
  response.writeHead(status, headers);
  if (headers["content-type"] === "text/event-stream") return response.write(body);
  response.end(body || (pathname.startsWith("/own") ? jwks : ""));
}).listen(7001, "127.0.0.1");

// Whoever is near: all addresses there are.
const near = createServer((_request, response) => response.end(jwks));
near.on("connection", (socket) => appendFileSync(join(folder, "hits"), `${socket.localAddress}\n`));
near.listen(7002, "::");

// Names: one answer after another, the last one for good.
const turns = new Map();
const dns = createSocket("udp4");
dns.on("message", (question, from) => {
  let at = 12;
  const labels = [];
  for (let length = question[at]; length; at += length + 1, length = question[at]) labels.push(question.subarray(at + 1, at + 1 + length).toString());
  const type = question.readUInt16BE(at + 1);
  const name = labels.join(".").toLowerCase();
  const answers = names[name];
  const turn = turns.get(`${name} ${type}`) ?? 0;
  turns.set(`${name} ${type}`, turn + 1);
  const all = (answers?.[Math.min(turn, answers.length - 1)] ?? []).filter((ip) => (ip.includes(":") ? 28 : 1) === type);
  const head = Buffer.from(question.subarray(0, at + 5));
  head.writeUInt16BE(answers ? 0x8580 : 0x8583, 2);
  head.writeUInt16BE(all.length, 6);
  head.fill(0, 8, 12);
  const records = all.map((ip) => {
    const bytes = type === 1 ? Buffer.from(ip.split(".").map(Number)) : Buffer.from(ip.replaceAll(":", ""), "hex");
    const record = Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 0, 0, bytes.length]);
    return Buffer.concat([record, bytes]);
  });
  dns.send(Buffer.concat([head, ...records]), from.port, from.address);
});
dns.bind(53, "127.0.0.1");
