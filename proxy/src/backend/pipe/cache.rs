//! What a server of 2026-07-28 said may be kept, for as long as it said (caching).
//!
//! Lists and resources, whole answers by what was asked for: one that is `public` for everybody,
//! one that is `private` for the agent who asked alone (R-089). Gone when the server tells of a
//! change, when nobody hears it tell, and with the server itself. It asks nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chillgate_wire::{Envelope, json, method};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use crate::era::rounds;
use crate::lock::locked;

/// Answers and bytes that are kept of one server.
const MOST: usize = 256;
const MOST_BYTES: usize = 8 << 20;
/// No answer is kept for longer, whatever its server says.
const LONGEST: Duration = Duration::from_hours(1);

/// Answers of one server.
#[derive(Debug, Default)]
pub struct Cache(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    answers: HashMap<Key, Entry>,
    bytes: usize,
    /// Counts changes: an answer from before one is not kept after it.
    changes: u64,
}

/// What was asked for, and by whom where that matters.
type Key = (Sought, Option<Arc<str>>);

#[derive(Debug)]
struct Entry {
    answer: Envelope,
    since: Instant,
    until: Instant,
}

/// A request whose answer may be kept: its method, and a digest of its `params` without `_meta`
/// and of what its host declares, which servers may look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Sought(&'static str, [u8; 32]);

/// Whether a request asks for something whose answer may be kept (R-088).
pub fn may_be_kept(request: &Envelope) -> bool {
    let name = request.method().unwrap_or_default();
    method::is_list(name).is_some() || name == "resources/read"
}

impl Sought {
    /// What the request asks for, if the answer may be kept at all (R-088, R-090).
    pub fn of(request: &Envelope, capabilities: &[u8]) -> Option<Self> {
        let name = method::known(request.method()?)?;
        if !may_be_kept(request) {
            return None;
        }
        let params = request.params().unwrap_or(b"{}");
        let is_retry = [rounds::STATE, rounds::RESPONSES]
            .iter()
            .any(|member| json::member(params, member).is_some());
        (!is_retry).then(|| {
            let mut digest = Sha256::new();
            for part in [&*json::without(params, "_meta"), capabilities] {
                digest.update((part.len() as u64).to_be_bytes());
                digest.update(part);
            }
            Self(name, digest.finalize().into())
        })
    }
}

impl Cache {
    /// How many changes there have been; an answer is kept only if there are no more by then.
    pub fn changes(&self) -> u64 {
        locked(&self.0).changes
    }

    /// The answer to what `agent` asks, under any id, with what is left of its time.
    pub fn get(&self, asked: &Sought, agent: &Arc<str>) -> Option<Envelope> {
        let kept = locked(&self.0);
        let of = |agent| kept.answers.get(&(asked.clone(), agent));
        let entry = of(None).or_else(|| of(Some(agent.clone())))?;
        let left = entry.until.checked_duration_since(Instant::now())?;
        if left.is_zero() {
            return None;
        }
        let mut edit = entry.answer.edit();
        let left = left.as_millis().to_string().into_bytes();
        edit.set(&["result", "ttlMs"], left);
        Some(edit.finish())
    }

