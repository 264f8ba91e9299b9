//! The store that replicas share: budgets and boss alerts in Redis or Valkey.
//!
//! One more [`Ledger`]: policies do not know which one they count in. Each operation is one script
//! that runs on the server, by the server's clock, on keys of one policy, which are in one slot of a
//! cluster. What becomes of a call while the store is away is the policies' matter; nothing here
//! decides it, and nothing waits for longer than `state.timeout`.
//!
//! Keys are `PREFIX:1:{POLICY}:q:NAME:KEY` for budgets, `…:b:…` for boss alerts, and
//! `PREFIX:1:{replicas}:…` for where replicas meet; 1 is the version of what stands in them, which
//! `take.lua`, `raise.lua` and `meet.lua` describe.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chillgate_policies::engine::allow::Period;
use chillgate_policies::engine::boss::{Reading, Settings, TOP};
use chillgate_policies::engine::clock::Clock;
use chillgate_policies::engine::ledger::{Bucket, Draw, Ledger, LedgerDown, Limit, Reply, Take};
use redis::Script;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::lock::locked;
use crate::map::Map;

mod handles;
mod link;
pub mod list;
mod meeting;
mod memo;
mod revoked;
mod target;

pub use handles::Handed;
pub use link::{Link, StoreDown};
pub use meeting::{Meeting, Present};
use memo::Memo;
pub use revoked::Revoked;
pub use target::{StoreError, Target};

static TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("store/take.lua")));
static RAISE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("store/raise.lua")));

/// The version of what stands in the keys.
const VERSION: u32 = 1;

/// Units in which a share is counted where it is short, for each microsecond: nanoseconds.
const FINE: u64 = 1_000;
/// A share from here on, in nanoseconds, is counted in whole microseconds: so all numbers stay below
/// the 2^53 up to which a script's are exact, and the rate at most a thousandth below what is written.
const COARSE: u64 = 1_000_000;

/// Counters that replicas share.
#[derive(Debug)]
pub struct SharedLedger(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Link,
    memo: Memo,
    prefix: String,
    clock: Arc<dyn Clock>,
    /// The server's clock less this machine's, in microseconds, as of its last answer.
    ahead: AtomicI64,
    /// The smallest share that was left of any budget of a policy when it was last used.
    left: Mutex<Map<Arc<str>, f64>>,
    tasks: TaskTracker,
}

/// A budget as the script is told of it.
#[derive(Clone, Debug)]
struct Drawn {
    key: String,
    bucket: Bucket,
    limit: Limit,
    n: u64,
    keep: u64,
}

/// How long what was taken ahead is good for, at most.
const AHEAD: Duration = Duration::from_mins(1);
/// Of a budget that need not be exact a replica takes up to this part ahead, with a call.
const PART: u64 = 100;

impl SharedLedger {
    /// Counters behind this link, under keys that begin with `prefix`. What nobody waits for is done
    /// by `tasks`.
    pub fn new(link: Link, prefix: &str, clock: Arc<dyn Clock>, tasks: TaskTracker) -> Self {
        Self(Arc::new(Inner {
            link,
            memo: Memo::default(),
            prefix: prefix.to_owned(),
            clock,
            ahead: AtomicI64::new(0),
            left: Mutex::default(),
            tasks,
        }))
    }

    /// The link to the store.
    pub fn link(&self) -> &Link {
        &self.0.link
    }

    /// The smallest share that was left of any budget of a policy when this replica last used one.
    pub fn left(&self, policy: &str) -> Option<f64> {
        locked(&self.0.left).get(policy).copied()
    }
}

impl Inner {
    fn key(&self, sort: char, bucket: &Bucket) -> String {
        let (policy, name) = (bucket.policy(), &bucket.name);
        let key = bucket.key.to_text();
        format!("{}:{VERSION}:{{{policy}}}:{sort}:{name}:{key}", self.prefix)
    }

