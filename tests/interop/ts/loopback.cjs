// Keeps a Node server on loopback: listening without a host means 127.0.0.1 here, not every
// address. Required through NODE_OPTIONS; it stands apart because the servers are not ours to edit.
"use strict";
const net = require("node:net");
const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  if (typeof args[0] === "string" || typeof args[0] === "number") {
    if (typeof args[1] === "function" || args[1] === undefined) args.splice(1, 0, "127.0.0.1");
  } else if (args[0] && typeof args[0] === "object" && "port" in args[0] && !args[0].host) {
    args[0] = { ...args[0], host: "127.0.0.1" };
  }
  return listen.apply(this, args);
};
