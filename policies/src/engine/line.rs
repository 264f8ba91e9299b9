//! Whose turn is next: a line in which agents take turns by weight, and not by who came first.
//!
//! Start-time fair queueing: a line has a time of its own, which moves on with what is served, and each
//! agent a moment in it at which its next call begins; the earliest is next, and being served moves
//! an agent's moment on by what the call costs, divided by its weight. So an agent with a thousand
//! calls in line and one with a single one take turns, and leaving costs nothing. Apart from where it
//! is used (rooms of budgets, slots), because it knows no clock, no budget and no lock: it never waits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;

/// A call of cost 1 and weight 1 moves its agent's moment on by so much.
const STEP: u128 = 1 << 32;

/// Calls in line.
#[derive(Debug, Default)]
pub struct Line {
    /// The line's time: the moment of whoever was served last.
    now: u128,
    next: u64,
    flows: HashMap<Arc<str>, Flow>,
    /// Agents with calls in line, the next one first.
    order: BTreeMap<Rank, Arc<str>>,
    waiting: usize,
}

/// By moment; at the same one, who has not had its share comes before the others.
type Rank = (u128, bool, u64);

/// The calls of one agent, in the order in which they came.
#[derive(Debug, Default)]
struct Flow {
    /// When its first call begins; kept while none is in line until the line's time is there, so that
    /// coming back at once gains nothing.
    start: u128,
    weight: u32,
    /// It had less than its share when it came.
    fresh: bool,
    places: VecDeque<Place>,
    /// What all its calls in line cost together.
    cost: u64,
}

#[derive(Debug)]
struct Place {
    number: u64,
    cost: u64,
    waker: Option<Waker>,
}

/// Who waits, and for what.
#[derive(Clone, Debug)]
pub struct Wants {
    /// The agent, between whom the line is fair.
    pub agent: Arc<str>,
    /// How much of it the agent gets, in proportion to others; at least 1.
    pub weight: u32,
    /// What the call costs, at least 1.
    pub cost: u64,
}

/// How many may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of all agents.
    pub all: usize,
    /// Of each.
    pub each: usize,
}

/// A place in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    agent: Arc<str>,
    number: u64,
}

/// There is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The agent has as many calls in line as one may have.
    Own,
    /// The line is full, and no agent has more in it than this one.
    All,
}

impl Flow {
    fn rank(&self) -> Option<Rank> {
        let first = self.places.front()?;
        Some((self.start, !self.fresh, first.number))
    }

    fn step(&self, cost: u64) -> u128 {
        u128::from(cost) * STEP / u128::from(self.weight.max(1))
    }

    fn index(&self, number: u64) -> Option<usize> {
        self.places
            .binary_search_by_key(&number, |place| place.number)
            .ok()
    }
}

impl Line {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Takes a place at the end of its agent's. Where the line is full, the agent with the most calls
    /// in it, the newcomer counted, loses its newest: that is who has to be woken.
    ///
    /// # Errors
    /// When the newcomer is the one that would be lost.
    pub fn join(&mut self, wants: &Wants, bounds: Bounds) -> Result<(Ticket, Option<Waker>), Full> {
        let own = self.flows.get(&wants.agent);
        let own = own.map_or(0, |flow| flow.places.len());
        if own >= bounds.each.max(1) {
            return Err(Full::Own);
        }
        let mut out = None;
        if self.waiting >= bounds.all.max(1) {
            let most = self.flows.iter().max_by_key(|(_, flow)| flow.places.len());
            let (agent, newest) = most
                .filter(|(_, flow)| flow.places.len() > own + 1)
                .and_then(|(agent, flow)| Some((Arc::clone(agent), flow.places.back()?.number)))
                .ok_or(Full::All)?;
            let number = newest;
            out = self.take_out(&Ticket { agent, number });
        }
        let number = self.next;
        self.next += 1;
        let now = self.now;
        let flow = self.flows.entry(Arc::clone(&wants.agent)).or_default();
        flow.weight = wants.weight;
        if flow.places.is_empty() {
            flow.fresh = flow.start <= now;
            flow.start = flow.start.max(now);
            let rank = (flow.start, !flow.fresh, number);
            self.order.insert(rank, Arc::clone(&wants.agent));
        }
        flow.cost = flow.cost.saturating_add(wants.cost);
        flow.places.push_back(Place {
            number,
            cost: wants.cost,
            waker: None,
        });
        self.waiting += 1;
        let agent = Arc::clone(&wants.agent);
        Ok((Ticket { agent, number }, out.and_then(|place| place.waker)))
    }

    /// Whose turn it is, and whether its agent has had less than its share.
    pub fn first(&self) -> Option<(Ticket, bool)> {
        let ((_, is_late, number), agent) = self.order.first_key_value()?;
        let ticket = Ticket {
            agent: Arc::clone(agent),
            number: *number,
        };
        Some((ticket, !is_late))
    }

