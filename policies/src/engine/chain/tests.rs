//! The chain's contract: order in and out, one ending for everybody who was asked, shadow mode,
//! what `explain` and `check` say, and the balance of audit records whatever hosts do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::engine::testing::{Memory, admit, call, chain, services, tool};
use crate::engine::{Admitted, Completion, Deadline, Outcome, Pass, Services};

type Heard = Arc<Mutex<Vec<String>>>;

/// Gives one verdict and writes down everything it hears.
#[derive(Debug)]
struct Probe {
    name: &'static str,
    stage: Stage,
    says: Says,
    heard: Heard,
}

#[derive(Clone, Copy, Debug)]
enum Says {
    Admit,
    Delay(u64),
    Reject,
    NoRecord,
}

impl Probe {
    fn hears(&self, what: &str) {
        self.heard
            .lock()
            .expect("not poisoned")
            .push(format!("{} {what}", self.name));
    }
}

impl Policy for Probe {
    fn stage(&self) -> Stage {
        self.stage
    }

    fn on_request(&self, _: &Call) -> Verdict {
        self.hears("request");
        match self.says {
            Says::Admit | Says::NoRecord => Verdict::Admit,
            Says::Delay(secs) => Verdict::Delay(Duration::from_secs(secs)),
            Says::Reject => Verdict::Reject(self.no()),
        }
    }

    fn on_admit(&self, _: &Call, _: &Admitted) -> Result<(), Rejection> {
        self.hears("admit");
        if matches!(self.says, Says::NoRecord) {
            Err(self.no())
        } else {
            Ok(())
        }
    }

    fn on_refuse(&self, _: &Call, rejection: &Rejection) {
        self.hears(&format!(
            "refuse {} by {}",
            rejection.reason, rejection.policy
        ));
    }

    fn on_complete(&self, _: &Call, completion: &Completion) {
        self.hears(completion.outcome.as_str());
    }

    fn summary(&self) -> String {
        "probes".into()
    }
}

impl Probe {
    fn no(&self) -> Rejection {
        Rejection::new(&self.name.into(), "probe", "no", 1, "no")
    }
}

/// Counts decisions.
#[derive(Debug, Default)]
struct Counts(Mutex<Vec<(&'static str, &'static str)>>);

impl Tally for Counts {
    fn decided(&self, decision: &'static str, reason: &'static str) {
        self.0
            .lock()
            .expect("not poisoned")
            .push((decision, reason));
    }

    fn holds(&self, _: bool) {}

    fn delayed(&self, _: Duration) {
        self.0.lock().expect("not poisoned").push(("delayed", ""));
    }
}

struct Setup {
    clock: crate::engine::clock::ManualClock,
    chain: Arc<Chain>,
    heard: Heard,
    counts: Arc<Counts>,
}

