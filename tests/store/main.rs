//! What replicas take from budgets in a real store, in any order: a property of the script and of
//! what stands before it.
//!
//! Apart from `it`, where whole gateways count: here hundreds of takes of every sort cross each other in
//! a second, and some of those who asked are gone before they are answered. The replicas are
//! chillgate's own ledger, one connection each; what they were granted is counted here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chillgate::clock::{TokioClock, real};
use chillgate::config::State;
use chillgate::store::{Link, SharedLedger, Target};
use chillgate_policies::engine::ledger::{Bucket, Draw, Key, Ledger, Limit, Reply, Take};
use chillgate_tests::Redis;
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::runtime::Runtime;
use tokio_util::task::TaskTracker;

/// How many replicas there are.
const REPLICAS: usize = 4;
/// A budget that gives nothing back while the test runs.
const NEVER: &str = "1/h";

fn limit(allow: &str, burst: u64) -> Limit {
    Limit::new(allow.parse().expect("an allowance"), Some(burst)).expect("a limit")
}

async fn replica(redis: &Redis, prefix: &str) -> SharedLedger {
    let state = State {
        store: vec![redis.url()],
        ..State::default()
    };
    let target = Target::of(&state).expect("a store");
    let link = Link::new(target, prefix, Duration::from_secs(10));
    link.open().await.expect("the store is there");
    SharedLedger::new(link, prefix, Arc::new(TokioClock), TaskTracker::new())
}

/// What one call asks for.
#[derive(Clone, Copy, Debug)]
struct Ask {
    replica: usize,
    agent: usize,
    team: usize,
    n: u64,
    keep: u64,
    /// It is gone after so many microseconds, whatever it was told; and its replica with it.
    killed: Option<u64>,
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let one = (
        0..REPLICAS,
        0usize..3,
        0usize..2,
        0u64..5,
        prop_oneof![4 => Just(0u64), 1 => 1u64..3],
        proptest::option::weighted(0.05, 0u64..600),
    );
    let one = one.prop_map(|(replica, agent, team, n, keep, killed)| Ask {
        replica,
        agent,
        team,
        n,
        keep,
        killed,
    });
    proptest::collection::vec(one, 40..200)
}

/// The budgets of a call: its agent's, its team's and the one of all.
fn buckets(ask: Ask) -> [Bucket; 3] {
    let part = |name: String| Some(Arc::from(name));
    let keys = [
        Key {
            agent: part(format!("a{}", ask.agent)),
            ..Key::default()
        },
        Key {
            group: part(format!("t{}", ask.team)),
            ..Key::default()
        },
        Key::default(),
    ];
    let policy: Arc<str> = "q".into();
    let mut level = 0;
    keys.map(|key| {
        level += 1;
        Bucket {
            name: Bucket::of_level(&policy, level),
            key,
        }
    })
}

fn draws<'l>(
    buckets: &[Bucket],
    limits: &'l [Limit],
    n: u64,
    keep: u64,
    exact: bool,
) -> Vec<Draw<'l>> {
    let each = buckets.iter().zip(limits);
    each.map(|(bucket, limit)| Draw {
        bucket: bucket.clone(),
        limit,
        n,
        keep,
        exact,
    })
    .collect()
}

async fn take(ledger: &SharedLedger, draws: &[Draw<'_>]) -> Take {
    match ledger.take(draws, Duration::ZERO) {
        Reply::Now(take) => take,
        Reply::Later(answer) => answer.await.expect("the store answers"),
    }
}

/// What is left of one budget, as the store says.
async fn left(ledger: &SharedLedger, bucket: &Bucket, limit: &Limit) -> u64 {
    let one = draws(
        std::slice::from_ref(bucket),
        std::slice::from_ref(limit),
        0,
        0,
        true,
    );
    take(ledger, &one).await.remaining
}

/// One that was granted or refused, and when.
#[derive(Debug)]
struct Told {
    ask: Ask,
    from: Instant,
    to: Instant,
    /// None where it was gone before it heard.
    take: Option<Take>,
}

/// All of these, so many at a time; a replica whose caller is killed is another one afterwards.
async fn race(
    redis: &Redis,
    prefix: &str,
    asks: &[Ask],
    limits: &[Limit],
    wide: usize,
) -> (Vec<Told>, SharedLedger) {
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(replica(redis, prefix).await);
    }
    let mut told = Vec::new();
    for some in asks.chunks(wide) {
        let asking = some.iter().map(async |ask| {
            let draws = draws(&buckets(*ask), limits, ask.n, ask.keep, true);
            let from = real();
            let taking = take(&replicas[ask.replica], &draws);
            let take = match ask.killed {
                None => Some(taking.await),
                Some(micros) => {
                    let within = tokio::time::timeout(Duration::from_micros(micros), taking);
                    within.await.ok()
                }
            };
            Told {
                ask: *ask,
                from,
                to: real(),
                take,
            }
        });
        told.extend(join_all(asking).await);
        for ask in some.iter().filter(|ask| ask.killed.is_some()) {
            replicas[ask.replica] = replica(redis, prefix).await;
        }
    }
    let last = replicas.pop().expect("some");
    (told, last)
}

