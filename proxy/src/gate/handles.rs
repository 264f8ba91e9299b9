//! Whose tasks and states are whose: what a server hands to one agent is good for no other.
//!
//! A server sees one client, chillgate, whoever is behind it; so that one agent's task id or
//! `requestState` is of no use to another is for chillgate to see to. It remembers whom a handle
//! went to, and on an endpoint of several servers which of them made a task. It never changes one,
//! and what it has not seen, such as one from before a restart, it leaves to the server. Where replicas
//! share a store, each knows what the others have handed out.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use chillgate_wire::{Envelope, code, json};
use sha2::{Digest, Sha256};

use crate::era::rounds;
use crate::exchange::Exchange;
use crate::gate::Refusal;
use crate::lock::locked;
use crate::replicas::Replicas;
use crate::route::Route;

/// How many of one agent are remembered, the oldest go first; and of how many agents.
const MOST: usize = 2_000;
const AGENTS: usize = 1_000;
/// A state that went to so many agents is no secret.
const SHARED: usize = 64;

/// What was handed out.
#[derive(Debug, Default)]
pub struct Handles {
    owned: Mutex<Owned>,
    replicas: Replicas,
}

#[derive(Debug, Default)]
struct Owned {
    /// To whom it was handed: servers may hand equal states to several.
    agents: HashMap<Key, Vec<Arc<str>>>,
    /// Which servers made a task of this id for this agent.
    makers: HashMap<Key, Vec<Arc<str>>>,
    /// What each agent got, in order.
    order: HashMap<Arc<str>, VecDeque<(Key, Key)>>,
}

type Key = [u8; 32];

/// A handle of this server, by its digest: some are long.
fn key(kind: &str, owner: &str, handle: &str) -> Key {
    let mut digest = Sha256::new();
    for part in [kind, owner, handle] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// A task or a state that a request goes on with, or asks about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// `task` or `state`.
    pub kind: &'static str,
    /// What its server calls it.
    pub handle: String,
}

impl Named {
    /// What this request names, where it names one.
    pub fn of(request: &Envelope) -> Option<Self> {
        let method = request.method()?;
        let (kind, member) = match method {
            _ if method.starts_with("tasks/") => ("task", "taskId"),
            _ if rounds::may_ask(method) => ("state", rounds::STATE),
            _ => return None,
        };
        let handle = request.text(&["params", member])?.into_owned();
        Some(Self { kind, handle })
    }
}

impl Handles {
    /// Nothing yet; what other replicas are to know is told to them.
    pub fn new(replicas: Replicas) -> Self {
        Self {
            owned: Mutex::default(),
            replicas,
        }
    }

    /// Why a request is not for its server that names what is another's.
    pub fn unknown(kind: &str) -> Refusal {
        let what = if kind == "task" {
            "there is no such task".to_owned()
        } else {
            rounds::Broken.to_string()
        };
        Refusal::Answered {
            code: code::INVALID_PARAMS,
            message: format!("Invalid params: {what}"),
            data: None,
        }
    }