fn probes(of: &[(&'static str, Stage, Says, Mode)]) -> Setup {
    let (clock, _) = services();
    let (heard, counts) = (Heard::default(), Arc::new(Counts::default()));
    let links = of
        .iter()
        .map(|(name, stage, says, mode)| Link {
            name: (*name).into(),
            kind: "probe",
            stage: *stage,
            mode: *mode,
            rule: Rule::default(),
            answer: Answer::ToolError,
            once: false,
            policy: Arc::new(Probe {
                name,
                stage: *stage,
                says: *says,
                heard: Arc::clone(&heard),
            }),
            tally: Arc::<Counts>::clone(&counts),
        })
        .collect();
    let chain = Arc::new(Chain::new(links, Arc::new(clock.clone())));
    Setup {
        clock,
        chain,
        heard,
        counts,
    }
}

impl Setup {
    fn heard(&self) -> Vec<String> {
        std::mem::take(&mut *self.heard.lock().expect("not poisoned"))
    }

    fn counted(&self) -> Vec<(&'static str, &'static str)> {
        std::mem::take(&mut *self.counts.0.lock().expect("not poisoned"))
    }
}

use Mode::{Enforce, Shadow};
use Says::{Admit, Delay, NoRecord, Reject};
use Stage::{Access, Limit, Meter, Record, Shape};

#[test]
fn requests_go_in_by_stage_and_endings_come_out_in_reverse() {
    let setup = probes(&[
        ("limit", Limit, Admit, Enforce),
        ("meter", Meter, Admit, Enforce),
        ("meter2", Meter, Admit, Enforce),
        ("record", Record, Admit, Enforce),
    ]);
    let pass = admit(&setup.chain, tool("x")).expect("nobody refuses");
    assert_eq!(
        setup.heard(),
        [
            "record request",
            "meter request",
            "meter2 request",
            "limit request",
            "record admit",
            "meter admit",
            "meter2 admit",
            "limit admit",
        ]
    );
    pass.complete(Completion::of(Outcome::ToolError));
    assert_eq!(
        setup.heard(),
        [
            "limit tool_error",
            "meter2 tool_error",
            "meter tool_error",
            "record tool_error"
        ]
    );
}

#[test]
fn a_refusal_is_told_to_those_before_it_and_nobody_else() {
    let setup = probes(&[
        ("a", Record, Admit, Enforce),
        ("b", Access, Admit, Enforce),
        ("c", Meter, Reject, Enforce),
        ("d", Limit, Admit, Enforce),
    ]);
    let rejection = admit(&setup.chain, tool("x")).expect_err("c refuses");
    assert_eq!(
        rejection.answer,
        Answer::ToolError,
        "shown as its table says"
    );
    assert_eq!(
        setup.heard(),
        [
            "a request",
            "b request",
            "c request",
            "b refuse no by c",
            "a refuse no by c"
        ]
    );
    assert_eq!(
        setup.counted(),
        [("admit", "none"), ("admit", "none"), ("reject", "no")]
    );
}

#[test]
fn a_dropped_pass_is_a_cancelled_call_exactly_once() {
    let setup = probes(&[("a", Record, Admit, Enforce), ("b", Meter, Admit, Enforce)]);
    let pass = admit(&setup.chain, tool("x")).expect("nobody refuses");
    setup.heard();
    drop(pass);
    assert_eq!(setup.heard(), ["b cancelled", "a cancelled"]);
    let pass = admit(&setup.chain, tool("x")).expect("nobody refuses");
    setup.heard();
    pass.complete(Completion::of(Outcome::Ok));
    assert_eq!(setup.heard(), ["b ok", "a ok"], "and not cancelled as well");
}

#[test]
fn a_host_that_leaves_in_the_middle_of_a_hold_is_told_to_everybody_asked() {
    let setup = probes(&[
        ("a", Record, Admit, Enforce),
        ("b", Shape, Delay(20), Enforce),
        ("c", Limit, Admit, Enforce),
    ]);
    let mut call = Box::pin(setup.chain.admit(tool("x"), &()));
    assert!((&mut call).now_or_never().is_none());
    setup.clock.advance(Duration::from_secs(5));
    assert!((&mut call).now_or_never().is_none());
    drop(call);
    assert_eq!(
        setup.heard(),
        [
            "a request",
            "b request",
            "b refuse cancelled by b",
            "a refuse cancelled by b"
        ]
    );
    assert_eq!(
        setup.counted(),
        [
            ("admit", "none"),
            ("delay", "none"),
            ("cancel", "cancelled"),
            ("delayed", "")
        ]
    );
}

#[test]
fn a_delay_ends_in_time_and_the_next_policy_is_asked_only_then() {
    let setup = probes(&[
        ("a", Shape, Delay(20), Enforce),
        ("b", Limit, Delay(3), Enforce),
    ]);
    let mut call = Box::pin(setup.chain.admit(tool("x"), &()));
    assert!((&mut call).now_or_never().is_none());
    assert_eq!(setup.heard(), ["a request"]);
    setup.clock.advance(Duration::from_secs(20));
    assert!((&mut call).now_or_never().is_none());
    assert_eq!(setup.heard(), ["b request"]);
    setup.clock.advance(Duration::from_secs(3));
    let pass = call
        .now_or_never()
        .expect("both are over")
        .expect("nobody refuses");
    assert_eq!(pass.delayed(), Duration::from_secs(23));
}

#[test]
fn in_shadow_verdicts_are_counted_and_nothing_else() {
    let setup = probes(&[
        ("a", Meter, Reject, Shadow),
        ("b", Shape, Delay(20), Shadow),
        ("c", Record, NoRecord, Shadow),
    ]);
    let pass = admit(&setup.chain, tool("x")).expect("nobody may refuse or hold");
    assert_eq!(pass.delayed(), Duration::ZERO);
    assert_eq!(
        setup.counted(),
        [
            ("admit", "none"),
            ("shadow_reject", "no"),
            ("shadow_delay", "none"),
            ("shadow_reject", "no")
        ]
    );
}

#[test]
fn what_cannot_be_recorded_is_refused_and_everybody_hears_one_ending() {
    let setup = probes(&[
        ("a", Record, Admit, Enforce),
        ("b", Record, NoRecord, Enforce),
        ("c", Meter, Admit, Enforce),
    ]);
    assert!(admit(&setup.chain, tool("x")).is_err());
    assert_eq!(
        setup.heard(),
        [
            "a request",
            "b request",
            "c request",
            "a admit",
            "b admit",
            "a undelivered",
            "c refuse no by b",
        ]
    );
}

#[test]
fn who_waits_is_told_when_it_starts_and_when_it_ends_also_by_leaving() {
    #[derive(Default)]
    struct Told(Mutex<Vec<String>>);
    impl Waiting for Told {
        fn waiting(&self, policy: &Arc<str>, span: Duration) {
            self.0
                .lock()
                .expect("not poisoned")
                .push(format!("{policy} {span:?}"));
        }
        fn done_waiting(&self) {
            self.0.lock().expect("not poisoned").push("done".into());
        }
    }
    let setup = probes(&[("a", Shape, Delay(20), Enforce)]);
    let told = Told::default();
    let mut call = Box::pin(setup.chain.admit(tool("x"), &told));
    assert!((&mut call).now_or_never().is_none());
    assert_eq!(*told.0.lock().expect("not poisoned"), ["a 20s"]);
    drop(call);
    assert_eq!(*told.0.lock().expect("not poisoned"), ["a 20s", "done"]);
}

#[test]
fn explain_shows_the_whole_chain_in_order_and_spends_nothing() {
    let (_, services) = services();
    let sink: Arc<Memory> = Arc::default();
    let services = Services {
        audit: Some(sink.clone()),
        ..services
    };
    let tables = [
        json!({"type": "timeout", "after": "60s", "max": "30m"}),
        json!({"type": "quota", "name": "q", "allow": "1/h", "match": {"server": "files"}}),
        json!({"type": "access", "deny": "files__write_*"}),
    ];
    let chain = chain(&tables, &services);
    for _ in 0..3 {
        let lines = chain.explain(&call("a", "other", "tools/call", Some("x")));
        let seen: Vec<(&str, bool)> = lines.iter().map(|line| (line.kind, line.applies)).collect();
        assert_eq!(
            seen,
            [
                ("audit", true),
                ("access", true),
                ("quota", false),
                ("timeout", true)
            ]
        );
        assert_eq!(
            lines[2].summary,
            "1 per 1h for each agent, 1 at once; refuses what exceeds it"
        );
        assert_eq!(lines[2].rule, "server files");
        assert_eq!(
            lines[3].summary,
            "ends the call after 1m of silence, after 30m in all"
        );
    }
    assert!(sink.records().is_empty());
    assert!(admit(&chain, tool("x")).is_ok());
}

#[test]
fn mistakes_of_all_tables_are_reported_together() {
    let (_, services) = services();
    let tables = [
        json!({"type": "quota"}),
        json!({"type": "timeout", "name": "t", "after": "1s"}),
        json!({"type": "timeout", "name": "t", "max": "1s"}),
        json!({"type": "audit"}),
        json!({"allow": "1/s"}),
        json!("quota"),
        json!({"type": "access"}),
        json!({"type": "timeout", "after": "5m", "max": "1m", "per": "agent"}),
        json!({"type": "boss-alert", "alertness": 101, "hold": "1h", "scope": "team"}),
        json!({"type": "access", "deny": ["[x"]}),
        json!({"type": "concurrency", "at_most": 1}),
    ];
    let mistakes = Chain::build(&tables, &services).expect_err("mistakes");
    let seen: Vec<(usize, String)> = mistakes
        .iter()
        .map(|mistake| (mistake.policy, mistake.key.join(".")))
        .collect();
    let expected = [
        (0, ""),
        (2, "name"),
        (3, ""),
        (4, ""),
        (5, ""),
        (6, ""),
        (7, "max"),
        (7, "per"),
        (8, "alertness"),
        (8, "hold"),
        (8, "scope"),
        (9, "deny"),
        (10, ""),
        (10, "at_most"),
    ];
    assert_eq!(seen.len(), expected.len(), "{mistakes:#?}");
    for (policy, key) in expected {
        assert!(
            seen.contains(&(policy, key.into())),
            "{policy} {key}: {seen:?}"
        );
    }
    assert!(
        mistakes.iter().all(|mistake| mistake.help.is_some()),
        "{mistakes:#?}"
    );
}

#[test]
fn two_policies_that_say_the_same_need_names() {
    let (_, services) = services();
    let tables = [
        json!({"type": "quota", "allow": "1/s"}),
        json!({"type": "quota", "allow": "9/h"}),
    ];
    let mistakes = Chain::build(&tables, &services).expect_err("one name twice");
    assert_eq!(
        (mistakes[0].policy, mistakes[0].key.join(".")),
        (1, "name".into())
    );
}

#[test]
fn every_kind_documents_every_key_it_reads() {
    let (_, services) = services();
    let services = Services {
        audit: Some(Arc::new(Memory::default())),
        ..services
    };
    for kind in crate::KINDS {
        let table = json!({"type": kind.name, "zzzzzzzzzzzzzzzzzzzz": 1});
        let mistakes = Chain::build(&[table], &services).expect_err("an unknown key");
        let help = mistakes
            .iter()
            .find_map(|mistake| mistake.help.as_ref()?.strip_prefix("known keys here: "));
        let mut known: Vec<&str> = help.expect("the list of keys").split(", ").collect();
        let keys = crate::engine::kind::COMMON_KEYS.iter().chain(kind.keys);
        let mut documented: Vec<&str> = keys.map(|key| key.name).collect();
        known.sort_unstable();
        documented.sort_unstable();
        assert_eq!(known, documented, "{}", kind.name);
    }
}

#[test]
fn the_admit_future_can_travel_between_threads() {
    fn assert_send<T: Send>(value: T) -> T {
        value
    }
    fn assert_sync<T: Send + Sync>() {}
    let (_, services) = services();
    let chain = chain(&[], &services);
    assert!(
        assert_send(chain.admit(tool("x"), &()))
            .now_or_never()
            .is_some()
    );
    assert_sync::<Pass>();
    assert_sync::<Rejection>();
}

#[test]
fn deadlines_tighten_bound_by_bound() {
    let of = |idle: Option<u64>, max: Option<u64>| Deadline {
        idle: idle.map(Duration::from_secs),
        max: max.map(Duration::from_secs),
    };
    assert_eq!(
        of(Some(5), None).tightest(of(Some(3), Some(9))),
        of(Some(3), Some(9))
    );
    assert_eq!(
        of(None, Some(2)).tightest(of(Some(3), Some(9))),
        of(Some(3), Some(2))
    );
}

/// What a host does in the balance test.
#[derive(Clone, Debug)]
enum Step {
    Call { agent: u8, server: u8 },
    Pass(u64),
    Leave(usize),
    Finish(usize),
    Abort(usize),
    Full(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..3, 0u8..2).prop_map(|(agent, server)| Step::Call { agent, server }),
        3 => (0u64..8_000).prop_map(Step::Pass),
        2 => (0usize..6).prop_map(Step::Leave),
        2 => (0usize..6).prop_map(Step::Finish),
        1 => (0usize..6).prop_map(Step::Abort),
        1 => any::<bool>().prop_map(Step::Full),
    ]
}

fn everything() -> Vec<Value> {
    vec![
        json!({"type": "access", "match": {"agent": "agent-2"}, "deny": "s1__*"}),
        json!({"type": "quota", "allow": "2/s", "burst": 3, "exceed": {"wait": "1s"}}),
        json!({"type": "boss-alert", "alertness": 100, "cooldown": "3s", "hold": "2s"}),
        json!({"type": "concurrency", "at-most": 2, "per": "server", "exceed": {"wait": "3s"}}),
        json!({"type": "timeout", "after": "60s"}),
    ]
}

proptest! {
    #[test]
    fn audit_records_add_up_whatever_hosts_do(
        steps in proptest::collection::vec(step(), 1..120), may_fail in any::<bool>(),
    ) {
        let (clock, services) = services();
        let sink: Arc<Memory> = Arc::default();
        let services = Services { audit: Some(sink.clone()), ..services };
        let chain = chain(&everything(), &services);
        let mut received = 0usize;
        let mut unrecorded = 0usize;
        let mut waiting: Vec<BoxFuture<'_, Result<Box<Pass>, Rejection>>> = Vec::new();
        let mut running: Vec<Box<Pass>> = Vec::new();
        for step in steps {
            match step {
                Step::Call { agent, server } => {
                    let mut call = call(
                        &format!("agent-{agent}"), &format!("s{server}"), "tools/call", Some("x"),
                    );
                    call.id = Some(received.to_string().into());
                    received += 1;
                    waiting.push(Box::pin(chain.admit(call, &())));
                }
                Step::Pass(millis) => clock.advance(Duration::from_millis(millis)),
                Step::Leave(which) if which < waiting.len() => drop(waiting.remove(which)),
                Step::Finish(which) if which < running.len() => {
                    running.remove(which).complete(Completion::of(Outcome::Ok));
                }
                Step::Abort(which) if which < running.len() => drop(running.remove(which)),
                Step::Full(full) if may_fail => sink.set_full(full),
                _ => {}
            }
            let mut still = Vec::new();
            for mut call in waiting {
                match (&mut call).now_or_never() {
                    Some(Ok(pass)) => running.push(pass),
                    Some(Err(rejection)) => unrecorded += usize::from(rejection.reason == "audit_down"),
                    None => still.push(call),
                }
            }
            waiting = still;
        }
        drop(waiting);
        drop(running);
        let mut phases: HashMap<String, Vec<String>> = HashMap::new();
        for record in sink.records() {
            let id = record["id"].as_str().expect("an id").to_owned();
            let phase = record["phase"].as_str().expect("a phase").to_owned();
            phases.entry(id).or_default().push(phase);
        }
        for (id, phases) in &phases {
            let legal = match phases.join(" ").as_str() {
                "refuse" | "admit done" => true,
                // The sink failed between the two, or before.
                "admit" | "done" => may_fail,
                _ => false,
            };
            prop_assert!(legal, "call {}: {:?}", id, phases);
        }
        if may_fail {
            prop_assert!(phases.len() + unrecorded <= received);
        } else {
            prop_assert_eq!(phases.len(), received, "received = admitted + refused");
        }
        // Nothing is left behind: slots are free for the next configuration.
        for server in ["s0", "s1"] {
            let name = chain.policies().iter().find(|line| line.kind == "concurrency").map(|line| line.name.clone());
            let key = crate::engine::ledger::Key { server: Some(server.into()), ..Default::default() };
            let bucket = crate::engine::ledger::Bucket { name: name.expect("there").into(), key };
            prop_assert_eq!(services.slots.taken(&bucket), 0);
        }
    }
}

#[tokio::test]
async fn a_thousand_concurrent_calls_of_two_agents_are_counted_exactly() {
    let (_, services) = services();
    let tables = [json!({"type": "quota", "allow": "300/h", "match": {"method": "tools/call"}})];
    let chain = chain(&tables, &services);
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..1_000 {
        let (chain, agent) = (Arc::clone(&chain), if index % 2 == 0 { "a" } else { "b" });
        tasks.spawn(async move {
            tokio::task::yield_now().await;
            let admitted = chain
                .admit(call(agent, "s", "tools/call", Some("x")), &())
                .await;
            (agent, admitted.is_ok())
        });
    }
    let mut admitted: HashMap<&str, usize> = HashMap::new();
    while let Some(done) = tasks.join_next().await {
        let (agent, yes) = done.expect("no task panics");
        *admitted.entry(agent).or_default() += usize::from(yes);
    }
    assert_eq!((admitted["a"], admitted["b"]), (300, 300));
}