    /// Takes out whoever has had its turn, the first of its agent; the waker, if it is asleep.
    pub fn serve(&mut self, ticket: &Ticket) -> Option<Waker> {
        let flow = self.flows.get(&ticket.agent)?;
        let cost = flow.places.get(flow.index(ticket.number)?)?.cost;
        let (began, step) = (flow.start, flow.step(cost));
        let waker = self.take_out(ticket)?.waker;
        self.now = self.now.max(began);
        let agent = &ticket.agent;
        let flow = self.flows.entry(Arc::clone(agent)).or_default();
        if let Some(rank) = flow.rank() {
            self.order.remove(&rank);
        }
        flow.start = began.saturating_add(step);
        flow.fresh = false;
        if let Some(rank) = flow.rank() {
            self.order.insert(rank, Arc::clone(agent));
        }
        // Those whose moment has come are as if they never were here.
        if self.flows.len() > 2 * self.order.len() + 16 {
            let now = self.now;
            self.flows
                .retain(|_, flow| !flow.places.is_empty() || flow.start > now);
        }
        waker
    }

    /// Gives a place up, at no cost; whether it was still there.
    pub fn leave(&mut self, ticket: &Ticket) -> bool {
        self.take_out(ticket).is_some()
    }

    /// Whoever has this place is asleep until woken; false: it has lost it.
    pub fn sleep(&mut self, ticket: &Ticket, waker: &Waker) -> bool {
        let place = self.place(ticket);
        if let Some(place) = place {
            place.waker = Some(waker.clone());
            return true;
        }
        false
    }

    /// The waker of a place whose owner is asleep.
    pub fn wake(&mut self, ticket: &Ticket) -> Option<Waker> {
        self.place(ticket)?.waker.take()
    }

    /// What at least is served before a newcomer who wants this, if nobody leaves and nobody comes
    /// after it; and whether its agent has had less than its share.
    pub fn ahead(&self, wants: &Wants) -> (u64, bool) {
        let own = self.flows.get(&wants.agent);
        let (begins, before, fresh) = match own {
            Some(flow) if !flow.places.is_empty() => {
                (flow.start + flow.step(flow.cost), flow.cost, false)
            }
            Some(flow) => (flow.start.max(self.now), 0, flow.start <= self.now),
            None => (self.now, 0, true),
        };
        let others = self.order.values().filter(|agent| **agent != wants.agent);
        let before = others.fold(before, |sum, agent| {
            let its = self.flows.get(agent).map_or(0, |flow| {
                let until = begins.saturating_sub(flow.start);
                let share = until * u128::from(flow.weight.max(1)) / STEP;
                u64::try_from(share).unwrap_or(u64::MAX).min(flow.cost)
            });
            sum.saturating_add(its)
        });
        (before, fresh)
    }

    fn place(&mut self, ticket: &Ticket) -> Option<&mut Place> {
        let flow = self.flows.get_mut(&ticket.agent)?;
        let index = flow.index(ticket.number)?;
        flow.places.get_mut(index)
    }

