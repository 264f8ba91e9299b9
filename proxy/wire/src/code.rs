//! Every error code the gateway reads or writes, with the rule it comes from.
//!
//! Numbers live here so that nothing else spells one out. It never maps a failure to a code: that
//! table belongs to the gate.

/// Invalid JSON. JSON-RPC 2.0 section 5.1.
pub const PARSE_ERROR: i64 = -32700;
/// JSON that is not an acceptable message. JSON-RPC 2.0 section 5.1.
pub const INVALID_REQUEST: i64 = -32600;
/// No such method. JSON-RPC 2.0 section 5.1; HTTP 404 with it in 2026-07-28.
pub const METHOD_NOT_FOUND: i64 = -32601;
/// Bad params, unknown tool, missing `_meta` field. JSON-RPC 2.0 section 5.1; MCP `server/tools`.
pub const INVALID_PARAMS: i64 = -32602;
/// A failure inside. JSON-RPC 2.0 section 5.1.
pub const INTERNAL_ERROR: i64 = -32603;

/// Resource not found, 2024-11-05 to 2025-11-25; 2026-07-28 says [`INVALID_PARAMS`] instead.
pub const RESOURCE_NOT_FOUND: i64 = -32002;
/// The host must open a URL first (`data.elicitations`). 2025-11-25 only.
pub const URL_ELICITATION_REQUIRED: i64 = -32042;
/// A header is missing, or disagrees with the body. 2026-07-28 transports.
pub const HEADER_MISMATCH: i64 = -32020;
/// The client did not declare a capability (`data.requiredCapabilities`). 2026-07-28.
pub const MISSING_CLIENT_CAPABILITY: i64 = -32021;
/// The version is not spoken here (`data.supported`, `data.requested`). 2026-07-28 versioning.
pub const UNSUPPORTED_PROTOCOL_VERSION: i64 = -32022;
/// The user refused a sampling request; an example in the specification, used by legacy hosts.
pub const USER_REJECTED: i64 = -1;

/// Denied by policy. From here on chillgate's own: 2026-07-28 leaves the space outside
/// -32768..=-32000 to applications, and these read like the HTTP status they resemble.
pub const DENIED: i64 = 40300;
/// The host's own token is missing or does not do for a server that it has to be exchanged for.
pub const TOKEN: i64 = 40100;
/// A quota is spent (`data.retryAfterMs`).
pub const QUOTA: i64 = 42900;
/// Too many calls in flight.
pub const CONCURRENCY: i64 = 42901;
/// The server is not running or not reachable.
pub const SERVER_DOWN: i64 = 50300;
/// The audit log cannot be written, and calls must not pass without it.
pub const AUDIT_UNAVAILABLE: i64 = 50301;
/// The gateway is going down and takes no new calls.
pub const DRAINING: i64 = 50302;
/// The server is there but its queue is full.
pub const BUSY: i64 = 50303;
/// Another replica has what the request is about, and cannot be reached or has gone.
pub const REPLICA_DOWN: i64 = 50305;
/// The server did not answer in time.
pub const TIMEOUT: i64 = 50400;

#[cfg(test)]
mod tests {
    use super::*;

    ///
    #[test]
    fn our_own_codes_are_distinct_and_outside_the_reserved_space() {
        let mut own = [
            DENIED,
            TOKEN,
            QUOTA,
            CONCURRENCY,
            SERVER_DOWN,
            AUDIT_UNAVAILABLE,
            DRAINING,
            BUSY,
            REPLICA_DOWN,
            TIMEOUT,
        ];
        own.sort_unstable();
        assert!(own.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(own.iter().all(|code| !(-32768..=-32000).contains(code)));
    }
}
