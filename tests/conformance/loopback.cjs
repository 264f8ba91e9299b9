// Keeps the suite's mock servers on loopback: they would listen on every address. Required through
// NODE_OPTIONS. It stands apart from the interop tests' file of that name because these servers ask
// for their port in the same breath, and listening on a named host takes a moment longer: so the
// address is bound at once, the way Node does it where no host is given. It changes nothing else.
"use strict";
const net = require("node:net");
const BACKLOG = 511; // Node's own
net.Server.prototype.listen = function (port, ...rest) {
  const then = rest.pop();
  if (typeof port !== "number" || rest.length || (then && typeof then !== "function")) {
    throw new Error("the conformance suite listens in a way that is not known here");
  }
  if (then) this.once("listening", then);
  this._listen2("127.0.0.1", port, 4, BACKLOG);
  return this;
};
