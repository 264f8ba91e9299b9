//! Calls that wait for their turn, driven as a runtime would: who is woken is polled, nobody else.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{AbortHandle, BoxFuture, abortable};
use futures_util::stream::{FuturesUnordered, StreamExt};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::engine::boss::{Reading, Settings};
use crate::engine::clock::ManualClock;
use crate::engine::ledger::Bucket;
use crate::engine::ledger::{Draw, Ledger, LocalLedger, Reply, Take};
use crate::engine::services::{Meter, Tally};
use crate::engine::testing::{call, chain, services};
use crate::engine::{Call, Chain, Clock, Grants, Pass, Rejection, Services};

/// What became of a call: when, in milliseconds.
type End = (usize, Option<Result<Box<Pass>, Rejection>>);

/// A chain of one policy and the calls that are on their way through it.
struct Floor {
    clock: ManualClock,
    services: Services,
    chain: Arc<Chain>,
    on_their_way: FuturesUnordered<BoxFuture<'static, End>>,
    handles: Vec<AbortHandle>,
    /// How each ended, with the moment.
    ended: Vec<Option<(u64, Option<Rejection>)>>,
}

/// Whether somebody wants to be polled again at once.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn table(more: &Value) -> Value {
    let mut table = json!({"type": "quota", "name": "q", "per": "server"});
    let object = table.as_object_mut().expect("a table");
    object.extend(more.as_object().expect("a table").clone());
    table
}

impl Floor {
    fn new(more: &Value) -> Self {
        let (clock, services) = services();
        Self::with(more, clock, services)
    }

