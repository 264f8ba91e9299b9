//! The chain: which policies, in which order, and what becomes of their verdicts.
//!
//! Policies say, the chain does: it sleeps, counts, keeps deadlines and slots, and sees to it that
//! every policy that was asked hears one ending. It talks to nobody; who waits is told through
//! [`Waiting`], who is refused by the caller.

use std::sync::Arc;
use std::time::Duration;

use super::call::Call;
use super::clock::Clock;
use super::kind::Mode;
use super::pass::Pass;
use super::policy::{Answer, Policy, Rejection, Stage, Verdict};
use super::rule::Rule;
use super::services::{Services, Tally};

mod build;

#[cfg(test)]
mod tests;

/// Most policies in one chain.
pub const MOST_POLICIES: usize = 256;

/// The policies of one configuration, in order. Immutable; a reload builds another.
#[derive(Debug)]
pub struct Chain {
    pub(super) links: Vec<Link>,
    pub(super) clock: Arc<dyn Clock>,
    screens: bool,
}

/// One policy and what the chain does for it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) name: Arc<str>,
    pub(super) kind: &'static str,
    pub(super) stage: Stage,
    pub(super) mode: Mode,
    pub(super) rule: Rule,
    pub(super) answer: Answer,
    /// Only the first matching policy of this kind is asked.
    pub(super) once: bool,
    pub(super) policy: Arc<dyn Policy>,
    pub(super) tally: Arc<dyn Tally>,
}

/// Told while a policy makes a call wait, so that the host can be told.
pub trait Waiting: Send + Sync {
    /// `policy` holds the call for at most `span`.
    fn waiting(&self, policy: &Arc<str>, span: Duration);

    /// The wait is over, one way or the other.
    fn done_waiting(&self);
}

/// Nobody needs to know.
impl Waiting for () {
    fn waiting(&self, _: &Arc<str>, _: Duration) {}

    fn done_waiting(&self) {}
}

/// Says that the wait is over, also when the host leaves in the middle of it.
struct Told<'w>(&'w dyn Waiting, &'w dyn Tally);

impl<'w> Told<'w> {
    fn of(waiting: &'w dyn Waiting, link: &'w Link, span: Duration) -> Self {
        waiting.waiting(&link.name, span);
        link.tally.holds(true);
        Self(waiting, &*link.tally)
    }
}

impl Drop for Told<'_> {
    fn drop(&mut self) {
        self.0.done_waiting();
        self.1.holds(false);
    }
}

/// One line of `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExplainLine {
    /// Name of the policy.
    pub name: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its stage.
    pub stage: Stage,
    /// Whether it acts.
    pub mode: Mode,
    /// Whether it is asked for this call.
    pub applies: bool,
    /// Which calls it is about.
    pub rule: String,
    /// What it does to them.
    pub summary: String,
}

impl Chain {
    /// Builds the chain of a configuration: `tables` are the `[[policy]]` tables in file order,
    /// presets merged. With an audit sink and no audit policy among them, the default one is added.
    ///
    /// # Errors
    /// Every mistake of every table.
    pub fn build(
        tables: &[serde_json::Value],
        services: &Services,
    ) -> Result<Self, Vec<super::fields::Mistake>> {
        build::chain(tables, services)
    }

    fn new(mut links: Vec<Link>, clock: Arc<dyn Clock>) -> Self {
        links.sort_by_key(|link| link.stage);
        let screens = links.iter().any(Link::screens);
        Self {
            links,
            clock,
            screens,
        }
    }

    /// Asks every policy in order and waits where they say so.
    ///
    /// Cancel-safe: dropping the future while a policy holds the call counts as a refusal with
    /// reason `cancelled`, told to every policy asked so far, so that audit records always add up:
    /// received = admitted + refused, and each admitted call has one done record.
    ///
    /// # Errors
    /// The refusal to answer the host with. Nothing has reached a server then.
    pub fn admit<'c>(
        self: &'c Arc<Self>,
        call: impl Into<Arc<Call>>,
        waiting: &'c dyn Waiting,
    ) -> impl Future<Output = Result<Box<Pass>, Rejection>> + Send + 'c {
        // Made outside and boxed, so that the future stays small.
        let mut pass = Box::new(Pass::new(Arc::clone(self), call.into()));
        async move {
            for (index, link) in self.links.iter().enumerate() {
                if !pass.asks(index, link) {
                    continue;
                }
                let mut verdict = link.policy.on_request(pass.call());
                while let Some(next) = pass.weigh(index, link, verdict, waiting).await? {
                    verdict = next;
                }
            }
            pass.admitted()
        }
    }

    /// Records a call that the gate itself refuses before any other policy is asked, so that every
    /// call received has its record. Only policies of [`Stage::Record`] hear of it: nothing is
    /// counted against a budget.
    pub fn turn_away(self: &Arc<Self>, call: Call, rejection: &Rejection) {
        let mut pass = Pass::new(Arc::clone(self), call.into());
        for (index, link) in self.links.iter().enumerate() {
            if link.stage == Stage::Record {
                // Noted as asked; a recorder is told of the end, not of the request.
                let _ = pass.asks(index, link);
            }
        }
        pass.refused(None, rejection);
    }

    /// Whether a list may show what `call` would call: the decision of the access and scope
    /// policies, the same that [`Chain::admit`] follows.
    pub fn visible(&self, call: &Call) -> bool {
        self.links
            .iter()
            .take_while(|link| link.stage <= Stage::Scope)
            .filter(|link| link.screens())
            .all(|link| !link.rule.matches(call) || link.policy.visible(call))
    }

    /// Every scope that this call needs, each once, in the order of the policies.
    fn scopes(&self, call: &Call) -> Vec<Arc<str>> {
        let asking = self
            .links
            .iter()
            .filter(|link| link.stage == Stage::Scope && link.screens() && link.rule.matches(call));
        let mut all = Vec::new();
        for scope in asking.flat_map(|link| link.policy.scopes()) {
            if !all.contains(scope) {
                all.push(scope.clone());
            }
        }
        all
    }

    /// Whether any policy may hide something. If not, lists can pass as they are, byte by byte.
    pub fn screens_lists(&self) -> bool {
        self.screens
    }

    /// The whole chain as this call would meet it, in order. Asks nobody and spends nothing.
    pub fn explain(&self, call: &Call) -> Vec<ExplainLine> {
        let mut seen: Vec<&str> = Vec::new();
        self.links
            .iter()
            .map(|link| {
                let applies = link.rule.matches(call) && !(link.once && seen.contains(&link.kind));
                if applies {
                    seen.push(link.kind);
                }
                ExplainLine {
                    applies,
                    ..link.describe()
                }
            })
            .collect()
    }

    /// All policies in order, as if every one applied.
    pub fn policies(&self) -> Vec<ExplainLine> {
        self.links.iter().map(Link::describe).collect()
    }
}