/// Every case in the same Redis, under a prefix of its own.
fn check<S: Strategy>(
    cases: u32,
    strategy: &S,
    test: &impl AsyncFn(&Redis, &str, S::Value) -> Result<(), TestCaseError>,
) {
    let runtime = Runtime::new().expect("a runtime");
    let redis = runtime.block_on(Redis::start());
    let mut runner = TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    });
    let number = std::cell::Cell::new(0);
    let run = runner.run(strategy, |value| {
        number.set(number.get() + 1);
        runtime.block_on(test(&redis, &format!("case-{}", number.get()), value))
    });
    run.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn takes_in_any_order_are_all_or_nothing_and_never_too_many() {
    let sizes = (3u64..30, 3u64..40, 3u64..60);
    check(60, &(sizes, 1usize..24, asks()), &async |redis,
                                                    prefix,
                                                    (
        sizes,
        wide,
        asks,
    )| {
        let limits = [sizes.0, sizes.1, sizes.2].map(|size| limit(NEVER, size));
        let (told, ledger) = race(redis, prefix, &asks, &limits, wide).await;
        // What each budget gave, and what it may have given to those who did not hear of it.
        let mut spent: BTreeMap<String, (u64, u64)> = BTreeMap::new();
        for one in &told {
            for bucket in buckets(one.ask) {
                let (surely, perhaps) = spent.entry(bucket.key.to_text()).or_default();
                match one.take {
                    Some(take) if take.admitted => *surely += one.ask.n,
                    Some(_) => {}
                    None => *perhaps += one.ask.n,
                }
            }
        }
        for one in &told {
            for (bucket, limit) in buckets(one.ask).iter().zip(&limits) {
                let (surely, perhaps) = spent[&bucket.key.to_text()];
                let left = left(&ledger, bucket, limit).await;
                let size = limit.burst();
                prop_assert!(surely <= size, "{surely} of {size}");
                prop_assert!(
                    left <= size - surely && left + surely + perhaps >= size,
                    "{left} are left of {size}: {surely} were granted, {perhaps} perhaps"
                );
            }
            // Nothing comes back, so what was too little then is too little now.
            if let Some(take) = one.take.filter(|take| !take.admitted) {
                let bucket = &buckets(one.ask)[take.tightest];
                let left = left(&ledger, bucket, &limits[take.tightest]).await;
                let wanted = one.ask.n + one.ask.keep;
                prop_assert!(left < wanted, "{left} were there for {wanted}");
            }
        }
        Ok(())
    });
}

#[test]
fn in_no_span_more_is_granted_than_the_limit_says() {
    let limits = (50u64..2_000, 1u64..20, 50u64..3_000, 1u64..30);
    check(30, &(limits, 4usize..32, asks()), &async |redis,
                                                     prefix,
                                                     (
        sizes,
        wide,
        asks,
    )| {
        let limits = [
            limit("1000000/s", 1_000_000),
            limit(&format!("{}/s", sizes.0), sizes.1),
            limit(&format!("{}/s", sizes.2), sizes.3),
        ];
        let (told, _) = race(redis, prefix, &asks, &limits, wide).await;
        for (level, limit) in limits.iter().enumerate().skip(1) {
            let share = limit.share().expect("even").as_nanos();
            let mut by_bucket: BTreeMap<String, Vec<&Told>> = BTreeMap::new();
            for one in told
                .iter()
                .filter(|one| one.take.is_some_and(|take| take.admitted))
            {
                let key = buckets(one.ask)[level].key.to_text();
                by_bucket.entry(key).or_default().push(one);
            }
            for granted in by_bucket.values() {
                for first in granted {
                    for last in granted {
                        // Whatever was asked for and answered in between was granted in between.
                        let within = granted
                            .iter()
                            .filter(|one| one.from >= first.from && one.to <= last.to);
                        let sum: u64 = within.map(|one| one.ask.n).sum();
                        let span = last.to.saturating_duration_since(first.from).as_nanos();
                        // The store's clock counts in microseconds.
                        let legal = u128::from(limit.burst()) + (span + 1_000).div_ceil(share);
                        prop_assert!(u128::from(sum) <= legal, "{sum} of {legal} in {span} ns");
                    }
                }
            }
        }
        Ok(())
    });
}

#[test]
fn what_is_taken_ahead_wastes_a_hundredth_for_each_replica_and_admits_no_more() {
    let kills = proptest::collection::vec(0..REPLICAS, 0..4);
    check(24, &(100u64..1_500, 1usize..8, kills), &async |redis,
                                                          prefix,
                                                          (
        size,
        wide,
        kills,
    )| {
        let limits = [limit(NEVER, size)];
        let bucket = [Bucket {
            name: "q".into(),
            key: Key::default(),
        }];
        let part = size / 100;
        let mut replicas = Vec::new();
        for _ in 0..REPLICAS {
            replicas.push(replica(redis, prefix).await);
        }
        let one = draws(&bucket, &limits, 1, 0, false);
        let some = async |ledger: &SharedLedger, most: usize| {
            let mut had = 0;
            while had < most && take(ledger, &one).await.admitted {
                had += 1;
            }
            had as u64
        };
        let mut admitted = 0;
        for killed in &kills {
            let each = replicas.iter().map(|ledger| some(ledger, 7));
            admitted += join_all(each).await.iter().sum::<u64>();
            replicas[*killed] = replica(redis, prefix).await;
        }
        let crowd = replicas
            .iter()
            .flat_map(|ledger| std::iter::repeat_n(ledger, wide));
        let each = crowd.map(|ledger| some(ledger, usize::MAX));
        admitted += join_all(each).await.iter().sum::<u64>();
        let waste = part * (REPLICAS + kills.len()) as u64;
        prop_assert!(admitted <= size, "{admitted} of {size}");
        prop_assert!(
            admitted + waste >= size,
            "{admitted} of {size}, {waste} may be wasted"
        );
        Ok(())
    });
}
