// An issuer of signed tokens, made with `jose`: keys, metadata, and whatever token a test asks for,
// also those that no honest issuer would make.
//
// It prints its address on the first line of standard output and ends with its standard input.
import { createHmac, sign as rawSign } from "node:crypto";
import { createServer } from "node:http";
import { SignJWT, base64url, calculateJwkThumbprint, exportJWK, exportSPKI, generateKeyPair, jwtVerify } from "jose";

const made = {};
for (const [name, alg] of [["rsa", "RS256"], ["ec", "ES256"], ["ed", "EdDSA"], ["pss", "PS256"], ["next", "RS256"], ["stranger", "RS256"], ["p384", "ES384"]]) {
  const pair = await generateKeyPair(alg, { extractable: true });
  const jwk = await exportJWK(pair.publicKey);
  made[name] = { alg, ...pair, jwk, kid: `${name}-${(await calculateJwkThumbprint(jwk)).slice(0, 8)}` };
}

let published = ["rsa", "ec", "ed", "pss", "p384"];
let mode = "ok";
let gone = [];
const asked = { "/jwks": 0, "/evil": 0, metadata: 0, reviews: 0, tokens: 0, exchanges: 0 };
let unwilling = [];
let delay = 0;
let wrong = 0;
let lasts = 600;

const accessToken = "urn:ietf:params:oauth:token-type:access_token";

// `bare` keys say nothing of their algorithm.
const keys = (bare) => published.map((name) => {
  const { jwk, alg, kid } = made[name];
  return bare ? { ...jwk, kid } : { ...jwk, kid, alg, use: "sig" };
});

// Signs with the key `key` as `how` says, whatever the header says.
async function forge({ key, header, claims, how }) {
  const signer = made[key ?? "rsa"];
  const full = { alg: signer.alg, kid: signer.kid, typ: "JWT", ...header };
  for (const name of Object.keys(full)) if (full[name] === null) delete full[name];
  const signed = `${base64url.encode(JSON.stringify(full))}.${base64url.encode(JSON.stringify(claims))}`;
  if (how === "honest" || how === undefined) {
    return new SignJWT(claims).setProtectedHeader(full).sign(signer.privateKey);
  }
  if (how === "none") return `${signed}.`;
  if (how === "as-is") {
    const dsa = signer.alg.startsWith("ES") ? { dsaEncoding: "ieee-p1363" } : {};
    const digest = signer.alg === "EdDSA" ? null : "sha256";
    return `${signed}.${rawSign(digest, Buffer.from(signed), { key: signer.privateKey, ...dsa }).toString("base64url")}`;
  }
  // Shared secrets that are no secret: the public key in any of its spellings.
  const spki = await exportSPKI(signer.publicKey);
  const secret = {
    pem: spki,
    "pem-trimmed": spki.trim(),
    jwk: JSON.stringify(signer.jwk),
    n: signer.jwk.n ?? signer.jwk.x,
    "n-raw": base64url.decode(signer.jwk.n ?? signer.jwk.x),
    empty: "",
  }[how];
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}