    fn with(more: &Value, clock: ManualClock, services: Services) -> Self {
        Self {
            chain: chain(&[table(more)], &services),
            clock,
            services,
            on_their_way: FuturesUnordered::new(),
            handles: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn send(&mut self, agent: &str) -> usize {
        self.send_call(call(agent, "files", "tools/call", Some("x")))
    }

    fn send_call(&mut self, call: Call) -> usize {
        let (number, chain) = (self.handles.len(), Arc::clone(&self.chain));
        let admitting = async move { chain.admit(call, &()).await };
        let (admitting, handle) = abortable(admitting);
        self.handles.push(handle);
        self.ended.push(None);
        self.on_their_way
            .push(admitting.map(move |ended| (number, ended.ok())).boxed());
        self.settle();
        number
    }

    fn cancel(&mut self, number: usize) {
        self.handles[number].abort();
        self.settle();
    }

    /// Polls whoever was woken until nobody is.
    fn settle(&mut self) {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut context = Context::from_waker(&waker);
        loop {
            woken.0.store(false, Ordering::Relaxed);
            match self.on_their_way.poll_next_unpin(&mut context) {
                Poll::Ready(Some((number, ended))) => {
                    let rejection = ended.and_then(Result::err);
                    self.ended[number] = Some((self.now(), rejection));
                }
                Poll::Pending if woken.0.load(Ordering::Relaxed) => {}
                Poll::Ready(None) | Poll::Pending => return,
            }
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.clock.passed().as_millis()).expect("small")
    }

    fn pass(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(10) {
            self.clock.advance(Duration::from_millis(10));
            self.settle();
        }
    }

    fn admitted(&self, numbers: &[usize]) -> usize {
        let ended = numbers
            .iter()
            .filter_map(|number| self.ended[*number].as_ref());
        ended.filter(|(_, rejection)| rejection.is_none()).count()
    }

    fn refusal(&self, number: usize) -> (u64, &Rejection) {
        let (at, rejection) = self.ended[number].as_ref().expect("it has ended");
        (*at, rejection.as_ref().expect("a refusal"))
    }

    fn spend_burst(&mut self, agent: &str, burst: usize) {
        for _ in 0..burst {
            let number = self.send(agent);
            assert_eq!(self.admitted(&[number]), 1);
        }
    }
}

#[test]
fn an_agent_below_its_share_goes_before_those_who_flood() {
    let mut floor = Floor::new(&json!({"allow": "10/s", "exceed": {"wait": "1m"}}));
    floor.spend_burst("flood", 10);
    let wild: Vec<usize> = (0..200).map(|_| floor.send("flood")).collect();
    floor.pass(1_000);
    let before = floor.admitted(&wild);
    assert!((8..=9).contains(&before), "{before}: one is left alone");
    for round in 0..50 {
        let calm = floor.send("calm");
        assert_eq!(floor.admitted(&[calm]), 1, "round {round}: at once");
        floor.pass(300);
    }
    let passed = floor.admitted(&wild) - before;
    assert!((99..=101).contains(&passed), "{passed} of 150 less 50");
}

#[test]
fn turns_are_in_proportion_to_weights() {
    let mut floor = Floor::new(&json!({
        "allow": "100/s", "burst": 1, "exceed": {"wait": "1h"}, "weights": {"a": 3, "b*": 1, "*": 1},
    }));
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..250 {
        b.push(floor.send("b1"));
        a.push(floor.send("a"));
    }
    floor.pass(2_000);
    let (a, b) = (floor.admitted(&a), floor.admitted(&b));
    assert!(
        (199..=202).contains(&(a + b)),
        "{a} and {b}: no turn is lost"
    );
    assert!((2.7..=3.3).contains(&(a as f64 / b as f64)), "{a} and {b}");
}

#[test]
fn a_full_room_says_so_and_its_fullest_agent_makes_room() {
    let exceed = json!({"wait": "1m", "queue": 8, "queue-per-agent": 6});
    let mut floor = Floor::new(&json!({"allow": "1/s", "burst": 1, "exceed": exceed}));
    floor.spend_burst("a", 1);
    let many: Vec<usize> = (0..6).map(|_| floor.send("a")).collect();
    let more = floor.send("a");
    let (_, refused) = floor.refusal(more);
    assert_eq!((refused.code, refused.reason), (42_900, "queue_full"));
    assert!(
        refused
            .message
            .contains("this agent has as many calls waiting as it may; retry after"),
        "{}",
        refused.message
    );
    // Six of its own are before it.
    assert!(
        refused.retry_after >= Some(Duration::from_secs(6)),
        "{refused:?}"
    );
    let others = [floor.send("b"), floor.send("b"), floor.send("c")];
    assert!(floor.ended[others[2]].is_none());
    let (_, refused) = floor.refusal(many[5]);
    assert_eq!(refused.reason, "queue_full");
    assert!(refused.message.contains("as many calls wait as may"));
    floor.pass(60_000);
    assert_eq!(floor.admitted(&many) + floor.admitted(&others), 8);
    assert!(floor.services.rooms.are_empty());
}

#[test]
fn who_leaves_costs_nothing_and_the_next_has_its_turn() {
    let mut floor = Floor::new(&json!({"allow": "1/s", "burst": 1, "exceed": {"wait": "1m"}}));
    floor.spend_burst("a", 1);
    let waiting: Vec<usize> = (0..10).map(|_| floor.send("a")).collect();
    floor.pass(500);
    for number in &waiting[..9] {
        floor.cancel(*number);
    }
    assert!(floor.ended[waiting[9]].is_none());
    floor.pass(500);
    assert_eq!(
        floor.admitted(&waiting[9..]),
        1,
        "in the place of the first"
    );
    assert!(floor.services.rooms.are_empty());
}

#[test]
fn nobody_waits_for_longer_than_the_caller_itself_does() {
    let mut floor = Floor::new(&json!({"allow": "1/s", "burst": 1, "exceed": {"wait": "1m"}}));
    floor.spend_burst("a", 1);
    let _before = [floor.send("a"), floor.send("a")];
    let by = |floor: &Floor, millis: u64| Call {
        deadline: Some(floor.clock.now() + Duration::from_millis(millis)),
        ..call("a", "files", "tools/call", Some("x"))
    };
    let hasty = by(&floor, 2_500);
    let hasty = floor.send_call(hasty);
    let (at, refused) = floor.refusal(hasty);
    assert_eq!((at, refused.reason), (0, "deadline"), "its turn is at 3 s");
    assert!(refused.retry_after >= Some(Duration::from_secs(3)));
    // In time as things are; then others come that go before it.
    let patient = by(&floor, 3_500);
    let patient = floor.send_call(patient);
    assert!(floor.ended[patient].is_none());
    floor.send("b");
    floor.send("c");
    floor.pass(3_600);
    let (at, refused) = floor.refusal(patient);
    assert!((3_000..=3_500).contains(&at), "{at}: never beyond it");
    assert_eq!(refused.reason, "deadline");
    let data = refused.to_data().expect("shown");
    assert_eq!(data["waitedMs"], at);
    assert_eq!(data["retryable"], true);
}

#[test]
fn who_waits_in_vain_hears_how_long_and_when_to_come_back() {
    let exceed = json!({"wait": "2s"});
    let more = json!({"allow": "1/s", "burst": 1, "exceed": exceed, "weights": {"b": 10}});
    let mut floor = Floor::new(&more);
    floor.spend_burst("a", 1);
    let calls = [floor.send("a"), floor.send("a")];
    let before: Vec<usize> = (0..2).map(|_| floor.send("b")).collect();
    floor.pass(2_000);
    assert_eq!(floor.admitted(&calls) + floor.admitted(&before), 2);
    let (at, refused) = floor.refusal(calls[1]);
    assert!(at <= 2_000, "{at}");
    assert!(
        refused.message.contains("s for a turn; retry after"),
        "{}",
        refused.message
    );
    assert_eq!(u64::from(refused.waited_ms), at);
}

/// Budgets within wider ones: who waits for its own holds nobody up at the one that all share.
#[test]
fn who_waits_for_its_own_budget_holds_up_nobody_else() {
    let mut floor = Floor::new(&json!({
        "per": "agent", "allow": "1/s", "burst": 1, "exceed": {"wait": "1m"},
        "within": [{"per": "all", "allow": "10/s", "burst": 2}],
    }));
    let slow: Vec<usize> = (0..20).map(|_| floor.send("slow")).collect();
    let names: Vec<String> = (0..30).map(|number| format!("agent-{number}")).collect();
    let others: Vec<usize> = names.iter().map(|name| floor.send(name)).collect();
    floor.pass(2_800);
    // 2 at once and 10 a second, for as many as there are agents.
    let (slow_had, others_had) = (floor.admitted(&slow), floor.admitted(&others));
    assert_eq!(slow_had + others_had, 30, "{slow_had} and {others_had}");
    assert!(others_had >= 28, "{slow_had} and {others_had}");
    floor.pass(60_000);
    assert_eq!(floor.admitted(&slow) + floor.admitted(&others), 50);
    assert!(floor.services.rooms.are_empty());
    // All or none, to the last one: what is spent is what was admitted.
    let left = floor.services.local.usage();
    assert_eq!(left, [], "everything has come back");
}

#[test]
fn agents_of_a_team_wait_for_what_the_team_has_and_take_turns_there() {
    let mut floor = Floor::new(&json!({
        "per": "agent", "allow": "100/s", "burst": 1, "exceed": {"wait": "1m"},
        "within": [
            {"per": "group", "allow": "5/s", "burst": 1},
            {"per": "all", "allow": "8/s", "burst": 1},
        ],
    }));
    let by = |agent: &str, team: &str| Call {
        grants: Arc::new(Grants {
            groups: vec![team.into()],
            scopes: Vec::new(),
        }),
        ..call(agent, "files", "tools/call", Some("x"))
    };
    let mut sent: Vec<Vec<usize>> = vec![Vec::new(); 3];
    for _ in 0..100 {
        for (index, (agent, team)) in [("a", "one"), ("b", "one"), ("c", "two")]
            .iter()
            .enumerate()
        {
            sent[index].push(floor.send_call(by(agent, team)));
        }
    }
    floor.pass(10_000);
    let had: Vec<usize> = sent.iter().map(|numbers| floor.admitted(numbers)).collect();
    // One of a team at a time goes on to what all have, so a little of that is lost.
    assert!(
        (75..=81).contains(&had.iter().sum::<usize>()),
        "{had:?}: 8 a second"
    );
    assert!(had[0] + had[1] <= 51, "{had:?}: 5 a second of one team");
    assert!(
        had[0].abs_diff(had[1]) <= 2,
        "{had:?}: its agents take turns"
    );
    assert!(had[2] >= 26, "{had:?}");
}

/// Counts decisions.
#[derive(Clone, Debug, Default)]
struct Counted(Arc<Mutex<Vec<&'static str>>>);

impl Meter for Counted {
    fn policy(&self, _: &str, _: &'static str) -> Arc<dyn Tally> {
        Arc::new(self.clone())
    }
}

impl Tally for Counted {
    fn decided(&self, decision: &'static str, _: &'static str) {
        self.0.lock().expect("not poisoned").push(decision);
    }

    fn delayed(&self, _: Duration) {}

    fn holds(&self, _: bool) {}
}

#[test]
fn in_shadow_it_is_counted_who_would_wait_and_who_would_be_refused() {
    let (clock, services) = services();
    let counted = Counted::default();
    let services = Services {
        meter: Arc::new(counted.clone()),
        ..services
    };
    let more = json!({"allow": "1/s", "burst": 1, "mode": "shadow", "exceed": {"wait": "2s"}});
    let mut floor = Floor::with(&more, clock, services);
    let calls: Vec<usize> = (0..6).map(|_| floor.send("a")).collect();
    assert_eq!(floor.admitted(&calls), 6);
    let counted = counted.0.lock().expect("not poisoned");
    let (delay, reject) = ("shadow_delay", "shadow_reject");
    assert_eq!(*counted, ["admit", delay, delay, reject, reject, reject]);
}

/// A ledger a hop away: every answer comes when it is asked for again.
#[derive(Debug)]
struct Remote(LocalLedger);

impl Ledger for Remote {
    fn take(&self, draws: &[Draw<'_>], patience: Duration) -> Reply<Take> {
        let Reply::Now(take) = self.0.take(draws, patience) else {
            panic!("a local one answers at once");
        };
        let mut travelled = false;
        Reply::Later(Box::pin(futures_util::future::poll_fn(move |context| {
            if travelled {
                return std::task::Poll::Ready(Ok(take));
            }
            travelled = true;
            context.waker().wake_by_ref();
            std::task::Poll::Pending
        })))
    }

    fn charge(&self, draws: &[Draw<'_>]) {
        self.0.charge(draws);
    }

    fn raise(&self, bucket: &Bucket, settings: Settings, roll: u8) -> Reply<Reading> {
        self.0.raise(bucket, settings, roll)
    }
}

fn remote() -> (ManualClock, Services) {
    let (clock, services) = services();
    let ledger = Arc::new(Remote(LocalLedger::new(Arc::new(clock.clone()))));
    (clock, Services { ledger, ..services })
}

#[test]
fn turns_at_a_store_are_as_fair() {
    let more = json!({"allow": "100/s", "burst": 1, "exceed": {"wait": "1h"}, "weights": {"a": 3}});
    let (clock, services) = remote();
    let mut floor = Floor::with(&more, clock, services);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..200 {
        b.push(floor.send("b"));
        a.push(floor.send("a"));
    }
    floor.pass(2_000);
    let (a, b) = (floor.admitted(&a), floor.admitted(&b));
    assert!((198..=202).contains(&(a + b)), "{a} and {b}");
    assert!((2.7..=3.3).contains(&(a as f64 / b as f64)), "{a} and {b}");
}

#[derive(Clone, Copy, Debug)]
struct Arrival {
    pass: u64,
    agent: usize,
    cost: u64,
    cancel: Option<usize>,
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let one = (
        0u64..600,
        0usize..3,
        1u64..4,
        proptest::option::weighted(0.3, 0usize..40),
    );
    let one = one.prop_map(|(pass, agent, cost, cancel)| Arrival {
        pass: pass.saturating_sub(300),
        agent,
        cost,
        cancel,
    });
    proptest::collection::vec(one, 20..100)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes, in whatever order, by whatever weights, and whoever leaves: never more than the
    /// limit, nobody waits for longer than its share says, and the bucket never holds back more than
    /// one turn (and what is left alone for others) while somebody waits.
    #[test]
    fn turns_are_within_the_limit_in_time_and_not_wasted(
        weights in proptest::array::uniform3(1u32..5),
        rate in 1u64..30, burst in 3u64..12, is_remote in any::<bool>(), steps in arrivals(),
    ) {
        let more = json!({
            "allow": format!("{rate}/s"), "burst": burst, "exceed": {"wait": "1h", "queue-per-agent": 1000},
            "weights": {"a0": weights[0], "a1": weights[1], "a2": weights[2]},
            "cost": {"c1": 1, "c2": 2, "c3": 3},
        });
        let (clock, services) = if is_remote { remote() } else { services() };
        let mut floor = Floor::with(&more, clock, services);
        let share = 1_000.0 / rate as f64;
        let all: u32 = weights.iter().sum();
        let (mut costs, mut bounds): (Vec<(usize, u64)>, Vec<f64>) = (Vec::new(), Vec::new());
        let mut sent_at: Vec<u64> = Vec::new();
        let waste = |floor: &Floor| {
            if floor.on_their_way.is_empty() || is_remote {
                return Ok(());
            }
            let left = floor.services.local.usage().first().map_or(burst, |usage| usage.remaining);
            // One turn is at most 3, and 3 are left alone.
            prop_assert!(left < 3 + 3, "{left} are there, and somebody waits");
            Ok(())
        };
        for Arrival { pass, agent, cost, cancel } in steps {
            for _ in 0..pass.div_ceil(10) {
                floor.pass(10);
                waste(&floor)?;
            }
            if let Some(number) = cancel.filter(|number| *number < costs.len()) {
                if floor.ended[number].is_none() {
                    floor.cancel(number);
                    floor.ended[number] = None;
                    costs[number].1 = 0;
                }
                waste(&floor)?;
            }
            let own: u64 = costs.iter().enumerate()
                .filter(|(number, (by, _))| *by == agent && floor.ended[*number].is_none())
                .map(|(_, (_, cost))| *cost).sum();
            // What it has before it of its own, as often as the others have their part beside it, and
            // what is under way or left alone by then.
            let turns = (own + cost) as f64 * f64::from(all) / f64::from(weights[agent]);
            let others = 3.0 * f64::from(all) / f64::from(*weights.iter().min().expect("three"));
            bounds.push((turns + others + 3.0 + 3.0 + 3.0) * share + 20.0);
            costs.push((agent, cost));
            sent_at.push(floor.now());
            let tool = format!("c{cost}");
            floor.send_call(call(&format!("a{agent}"), "files", "tools/call", Some(&tool)));
            waste(&floor)?;
        }
        for _ in 0..100 {
            floor.pass(1_000 * 4);
            if floor.on_their_way.is_empty() { break; }
        }
        let mut went: Vec<(u64, u64)> = Vec::new();
        for (number, ended) in floor.ended.iter().enumerate() {
            let (agent, cost) = costs[number];
            if cost == 0 { continue; } // it has left
            let (at, rejection) = ended.as_ref().expect("everybody has had a turn");
            prop_assert!(rejection.is_none(), "{rejection:?}");
            let waited = (at - sent_at[number]) as f64;
            prop_assert!(waited <= bounds[number], "{number} of {agent} waited {waited} of {} ms", bounds[number]);
            went.push((*at, cost));
        }
        went.sort_unstable();
        for (index, (from, _)) in went.iter().enumerate() {
            let mut sum = 0;
            for (to, cost) in &went[index..] {
                sum += cost;
                // Moments are looked at 10 ms apart.
                let legal = burst as f64 + (to - from + 10) as f64 / share;
                prop_assert!(sum as f64 <= legal + 1e-6, "{sum} in {} ms", to - from);
            }
        }
        prop_assert!(floor.services.rooms.are_empty());
    }
}
