//! The pass: a call on its way through the chain and past it, and the promise that it ends once.
//!
//! A guard. Whatever happens to the exchange (an answer, an error, a host that leaves, a task that
//! is aborted), each policy that was asked hears exactly one ending, and slots come back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::boss::Reading;
use super::call::{Call, Completion, Levels, Outcome};
use super::chain::{Chain, Link, MOST_POLICIES};
use super::clock::Clock;
use super::policy::{Admitted, Deadline, Metered, Policy, Rejection};

/// Leave to go to the server. Call [`Pass::complete`] at the end; dropping it instead reports
/// [`Outcome::Cancelled`].
#[must_use = "dropping a pass reports the call as cancelled"]
pub struct Pass {
    chain: Arc<Chain>,
    call: Arc<Call>,
    asked: Asked,
    /// Where the call stands while it waits.
    at: usize,
    /// Since when it waits there.
    since: Option<Instant>,
    stage: Progress,
    admitted: Admitted,
    deadline: Option<Deadline>,
    slots: Vec<Box<dyn Send + Sync>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Entering,
    Running { since: Instant },
    Over,
}

/// Which links were asked, as bits.
#[derive(Clone, Copy, Default)]
struct Asked([u64; MOST_POLICIES / 64]);

impl Asked {
    fn insert(&mut self, index: usize) {
        if let Some(word) = self.0.get_mut(index / 64) {
            *word |= 1 << (index % 64);
        }
    }

    fn any(self) -> bool {
        self.0 != [0; MOST_POLICIES / 64]
    }

    fn contains(self, index: usize) -> bool {
        self.0
            .get(index / 64)
            .is_some_and(|word| word >> (index % 64) & 1 == 1)
    }
}

impl std::fmt::Debug for Pass {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pass")
            .field("call", &self.call)
            .field("admitted", &self.admitted)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

impl Pass {
    /// The call, as the policies saw it.
    pub fn call(&self) -> &Call {
        &self.call
    }

    /// The tightest bounds any policy set; none: the gate's own defaults hold.
    pub fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }

    /// Whether a boss alert held it, so that the built-in server does not hold it again.
    pub fn held(&self) -> bool {
        self.admitted.held
    }

    /// How long policies held it, in all.
    pub fn delayed(&self) -> Duration {
        self.admitted.delayed
    }

    pub(super) fn delayed_ms(&self) -> u32 {
        u32::try_from(self.admitted.delayed.as_millis()).unwrap_or(u32::MAX)
    }

    /// The tightest budget it was counted against: policy and state.
    pub fn budget(&self) -> Option<(&str, Metered)> {
        self.admitted
            .metered
            .as_ref()
            .map(|(name, metered)| (&**name, *metered))
    }

    /// Ends the call: every policy that let it pass hears how, last to first, and slots come back.
    pub fn complete(mut self, completion: Completion) {
        self.end(completion);
    }

    pub(super) fn new(chain: Arc<Chain>, call: Arc<Call>) -> Self {
        Self {
            chain,
            call,
            asked: Asked::default(),
            at: 0,
            since: None,
            stage: Progress::Entering,
            admitted: Admitted::default(),
            deadline: None,
            slots: Vec::new(),
        }
    }

    /// Whether this link has a say; notes that it is asked.
    pub(super) fn asks(&mut self, index: usize, link: &Link) -> bool {
        let applies = link.rule.matches(&self.call) && !(link.once && self.asked_kind(link.kind));
        if applies {
            self.asked.insert(index);
        }
        applies
    }

    pub(super) fn chain(&self) -> &Chain {
        &self.chain
    }

    pub(super) fn clock(&self) -> &Arc<dyn Clock> {
        &self.chain.clock
    }

    pub(super) fn stand_at(&mut self, index: usize) {
        self.at = index;
    }

    pub(super) fn keep(&mut self, slot: Box<dyn Send + Sync>) {
        self.slots.push(slot);
    }

    pub(super) fn tighten(&mut self, deadline: Deadline) {
        self.deadline = Some(self.deadline.unwrap_or_default().tightest(deadline));
    }

    pub(super) fn wait_since(&mut self, since: Option<Instant>) {
        self.since = since;
    }

    /// Books the time it has waited, as far as it does; how much.
    pub(super) fn waited(&mut self) -> Duration {
        let since = self.since.take();
        let passed = since.map(|since| self.chain.clock.now().saturating_duration_since(since));
        let passed = passed.unwrap_or_default();
        self.admitted.delayed += passed;
        passed
    }

    pub(super) fn set_held(&mut self, held: bool) {
        self.admitted.held |= held;
    }