const server = createServer(async (request, response) => {
  let body = "";
  for await (const chunk of request) body += chunk;
  const reply = (value, status = 200) => {
    response.writeHead(status, { "content-type": "application/json" });
    response.end(typeof value === "string" ? value : JSON.stringify(value));
  };
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const { pathname } = new URL(request.url, issuer);
  if (pathname in asked) asked[pathname] += 1;
  switch (pathname) {
    case "/jwks":
      if (mode === "down") return reply({ error: "down" }, 503);
      if (mode === "slow") return setTimeout(() => reply({ keys: keys(false) }), 60_000).unref();
      if (mode === "poisoned") return reply({ keys: [{ kty: "oct", k: "c2VjcmV0", kid: made.rsa.kid, alg: "HS256" }, { kty: "RSA" }, 7] });
      if (mode === "garbage") return reply("<html>");
      return reply({ keys: keys(mode === "bare") });
    case "/.well-known/openid-configuration":
      asked.metadata += 1;
      return reply({ issuer: mode === "liar" ? "https://other.example" : issuer, jwks_uri: `${issuer}/jwks` });
    case "/sign":
      return reply(await forge(JSON.parse(body)));
    case "/set": {
      const set = JSON.parse(body);
      mode = set.mode ?? mode;
      published = set.published ?? published;
      gone = set.gone ?? gone;
      wrong = set.wrong ?? wrong;
      lasts = set.lasts ?? lasts;
      unwilling = set.unwilling ?? unwilling;
      delay = set.delay ?? delay;
      return reply({});
    }
    // Client credentials: a token for whatever resource is asked for, by whoever knows the secret; and
    // the same for the subject of another token (RFC 8693), unless that is one of the `unwilling`.
    case "/token": {
      asked.tokens += 1;
      if (delay) await new Promise((done) => setTimeout(done, delay));
      const form = new URLSearchParams(body);
      const [id, secret] = Buffer.from((request.headers.authorization ?? "").replace("Basic ", ""), "base64").toString().split(":")
        .map((half) => decodeURIComponent(half.replaceAll("+", " ")));
      if (id !== "gate way" || secret !== "s3cret:%+ü") return reply({ error: "invalid_client", error_description: "no such client" }, 401);
      if (form.get("grant_type") === "urn:ietf:params:oauth:grant-type:token-exchange") {
        asked.exchanges += 1;
        if (mode === "down") return reply("<html>", 502);
        const subject = form.get("subject_token");
        if (mode === "echo") return reply({ access_token: subject, token_type: "Bearer", issued_token_type: accessToken, expires_in: lasts });
        if (mode === "saml") return reply({ access_token: "x", token_type: "Bearer", issued_token_type: "urn:ietf:params:oauth:token-type:saml2", expires_in: lasts });
        const known = Object.fromEntries(Object.values(made).map((one) => [one.kid, one.publicKey]));
        const read = await jwtVerify(subject, ({ kid }) => known[kid], { issuer, audience: "chillgate" }).catch((error) => error);
        const isWilling = read.payload && !unwilling.includes(read.payload.sub) && form.get("subject_token_type") === accessToken;
        // Some quote what they were shown.
        if (!isWilling) return reply({ error: "invalid_grant", error_description: `not ${subject}` }, 400);
        const audience = wrong-- > 0 ? "another" : form.get("resource");
        const claims = { iss: issuer, aud: audience, sub: read.payload.sub, act: { sub: id }, scope: form.get("scope") ?? "", exp: Math.floor(Date.now() / 1000) + 600, jti: String(asked.tokens) };
        return reply({ access_token: await forge({ claims }), token_type: "Bearer", issued_token_type: accessToken, expires_in: lasts });
      }
      if (form.get("grant_type") !== "client_credentials") return reply({ error: "unsupported_grant_type" }, 400);
      if (mode === "down") return reply("<html>", 502);
      const audience = wrong-- > 0 ? "another" : form.get("resource");
      const claims = { iss: issuer, aud: audience, sub: id, scope: form.get("scope") ?? "", exp: Math.floor(Date.now() / 1000) + 600, jti: String(asked.tokens) };
      return reply({ access_token: await forge({ claims }), token_type: "bearer", expires_in: lasts });
    }
    // As a Kubernetes API server reviews tokens: `gone` are of pods that are no more.
    case "/apis/authentication.k8s.io/v1/tokenreviews": {
      asked.reviews += 1;
      if (mode === "down") return reply({ error: "down" }, 503);
      if (request.headers.authorization !== "Bearer own-token") return reply({ error: "unauthorized" }, 401);
      const { spec } = JSON.parse(body);
      const known = Object.fromEntries(Object.values(made).map((one) => [one.kid, one.publicKey]));
      const status = await jwtVerify(spec.token, ({ kid }) => known[kid], { audience: spec.audiences }).then(
        // Of one that is gone it still tells whose the token was.
        ({ payload }) => ({ authenticated: !gone.includes(payload.sub),
          audiences: [payload.aud].flat().filter((one) => spec.audiences.includes(one)),
          user: { username: payload.sub, uid: "1", groups: ["system:serviceaccounts", ...(payload.groups ?? [])] } }),
        (error) => ({ authenticated: false, error: error.message }),
      );
      return reply({ apiVersion: "authentication.k8s.io/v1", kind: "TokenReview", spec, status }, 201);
    }
    case "/asked":
      return reply(asked);
    default:
      return reply({ error: "not found" }, 404);
  }
});
server.listen(0, "127.0.0.1", () => console.log(`http://127.0.0.1:${server.address().port}`));
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