    fn owned(&self, draws: &[Draw<'_>]) -> Vec<Drawn> {
        let owned = draws.iter().map(|draw| Drawn {
            key: self.key('q', &draw.bucket),
            bucket: draw.bucket.clone(),
            limit: draw.limit.clone(),
            n: draw.n,
            keep: draw.keep,
        });
        owned.collect()
    }

    /// What the calendar says at the server, as far as that is known.
    fn now(&self) -> SystemTime {
        let ahead = self.ahead.load(Ordering::Relaxed);
        let off = Duration::from_micros(ahead.unsigned_abs());
        let wall = self.clock.wall();
        if ahead < 0 { wall - off } else { wall + off }
    }

    fn note_time(&self, server: i64) {
        let own = micros_since_epoch(self.clock.wall());
        self.ahead.store(server - own, Ordering::Relaxed);
    }

    async fn draw(
        &self,
        what: &'static str,
        draws: &[Drawn],
        patience: Duration,
    ) -> Result<Take, LedgerDown> {
        // A window that is not the server's own is put right with the time that it answers.
        for _ in 0..2 {
            let now = self.now();
            let mut asking = TAKE.prepare_invoke();
            asking.arg(what).arg(micros(patience));
            for draw in draws {
                asking.key(&draw.key);
                for argument in arguments(draw, now) {
                    asking.arg(argument);
                }
            }
            let answer: [i64; 7] = self.link.ask(what, &asking).await?;
            let [granted, .., server] = answer;
            self.note_time(server);
            if granted >= 0 {
                let take = take_of(answer);
                self.note_left(draws, &take);
                return Ok(take);
            }
        }
        Err(LedgerDown(
            "its clock and this machine's do not agree on the date".to_owned(),
        ))
    }

    /// Takes for a call, and where that need not be exact some more for those that come.
    async fn take(
        &self,
        draws: Vec<Drawn>,
        exact: bool,
        patience: Duration,
    ) -> Result<Take, LedgerDown> {
        let key = memo_key(&draws);
        let n = draws.first().map_or(0, |draw| draw.n);
        let more = draws.iter().map(|draw| draw.limit.burst() / PART).min();
        let more = more.filter(|more| *more > 0 && !exact && n > 0);
        // One call at a time, so that no replica ever has more than that.
        if let Some(more) = more
            && let Some(_asking) = self.memo.ask_ahead(&key, self.clock.now())
        {
            let with_more = |draw: &Drawn| Drawn {
                n: draw.n + more,
                ..draw.clone()
            };
            let greedy: Vec<Drawn> = draws.iter().map(with_more).collect();
            let take = self.draw("take", &greedy, Duration::ZERO).await?;
            if take.admitted {
                let span = good_for(&draws, more, &take);
                self.memo.ahead(key, more, span, take, self.clock.now());
                return Ok(take);
            }
        }
        let take = self.draw("take", &draws, patience).await?;
        if !take.admitted && patience.is_zero() {
            // Who wants less, or leaves less alone, may still have it.
            let wanted = draws.iter().map(|draw| draw.n.saturating_add(draw.keep));
            let least = wanted.max().unwrap_or(n);
            self.memo.refused(key, least, take, self.clock.now());
        }
        Ok(take)
    }

    fn note_left(&self, draws: &[Drawn], take: &Take) {
        let Some(draw) = draws.get(take.tightest) else {
            return;
        };
        let share = take.remaining as f64 / draw.limit.burst().max(1) as f64;
        let mut left = locked(&self.left);
        match left.get_mut(draw.bucket.policy()) {
            Some(known) => *known = share,
            None => drop(left.insert(draw.bucket.policy().into(), share)),
        }
    }
}

impl Ledger for SharedLedger {
    fn take(&self, draws: &[Draw<'_>], patience: Duration) -> Reply<Take> {
        let (inner, owned) = (Arc::clone(&self.0), self.0.owned(draws));
        let n = owned.first().map_or(0, |draw| draw.n);
        let now = self.0.clock.now();
        let known = self.0.memo.recall(&memo_key(&owned), n, now);
        // Who would wait asks for its turn, whoever was refused before.
        if let Some(take) = known.filter(|take| take.admitted || patience.is_zero()) {
            return Reply::Now(take);
        }
        let exact = draws.iter().any(|draw| draw.exact);
        Reply::Later(Box::pin(
            async move { inner.take(owned, exact, patience).await },
        ))
    }

    fn sharers(&self) -> u64 {
        self.0.link.sharers() as u64
    }

    fn charge(&self, draws: &[Draw<'_>]) {
        let (inner, draws) = (Arc::clone(&self.0), self.0.owned(draws));
        self.0.tasks.spawn(async move {
            if let Err(error) = inner.draw("charge", &draws, Duration::ZERO).await {
                debug!(%error, "What a call has used was not charged.");
            }
        });
    }

    fn raise(&self, bucket: &Bucket, settings: Settings, roll: u8) -> Reply<Reading> {
        let (inner, key) = (Arc::clone(&self.0), self.0.key('b', bucket));
        let is_noticed = roll < settings.alertness || settings.alertness >= 100;
        Reply::Later(Box::pin(async move {
            let mut asking = RAISE.prepare_invoke();
            asking.key(key).arg(u8::from(is_noticed));
            asking.arg(micros(settings.cooldown)).arg(TOP);
            let [before, after]: [u8; 2] = inner.link.ask("raise", &asking).await?;
            let holds = after == TOP && !settings.hold.is_zero();
            Ok(Reading {
                before,
                after,
                held: holds.then_some(settings.hold),
            })
        }))
    }
}

/// The budgets of one call, in one text.
fn memo_key(draws: &[Drawn]) -> String {
    match draws {
        [one] => one.key.clone(),
        several => several
            .iter()
            .map(|draw| draw.key.as_str())
            .collect::<Vec<_>>()
            .join("\n"),
    }
}

/// How long what was taken ahead is good for: until the store has it back.
fn good_for(draws: &[Drawn], more: u64, take: &Take) -> Duration {
    let spans = draws.iter().map(|draw| match draw.limit.share() {
        Some(share) => Duration::from_nanos(
            u64::try_from(share.as_nanos())
                .unwrap_or(u64::MAX)
                .saturating_mul(more),
        ),
        None => draw.limit.span(),
    });
    let windows = draws.iter().any(|draw| draw.limit.share().is_none());
    let until = if windows { take.reset } else { Duration::MAX };
    spans.min().unwrap_or_default().min(until).min(AHEAD)
}

/// What `take.lua` is told of one budget.
fn arguments(draw: &Drawn, now: SystemTime) -> [Argument; 7] {
    use Argument::{Number, Word};
    let (n, size) = (Number(draw.n), Number(draw.limit.burst()));
    let keep = Number(draw.keep);
    match (&draw.limit.allow().per, draw.limit.share()) {
        (Period::Calendar(calendar), _) => {
            let (begin, end) = calendar.around(now);
            let at = |at| Number(micros_since_epoch(at).unsigned_abs());
            let longest = Number(micros(calendar.longest()));
            [Word("w"), n, size, at(begin), at(end), longest, keep]
        }
        (Period::Span(_), share) => {
            let nanos = share.map_or(1, |share| share.as_nanos().max(1));
            let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
            let (share, scale) = if nanos < COARSE {
                (nanos, FINE)
            } else {
                // Rounded up: rounding never admits more than was written.
                (nanos.div_ceil(1_000), 1)
            };
            let (share, scale) = (Number(share), Number(scale));
            [Word("e"), n, size, share, scale, Number(0), keep]
        }
    }
}

/// One argument of a script.
#[derive(Clone, Copy, Debug)]
enum Argument {
    Word(&'static str),
    Number(u64),
}

impl redis::ToRedisArgs for Argument {
    fn write_redis_args<W: ?Sized + redis::RedisWrite>(&self, out: &mut W) {
        match self {
            Self::Word(word) => word.write_redis_args(out),
            Self::Number(number) => number.write_redis_args(out),
        }
    }
}

fn take_of([granted, wait, tightest, remaining, retry, reset, _]: [i64; 7]) -> Take {
    let span = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or_default());
    Take {
        admitted: granted == 1,
        wait: span(wait),
        tightest: usize::try_from(tightest).unwrap_or_default(),
        remaining: u64::try_from(remaining).unwrap_or_default(),
        retry_after: (granted == 0 && retry >= 0).then(|| span(retry)),
        reset: span(reset),
    }
}

/// Whole microseconds, none of them lost.
fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX)
}

fn micros_since_epoch(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
