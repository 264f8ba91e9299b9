//! Audit: one record when a call is admitted or refused, one when an admitted call ends.
//!
//! Outermost, so that it sees every refusal; and a call whose admission cannot be recorded does
//! not happen. It builds records; numbering, writing and chaining them is the sink's. Of several
//! audit policies only the first that matches a call is asked, so a call has one pair of records.

use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::engine::policy::code;
use crate::engine::record::{Budget, Client, Decision, Phase, Sizes, clipped};
use crate::engine::{
    Admitted, AuditDown, AuditSink, Call, Completion, Fields, KeyDoc, Kind, Outcome, Policy,
    Record, Rejection, Services, Stage, Verdict, Wrong,
};

pub mod redact;

/// `type = "audit"`.
pub const KIND: Kind = Kind {
    name: "audit",
    stage: Stage::Record,
    about: "records who did what, when, and what became of it",
    keys: &[
        KeyDoc::new(
            "arguments",
            "\"hash\" | \"redacted\" | \"full\" | \"none\"",
            "what is kept of arguments: a SHA-256; also their content without secrets and personal \
             data; without secrets; nothing. Default hash",
        ),
        KeyDoc::new(
            "arguments-limit",
            "\"4KiB\"",
            "larger arguments are kept as a hash only; default 4KiB, at most 1MiB",
        ),
    ],
    once: true,
    build,
};

/// Bounds of texts in a record, in bytes; together they keep a record without arguments under
/// 4 KiB.
const LONG: usize = 512;
const SHORT: usize = 128;

#[derive(Debug)]
struct Audit {
    name: Arc<str>,
    instance: Arc<str>,
    sink: Arc<dyn AuditSink>,
    arguments: Arguments,
    limit: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Arguments {
    None,
    #[default]
    Hash,
    Redacted,
    Full,
}

fn build(fields: &mut Fields<'_>, name: &Arc<str>, services: &Services) -> Option<Arc<dyn Policy>> {
    let choices = [
        ("hash", Arguments::Hash),
        ("redacted", Arguments::Redacted),
        ("full", Arguments::Full),
        ("none", Arguments::None),
    ];
    let arguments = fields.choice("arguments", &choices).unwrap_or_default();
    let limit = fields.size("arguments-limit").unwrap_or(4 << 10);
    if limit > 1 << 20 {
        let wrong = Wrong::new("a record cannot keep so much", "write at most \"1MiB\"");
        fields.wrong(Some("arguments-limit"), wrong);
    }
    let Some(sink) = &services.audit else {
        let help = "add [audit] with file = \"/var/log/chillgate/audit.jsonl\", or \"-\" for standard output";
        fields.wrong(
            None,
            Wrong::new("an audit policy needs somewhere to write", help),
        );
        return None;
    };
    let audit = Audit {
        name: Arc::clone(name),
        instance: Arc::clone(&services.instance),
        sink: Arc::clone(sink),
        arguments,
        limit: usize::try_from(limit).ok()?,
    };
    fields.clean().then(|| Arc::new(audit) as Arc<dyn Policy>)
}

impl Policy for Audit {
    fn stage(&self) -> Stage {
        KIND.stage
    }

    fn on_request(&self, _: &Call) -> Verdict {
        Verdict::Admit
    }

    fn on_admit(&self, call: &Call, admitted: &Admitted) -> Result<(), Rejection> {
        let written = self.write(call, Phase::Admit, |record| {
            record.delay_ms = millis(admitted.delayed);
            record.held = admitted.held;
            record.levels = admitted.levels;
            record.quota = admitted.metered.as_ref().map(|(policy, metered)| Budget {
                policy,
                limit: metered.limit,
                remaining: metered.remaining,
                reset_s: metered.reset.as_secs(),
            });
        });
        written.map_err(|down| {
            let message = down.to_string();
            Rejection::new(
                &self.name,
                KIND.name,
                "audit_down",
                code::AUDIT_DOWN,
                message,
            )
        })
    }

    fn on_refuse(&self, call: &Call, rejection: &Rejection) {
        // Nothing is left to refuse: the sink counts the loss.
        let _lost = self.write(call, Phase::Refuse, |record| {
            record.delay_ms = rejection.waited_ms.into();
            record.decision = Some(Decision {
                policy: &rejection.policy,
                kind: rejection.kind,
                effect: "refuse",
                reason: rejection.reason,
                code: rejection.code,
            });
        });
    }