    /// The server that made a task of this agent, as far as is known; of two that did, none.
    pub fn maker(&self, agent: &str, task: &str) -> Option<Arc<str>> {
        let owned = locked(&self.owned);
        match owned.makers.get(&key("maker", agent, task))?.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        }
    }

    /// Whether the request may go to its server with the handles that it names.
    ///
    /// # Errors
    /// One of them is another agent's; it is as unknown as one that never was.
    pub fn check(&self, exchange: &Exchange, route: &Route) -> Result<(), Refusal> {
        let agent = &exchange.session.subject;
        let server = &route.call.server;
        let is_foreign = |kind, handle: &str| self.is_foreign(kind, agent, server, handle);
        if route.call.method.starts_with("tasks/")
            && let Some(task) = route.call.target.as_deref()
            && is_foreign("task", task)
        {
            return Err(Self::unknown("task"));
        }
        if rounds::may_ask(&route.call.method)
            && let Some(state) = route.request.text(&["params", rounds::STATE])
            && is_foreign("state", &state)
        {
            return Err(Self::unknown("state"));
        }
        Ok(())
    }

    fn is_foreign(&self, kind: &str, agent: &Arc<str>, server: &str, handle: &str) -> bool {
        let owned = locked(&self.owned);
        let owners = owned.agents.get(&key(kind, server, handle));
        owners.is_some_and(|owners| !is_among(owners, agent))
    }

    /// Notes what an answer hands to its agent; the answer without what is another's.
    pub fn note(&self, exchange: &Exchange, route: &Route, answer: Envelope) -> Envelope {
        let (subject, server) = (&exchange.session.subject, &route.call.server);
        if let Some(state) = answer.text(&["result", rounds::STATE]) {
            self.keep("state", subject, server, &state);
            self.replicas.hand_out("state", &state, subject);
        }
        // Flat since 2026-07-28, in an object of its own before.
        for path in [&["result", "taskId"][..], &["result", "task", "taskId"]] {
            if !route.call.method.starts_with("tasks/")
                && let Some(task) = answer.text(path)
            {
                self.keep("task", subject, server, &task);
                self.replicas.hand_out("task", &task, subject);
            }
        }
        if &*route.call.method == "tasks/list" {
            return self.own_tasks(exchange, server, &answer);
        }
        answer
    }

    /// A list of tasks of a server that several agents share, without those of others.
    fn own_tasks(&self, exchange: &Exchange, server: &str, answer: &Envelope) -> Envelope {
        let tasks = answer.get(&["result", "tasks"]).unwrap_or(b"[]");
        let agent = &exchange.session.subject;
        let owned = locked(&self.owned);
        let is_own = |task: &&[u8]| {
            let id = json::member(task, "taskId").and_then(|at| json::text(&task[at]));
            let owners = id.and_then(|id| owned.agents.get(&key("task", server, &id)));
            owners.is_none_or(|owners| is_among(owners, agent))
        };
        let all: Vec<&[u8]> = json::items(tasks).map(|at| &tasks[at]).collect();
        let own: Vec<&[u8]> = all.iter().copied().filter(is_own).collect();
        if own.len() == all.len() {
            return answer.clone();
        }
        let list = [b"[", own.join(&b","[..]).as_slice(), b"]"].concat();
        let mut edit = answer.edit();
        edit.set(&["result", "tasks"], list);
        edit.finish()
    }

    fn keep(&self, kind: &str, agent: &Arc<str>, server: &Arc<str>, handle: &str) {
        let agent = agent.clone();
        let by_server = key(kind, server, handle);
        let by_agent = key("maker", &agent, handle);
        let mut owned = locked(&self.owned);
        let Owned {
            agents,
            makers,
            order,
        } = &mut *owned;
        let owners = agents.entry(by_server).or_default();
        if kind == "task" {
            // A server that gives an id again has made another task.
            *owners = vec![agent.clone()];
            let makers = makers.entry(by_agent).or_default();
            if !makers.contains(server) {
                makers.push(server.clone());
            }
        } else if is_among(owners, &agent) {
            return;
        } else {
            owners.push(agent.clone());
        }
        if order.len() >= AGENTS && !order.contains_key(&agent) {
            // Somebody's are forgotten: their servers judge them then.
            let some = order.keys().next().cloned();
            for (by_server, by_agent) in some
                .and_then(|some| order.remove(&some))
                .unwrap_or_default()
            {
                agents.remove(&by_server);
                makers.remove(&by_agent);
            }
        }
        let own = order.entry(agent).or_default();
        own.push_back((by_server, by_agent));
        if own.len() > MOST
            && let Some((by_server, by_agent)) = own.pop_front()
        {
            agents.remove(&by_server);
            makers.remove(&by_agent);
        }
    }
}

fn is_among(owners: &[Arc<str>], agent: &Arc<str>) -> bool {
    owners.len() >= SHARED || owners.contains(agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agent(number: usize) -> Arc<str> {
        format!("agent-{number}").into()
    }

    fn held(handles: &Handles) -> usize {
        let owned = locked(&handles.owned);
        let in_order: usize = owned.order.values().map(VecDeque::len).sum();
        assert!(owned.agents.len() <= in_order && owned.makers.len() <= in_order);
        owned.agents.len()
    }

    #[test]
    fn the_oldest_handles_of_an_agent_go_and_nobody_elses() {
        let (handles, server) = (Handles::default(), Arc::from("s"));
        let (ann, eve) = (agent(1), agent(2));
        handles.keep("task", &ann, &server, "hers");
        for number in 0..MOST + 50 {
            handles.keep("task", &eve, &server, &number.to_string());
        }
        assert_eq!(held(&handles), MOST + 1);
        assert!(handles.is_foreign("task", &eve, &server, "hers"));
        assert!(!handles.is_foreign("task", &ann, &server, "hers"));
        assert!(
            handles.is_foreign("task", &ann, &server, "50"),
            "eve's, and kept"
        );
        assert!(
            !handles.is_foreign("task", &ann, &server, "49"),
            "no longer known"
        );
        assert!(!handles.is_foreign("task", &ann, "another", "50"));
    }

    #[test]
    fn of_more_agents_than_are_kept_one_is_forgotten_whole() {
        let (handles, server) = (Handles::default(), Arc::from("s"));
        for number in 0..AGENTS + 10 {
            handles.keep("state", &agent(number), &server, &format!("a-{number}"));
            handles.keep("state", &agent(number), &server, &format!("b-{number}"));
        }
        assert_eq!(held(&handles), 2 * AGENTS);
        let last = agent(AGENTS + 9);
        assert!(!handles.is_foreign("state", &last, &server, &format!("a-{}", AGENTS + 9)));
        assert!(handles.is_foreign("state", &agent(0), &server, &format!("a-{}", AGENTS + 9)));
    }

    #[test]
    fn a_handle_that_a_server_gives_to_very_many_is_nobodys_own() {
        let (handles, server) = (Handles::default(), Arc::from("s"));
        let eve = agent(9_999);
        for number in 0..SHARED {
            assert_eq!(
                number > 0,
                handles.is_foreign("state", &eve, &server, "same")
            );
            handles.keep("state", &agent(number), &server, "same");
        }
        assert!(!handles.is_foreign("state", &eve, &server, "same"));
    }
}