    pub(super) fn boss(&mut self, reading: Reading) {
        let levels = self.admitted.levels.get_or_insert_default();
        levels.boss_before.get_or_insert(reading.before);
        levels.boss_after = Some(reading.after);
    }

    /// Keeps the budget with the smaller share left.
    pub(super) fn metered(&mut self, link: &Link, metered: Metered) {
        let share =
            |of: &Metered| u128::from(of.remaining) * 1_000_000 / u128::from(of.limit.max(1));
        let tighter = self
            .admitted
            .metered
            .as_ref()
            .is_none_or(|(_, old)| share(&metered) < share(old));
        if tighter {
            self.admitted.metered = Some((Arc::clone(&link.name), metered));
        }
    }

    /// The last verdict was an admission: tells every policy, outermost first.
    pub(super) fn admitted(mut self: Box<Self>) -> Result<Box<Self>, Rejection> {
        let chain = Arc::clone(&self.chain);
        for (index, link) in chain.links.iter().enumerate() {
            if !self.asked.contains(index) {
                continue;
            }
            let Err(mut rejection) = link.policy.on_admit(&self.call, &self.admitted) else {
                continue;
            };
            if link.mode == super::kind::Mode::Shadow {
                link.tally.decided("shadow_reject", rejection.reason);
                continue;
            }
            rejection.answer = link.answer;
            link.tally.decided("reject", rejection.reason);
            // Who was told of the admission hears its end, the others of the refusal.
            let undone = Completion {
                delay: self.admitted.delayed,
                ..Completion::of(Outcome::Undelivered)
            };
            for (before, told) in chain.links.iter().enumerate().take(index).rev() {
                if self.asked.contains(before) {
                    told.policy.on_complete(&self.call, &undone);
                }
            }
            self.asked = self.asked.after(index);
            self.refused(None, &rejection);
            return Err(rejection);
        }
        self.stage = Progress::Running {
            since: self.chain.clock.now(),
        };
        Ok(self)
    }

    /// Tells every policy asked but `by` of a refusal, last to first.
    pub(super) fn refused(&mut self, by: Option<&Arc<dyn Policy>>, rejection: &Rejection) {
        if self.stage != Progress::Entering {
            return;
        }
        self.stage = Progress::Over;
        for (index, link) in self.chain.links.iter().enumerate().rev() {
            if self.asked.contains(index) && !by.is_some_and(|by| Arc::ptr_eq(by, &link.policy)) {
                link.policy.on_refuse(&self.call, rejection);
            }
        }
        self.slots.clear();
    }

    fn asked_kind(&self, kind: &str) -> bool {
        let links = self.chain.links.iter().enumerate();
        links
            .into_iter()
            .any(|(index, link)| link.kind == kind && self.asked.contains(index))
    }

    fn end(&mut self, mut completion: Completion) {
        let Progress::Running { since } = self.stage else {
            return;
        };
        self.stage = Progress::Over;
        completion.duration = self.chain.clock.now().saturating_duration_since(since);
        completion.delay = self.admitted.delayed;
        completion.levels = merged(completion.levels, self.admitted.levels);
        for (index, link) in self.chain.links.iter().enumerate().rev() {
            if self.asked.contains(index) {
                link.policy.on_complete(&self.call, &completion);
            }
        }
        self.slots.clear();
    }
}

impl Asked {
    /// Only those after `index`.
    fn after(mut self, index: usize) -> Self {
        for (word, bits) in self.0.iter_mut().enumerate() {
            for bit in 0..64 {
                if word * 64 + bit <= index {
                    *bits &= !(1 << bit);
                }
            }
        }
        self
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.stage == Progress::Entering && self.asked.any() {
            let chain = Arc::clone(&self.chain);
            if let Some(link) = chain.links.get(self.at) {
                link.tally.decided("cancel", "cancelled");
                if self.since.is_some() {
                    link.tally.delayed(self.waited());
                }
                let mut rejection = Rejection::cancelled(&link.name, link.kind);
                rejection.waited_ms = self.delayed_ms();
                self.refused(None, &rejection);
            }
        }
        self.end(Completion::of(Outcome::Cancelled));
    }
}

/// What the server reported, completed by what policies saw.
fn merged(server: Option<Levels>, policies: Option<Levels>) -> Option<Levels> {
    let (Some(server), Some(policies)) = (server, policies) else {
        return server.or(policies);
    };
    Some(Levels {
        stress_before: server.stress_before.or(policies.stress_before),
        stress_after: server.stress_after.or(policies.stress_after),
        boss_before: server.boss_before.or(policies.boss_before),
        boss_after: server.boss_after.or(policies.boss_after),
    })
}