impl Link {
    /// Whether it decides what lists show.
    fn screens(&self) -> bool {
        matches!(self.stage, Stage::Access | Stage::Scope) && self.mode == Mode::Enforce
    }

    fn describe(&self) -> ExplainLine {
        ExplainLine {
            name: self.name.to_string(),
            kind: self.kind,
            stage: self.stage,
            mode: self.mode,
            applies: true,
            rule: self.rule.summary(),
            summary: self.policy.summary(),
        }
    }
}

impl Pass {
    /// Carries one verdict out. `Some` is the verdict to weigh next, from a store or a queue.
    async fn weigh(
        &mut self,
        index: usize,
        link: &Link,
        verdict: Verdict,
        waiting: &dyn Waiting,
    ) -> Result<Option<Verdict>, Rejection> {
        let enforced = link.mode == Mode::Enforce;
        match verdict {
            Verdict::Admit => link.tally.decided("admit", "none"),
            Verdict::Slot(slot) => {
                self.keep(slot);
                link.tally.decided("admit", "none");
            }
            Verdict::Deadline(deadline) => {
                if enforced {
                    self.tighten(deadline);
                }
                link.tally.decided("admit", "none");
            }
            Verdict::Delay(span) => self.hold(index, link, span, waiting).await,
            Verdict::Rest(span) => {
                let sleep = self.clock().sleep(span);
                Box::pin(self.wait(index, link, span, sleep, waiting)).await;
            }
            Verdict::Metered(metered) => {
                self.metered(link, metered);
                self.hold(index, link, metered.wait, waiting).await;
            }
            Verdict::Boss(reading) => {
                self.boss(reading);
                let span = reading.held.filter(|_| !self.held()).unwrap_or_default();
                self.set_held(enforced && !span.is_zero());
                self.hold(index, link, span, waiting).await;
            }
            Verdict::Wait { .. } if !enforced => link.tally.decided("shadow_delay", "none"),
            Verdict::Wait { at_most, turn } => {
                link.tally.decided("delay", "none");
                let next = Box::pin(self.wait(index, link, at_most, turn, waiting)).await;
                return match next {
                    Verdict::Reject(rejection) => Err(self.rejected(link, rejection)),
                    Verdict::Slot(slot) => {
                        self.keep(slot);
                        Ok(None)
                    }
                    Verdict::Metered(metered) => {
                        self.metered(link, metered);
                        // The last moment of a wait that is counted already.
                        if !metered.wait.is_zero() {
                            return Ok(Some(Verdict::Rest(metered.wait)));
                        }
                        Ok(None)
                    }
                    other => Ok(Some(other)),
                };
            }
            Verdict::Later(answer) => {
                self.stand_at(index);
                return Ok(Some(answer.await));
            }
            Verdict::Reject(rejection) if enforced => return Err(self.rejected(link, rejection)),
            Verdict::Reject(rejection) => link.tally.decided("shadow_reject", rejection.reason),
        }
        Ok(None)
    }

    /// Holds the call for `span`; zero is an admission.
    async fn hold(&mut self, index: usize, link: &Link, span: Duration, waiting: &dyn Waiting) {
        if span.is_zero() {
            link.tally.decided("admit", "none");
        } else if link.mode == Mode::Shadow {
            link.tally.decided("shadow_delay", "none");
        } else {
            link.tally.decided("delay", "none");
            let sleep = self.clock().sleep(span);
            Box::pin(self.wait(index, link, span, sleep, waiting)).await;
        }
    }

    /// Waits for `turn` and books the time, telling who wants to know.
    async fn wait<T>(
        &mut self,
        index: usize,
        link: &Link,
        at_most: Duration,
        turn: impl Future<Output = T>,
        waiting: &dyn Waiting,
    ) -> T {
        self.stand_at(index);
        self.wait_since(Some(self.clock().now()));
        let turned = {
            let _told = Told::of(waiting, link, at_most);
            turn.await
        };
        let passed = self.waited();
        link.tally.delayed(passed);
        turned
    }

    /// Words a policy's refusal the way its table says and tells the others.
    fn rejected(&mut self, link: &Link, mut rejection: Rejection) -> Rejection {
        rejection.answer = link.answer;
        rejection.waited_ms = self.delayed_ms();
        if link.stage == Stage::Scope {
            rejection.ask_for(&self.chain().scopes(self.call()));
        }
        link.tally.decided("reject", rejection.reason);
        self.refused(Some(&link.policy), &rejection);
        rejection
    }
}