    /// Keeps an answer for as long as it says; `changes` is from before it was asked for.
    pub fn keep(&self, asked: Sought, agent: &Arc<str>, changes: u64, answer: &Envelope) {
        let is_whole = answer.text(&["result", "resultType"]).as_deref() == Some("complete");
        let ttl = answer.get(&["result", "ttlMs"]).and_then(json::integer);
        let ttl = ttl.and_then(|ms| u64::try_from(ms).ok()).unwrap_or(0);
        let (true, 1..) = (is_whole, ttl) else {
            return;
        };
        let scope = answer.text(&["result", "cacheScope"]);
        // Anything but `public` is nobody else's.
        let agent = (scope.as_deref() != Some("public")).then(|| agent.clone());
        let now = Instant::now();
        let entry = Entry {
            // A copy: a slice would keep the whole read buffer alive.
            answer: answer.with_id(b"0"),
            since: now,
            until: now + Duration::from_millis(ttl).min(LONGEST),
        };
        let mut kept = locked(&self.0);
        if kept.changes != changes || answer.raw().len() > MOST_BYTES / 4 {
            return;
        }
        kept.bytes += entry.answer.raw().len();
        if let Some(old) = kept.answers.insert((asked, agent), entry) {
            kept.bytes -= old.answer.raw().len();
        }
        while kept.answers.len() > MOST || kept.bytes > MOST_BYTES {
            let oldest = kept.answers.iter().min_by_key(|(_, entry)| entry.since);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                return;
            };
            if let Some(old) = kept.answers.remove(&oldest) {
                kept.bytes -= old.answer.raw().len();
            }
        }
    }

    /// The server tells of a change: what it is about is void.
    pub fn change(&self, note: &Envelope) {
        let changed = note.method().unwrap_or_default();
        if changed == "notifications/resources/updated" {
            return self.forget(|asked| asked.0 == "resources/read");
        }
        // A new list of resources may mean new templates and other contents.
        let list = changed
            .strip_prefix("notifications/")
            .and_then(|rest| rest.strip_suffix("/list_changed"))
            .unwrap_or_default();
        self.forget(|asked| asked.0.split('/').next() == Some(list));
    }

    /// Nobody heard the server for a while.
    pub fn clear(&self) {
        self.forget(|_| true);
    }

    fn forget(&self, is_void: impl Fn(&Sought) -> bool) {
        let mut kept = locked(&self.0);
        kept.changes += 1;
        let Kept { answers, bytes, .. } = &mut *kept;
        answers.retain(|(asked, _), entry| {
            let stays = !is_void(asked);
            if !stays {
                *bytes -= entry.answer.raw().len();
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use chillgate_wire::Limits;

    use super::*;

    fn message(raw: &str) -> Envelope {
        Envelope::parse(Bytes::copy_from_slice(raw.as_bytes()), &Limits::default())
            .expect("a message")
    }

    fn asked(method: &str, params: &str) -> Option<Sought> {
        let raw = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        Sought::of(&message(&raw), b"{}")
    }

    fn answer(scope: &str, ttl: i64) -> Envelope {
        message(&format!(
            r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"complete","tools":[],"ttlMs":{ttl},"cacheScope":"{scope}"}}}}"#
        ))
    }

    fn agents() -> (Arc<str>, Arc<str>) {
        (Arc::from("mina"), Arc::from("eve"))
    }

    /// R-090.
    #[test]
    fn only_lists_and_resources_that_are_no_retries_are_kept() {
        for (method, params, may) in [
            ("tools/list", "{}", true),
            ("resources/read", r#"{"uri":"a:b"}"#, true),
            ("tools/call", r#"{"name":"t"}"#, false),
            ("prompts/get", r#"{"name":"t"}"#, false),
            (
                "resources/read",
                r#"{"uri":"a:b","requestState":"s"}"#,
                false,
            ),
            (
                "resources/read",
                r#"{"uri":"a:b","inputResponses":{}}"#,
                false,
            ),
            ("x/list", "{}", false),
        ] {
            assert_eq!(asked(method, params).is_some(), may, "{method} {params}");
        }
        let pages = (
            asked("tools/list", r#"{"_meta":{"a":1},"cursor":"1"}"#),
            asked("tools/list", r#"{"cursor":"1","_meta":{"b":2}}"#),
        );
        assert_eq!(pages.0, pages.1, "what is asked for is the same");
        assert_ne!(pages.0, asked("tools/list", "{}"));
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        let of = |capabilities: &[u8]| Sought::of(&message(list), capabilities);
        assert_ne!(
            of(b"{}"),
            of(br#"{"elicitation":{}}"#),
            "servers may tell them apart"
        );
    }

    /// R-089.
    #[tokio::test(start_paused = true)]
    async fn what_is_private_is_its_agents_and_nothing_outlives_its_time() {
        let cache = Cache::default();
        let (mina, eve) = agents();
        let list = asked("tools/list", "{}").expect("a list");
        cache.keep(list.clone(), &mina, 0, &answer("private", 5000));
        assert!(cache.get(&list, &eve).is_none());
        tokio::time::advance(Duration::from_secs(2)).await;
        let left = cache.get(&list, &mina).expect("kept");
        assert_eq!(left.get(&["result", "ttlMs"]), Some(&b"3000"[..]));
        tokio::time::advance(Duration::from_millis(3001)).await;
        assert!(cache.get(&list, &mina).is_none());
        cache.keep(list.clone(), &mina, 0, &answer("public", 5000));
        assert!(cache.get(&list, &eve).is_some());
        cache.clear();
        for (scope, ttl) in [("public", 0), ("public", -1)] {
            cache.keep(list.clone(), &mina, 1, &answer(scope, ttl));
            assert!(cache.get(&list, &mina).is_none(), "{scope} {ttl}");
        }
    }

    #[test]
    fn a_change_voids_what_it_is_about_and_what_is_on_its_way() {
        let cache = Cache::default();
        let (mina, _) = agents();
        let note = |method: &str| message(&format!(r#"{{"jsonrpc":"2.0","method":"{method}"}}"#));
        let (tools, read) = (
            asked("tools/list", "{}").expect("a list"),
            asked("resources/read", r#"{"uri":"a:b"}"#).expect("a resource"),
        );
        for asked in [&tools, &read] {
            cache.keep(asked.clone(), &mina, 0, &answer("public", 5000));
        }
        let before = cache.changes();
        cache.change(&note("notifications/tools/list_changed"));
        assert!(cache.get(&tools, &mina).is_none());
        assert!(cache.get(&read, &mina).is_some());
        cache.keep(tools.clone(), &mina, before, &answer("public", 5000));
        assert!(cache.get(&tools, &mina).is_none(), "from before the change");
        cache.change(&note("notifications/resources/updated"));
        assert!(cache.get(&read, &mina).is_none());
    }

    #[test]
    fn no_more_is_kept_than_fits() {
        let cache = Cache::default();
        let (mina, _) = agents();
        for at in 0..2 * MOST {
            let page = asked("tools/list", &format!(r#"{{"cursor":"{at}"}}"#)).expect("a page");
            cache.keep(page, &mina, 0, &answer("public", 5000));
        }
        assert_eq!(locked(&cache.0).answers.len(), MOST);
        let bytes: usize = locked(&cache.0)
            .answers
            .values()
            .map(|entry| entry.answer.raw().len())
            .sum();
        assert_eq!(locked(&cache.0).bytes, bytes);
    }
}