    fn on_complete(&self, call: &Call, completion: &Completion) {
        let cause = completion
            .cause
            .as_deref()
            .map(|cause| clipped(cause, SHORT));
        let _lost = self.write(call, Phase::Done, |record| {
            record.outcome = Some(completion.outcome.as_str());
            if let Outcome::RpcError(code) = completion.outcome {
                record.rpc_code = Some(code);
            }
            record.cause = cause;
            record.duration = Some(completion.duration);
            record.delay_ms = millis(completion.delay);
            record.bytes.outward = completion.bytes_out;
            record.levels = completion.levels;
        });
    }

    fn summary(&self) -> String {
        match self.arguments {
            Arguments::None => "records each call without its arguments".into(),
            Arguments::Hash => "records each call with a SHA-256 of its arguments".into(),
            Arguments::Redacted => {
                "records each call and its arguments without secrets and personal data".into()
            }
            Arguments::Full => "records each call and its arguments without secrets".into(),
        }
    }
}

impl Audit {
    fn write<'a>(
        &'a self,
        call: &'a Call,
        phase: Phase,
        fill: impl FnOnce(&mut Record<'a>),
    ) -> Result<(), AuditDown> {
        let context = &*call.context;
        let target = call
            .target
            .as_deref()
            .map(|target| redact::secrets_in(clipped(target, LONG)));
        let id = call
            .id
            .as_deref()
            .and_then(|id| std::str::from_utf8(id).ok());
        let kept = match phase {
            Phase::Done => Kept::default(),
            Phase::Admit | Phase::Refuse => self.keep(call),
        };
        // What stands once in a session's first record is not said again with every call.
        let introduces =
            phase != Phase::Done && (context.session.is_none() || &*call.method == "initialize");
        let mut record = Record {
            v: 1,
            instance: &self.instance,
            phase,
            era: (phase != Phase::Done).then_some(context.era),
            transport: (phase != Phase::Done).then_some(context.transport),
            session: context
                .session
                .as_deref()
                .map(|session| clipped(session, SHORT)),
            agent: clipped(&call.agent, LONG),
            client: context
                .client
                .as_ref()
                .filter(|_| introduces)
                .map(|(name, version)| Client {
                    name: clipped(name, SHORT),
                    version: clipped(version, SHORT),
                    addr: context.peer.as_deref().map(|peer| clipped(peer, SHORT)),
                }),
            server: clipped(&call.server, SHORT),
            method: clipped(&call.method, SHORT),
            tool: None,
            id: id.map(|id| clipped(id, SHORT)),
            args_sha256: None,
            args: None,
            args_dropped: kept.dropped,
            decision: None,
            quota: None,
            delay_ms: 0,
            held: false,
            outcome: None,
            cause: None,
            rpc_code: None,
            duration: None,
            bytes: Sizes {
                inward: call.bytes_in,
                outward: 0,
            },
            levels: None,
        };
        fill(&mut record);
        let record = Record {
            tool: target.as_deref(),
            args_sha256: kept
                .hash
                .as_ref()
                .and_then(|hash| std::str::from_utf8(hash).ok()),
            args: kept.value.as_ref(),
            ..record
        };
        self.sink.append(&record)
    }

    /// What the policy keeps of the arguments.
    fn keep(&self, call: &Call) -> Kept {
        let Some(bytes) = call.arguments.as_deref() else {
            return Kept::default();
        };
        if self.arguments == Arguments::None {
            return Kept::default();
        }
        let hash = Some(hex(&Sha256::digest(bytes)));
        if self.arguments == Arguments::Hash {
            return Kept {
                hash,
                ..Kept::default()
            };
        }
        let value = if bytes.len() <= self.limit {
            serde_json::from_slice(bytes).ok()
        } else {
            None
        };
        let value = value.map(|mut value: Value| {
            redact::secrets(&mut value);
            if self.arguments == Arguments::Redacted {
                redact::personal(&mut value);
            }
            value
        });
        Kept {
            hash,
            dropped: value.is_none(),
            value,
        }
    }
}

#[derive(Default)]
struct Kept {
    hash: Option<[u8; 64]>,
    value: Option<Value>,
    dropped: bool,
}

fn hex(digest: &[u8]) -> [u8; 64] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'0'; 64];
    for (pair, byte) in text.chunks_exact_mut(2).zip(digest) {
        if let [high, low] = pair {
            *high = DIGITS[usize::from(byte >> 4)];
            *low = DIGITS[usize::from(byte & 15)];
        }
    }
    text
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