    fn take_out(&mut self, ticket: &Ticket) -> Option<Place> {
        let now = self.now;
        let flow = self.flows.get_mut(&ticket.agent)?;
        let index = flow.index(ticket.number)?;
        let before = flow.rank();
        let place = flow.places.remove(index)?;
        flow.cost = flow.cost.saturating_sub(place.cost);
        self.waiting -= 1;
        let after = flow.rank();
        let is_done = after.is_none() && flow.start <= now;
        if before != after {
            before.map(|rank| self.order.remove(&rank));
            after.map(|rank| self.order.insert(rank, Arc::clone(&ticket.agent)));
        }
        if is_done {
            self.flows.remove(&ticket.agent);
        }
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WIDE: Bounds = Bounds {
        all: 1_000,
        each: 1_000,
    };

    fn wants(agent: &str, weight: u32, cost: u64) -> Wants {
        Wants {
            agent: agent.into(),
            weight,
            cost,
        }
    }

    fn join(line: &mut Line, agent: &str, weight: u32) -> Ticket {
        let joined = line.join(&wants(agent, weight, 1), WIDE);
        joined.expect("there is room").0
    }

    /// Serves so many; whose they were.
    fn served(line: &mut Line, count: usize) -> String {
        let mut who = String::new();
        for _ in 0..count {
            let (ticket, _) = line.first().expect("somebody waits");
            who.push_str(&ticket.agent);
            line.serve(&ticket);
        }
        who
    }

    #[test]
    fn agents_take_turns_however_many_calls_they_have_in_line() {
        let mut line = Line::default();
        for _ in 0..50 {
            join(&mut line, "a", 1);
        }
        assert_eq!(served(&mut line, 5), "aaaaa");
        join(&mut line, "b", 1);
        assert_eq!(served(&mut line, 3), "baa", "the newcomer is next, once");
        for _ in 0..3 {
            join(&mut line, "b", 1);
            join(&mut line, "c", 1);
        }
        let turns = served(&mut line, 9);
        assert_eq!(
            [turns.matches('a'), turns.matches('b'), turns.matches('c')].map(Iterator::count),
            [3; 3],
            "{turns}"
        );
        assert_eq!(served(&mut line, 40), "a".repeat(40));
        assert!(line.is_empty() && line.first().is_none());
    }

    #[test]
    fn who_has_one_call_at_a_time_gets_its_share_and_no_more() {
        let mut line = Line::default();
        for _ in 0..50 {
            join(&mut line, "a", 1);
        }
        let mut turns = String::new();
        for _ in 0..20 {
            if !turns.ends_with('a') || turns.is_empty() {
                join(&mut line, "b", 1);
            }
            turns.push_str(&served(&mut line, 1));
        }
        let own = turns.matches('b').count();
        assert!((9..=11).contains(&own), "{turns}");
    }

    #[test]
    fn a_dear_call_takes_as_long_as_many_cheap_ones() {
        let mut line = Line::default();
        for _ in 0..10 {
            line.join(&wants("a", 1, 5), WIDE).expect("room");
        }
        for _ in 0..50 {
            join(&mut line, "b", 1);
        }
        let turns = served(&mut line, 12);
        assert_eq!(turns.matches('b').count(), 10, "{turns}");
    }

    #[test]
    fn a_full_line_loses_the_newest_of_whoever_has_most() {
        let mut line = Line::default();
        let bounds = Bounds { all: 6, each: 4 };
        let ask = |line: &mut Line, agent: &str| line.join(&wants(agent, 1, 1), bounds);
        let many: Vec<_> = (0..4)
            .map(|_| ask(&mut line, "a").expect("room").0)
            .collect();
        assert_eq!(ask(&mut line, "a").err(), Some(Full::Own));
        let _two: Vec<_> = (0..2)
            .map(|_| ask(&mut line, "b").expect("room").0)
            .collect();
        assert_eq!(line.len(), 6);
        ask(&mut line, "c").expect("a has most");
        assert_eq!(line.len(), 6);
        assert!(!line.sleep(&many[3], Waker::noop()), "a's newest is gone");
        assert!(line.sleep(&many[2], Waker::noop()));
        ask(&mut line, "c").expect("a still has most");
        assert_eq!(
            ask(&mut line, "b").err(),
            Some(Full::All),
            "nobody has more than b would have"
        );
        assert_eq!(ask(&mut line, "a").err(), Some(Full::All));
        ask(&mut line, "d").expect("the others have two each");
    }

    proptest! {
        /// Between any two agents that always have calls in line, what each was served in proportion to
        /// its weight differs by no more than one dearest call of each; nobody is lost or served twice.
        #[test]
        fn shares_are_in_proportion_at_every_moment(
            weights in proptest::array::uniform3(1u32..9),
            costs in proptest::collection::vec((0usize..3, 1u64..20, any::<bool>()), 200..400),
        ) {
            let mut line = Line::default();
            let names = ["a", "b", "c"];
            let mut costs_of: HashMap<u64, (usize, u64)> = HashMap::new();
            let wide = Bounds { all: 10_000, each: 10_000 };
            let mut put = |line: &mut Line, agent: usize, cost: u64| {
                let (ticket, _) = line.join(&wants(names[agent], weights[agent], cost), wide).expect("room");
                costs_of.insert(ticket.number, (agent, cost));
                ticket
            };
            for agent in 0..3 {
                for _ in 0..40 {
                    put(&mut line, agent, 20);
                }
            }
            let mut left = Vec::new();
            for (agent, cost, leaves) in costs {
                let ticket = put(&mut line, agent, cost);
                if leaves {
                    left.push(ticket);
                }
            }
            let before = line.len();
            let gone = left.iter().filter(|ticket| line.leave(ticket)).count();
            prop_assert_eq!(line.len(), before - gone);
            let mut had = [0u64; 3];
            // As long as the first forty of each are not through, all of them wait.
            while had.iter().all(|had| *had < 20 * 40) {
                let (ticket, _) = line.first().expect("all wait");
                line.serve(&ticket);
                let (agent, cost) = costs_of.remove(&ticket.number).expect("served once");
                had[agent] += cost;
                for one in 0..3 {
                    for other in 0..3 {
                        let share = |agent: usize| had[agent] as f64 / f64::from(weights[agent]);
                        let dearest = 20.0 / f64::from(weights[one]) + 20.0 / f64::from(weights[other]);
                        prop_assert!(share(one) - share(other) <= dearest, "{had:?} by {weights:?}");
                    }
                }
            }
        }
    }
}
