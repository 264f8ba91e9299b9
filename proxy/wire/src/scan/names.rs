//! The names of the open objects: has this object that member already?
//!
//! A few short names are compared one by one, many or odd ones by a set, so that ordinary messages
//! cost no allocation and hostile ones no more than linear time. It never decides what a duplicate
//! means.

use std::borrow::Cow;
use std::collections::HashSet;

use crate::stack::Stack;

/// Up to this many names of an object are compared one by one: cheaper than hashing them.
const LINEAR: u32 = 16;
/// A longer name goes to the set at once, so that comparing one by one stays bounded.
const SHORT: usize = 255;
/// A set with more room than this is not used again.
const REUSED: usize = 256;

/// What one open object holds of [`Names`].
#[derive(Clone, Copy, Default)]
pub(super) struct Held {
    /// Where its names begin on the stack.
    from: u32,
    count: u32,
    /// Its names are in the topmost set in use instead.
    hashed: bool,
}

/// A short name without escapes: where, and enough of it to tell most others apart.
#[derive(Clone, Copy, Default)]
struct Key {
    start: u32,
    tag: u32,
}

/// The names of all open objects, innermost last.
pub(super) struct Names<'a> {
    bytes: &'a [u8],
    keys: Stack<Key, 48>,
    /// Kept for reuse; the first `used` belong to open objects. The standard library seeds them at
    /// random, so a sender cannot choose colliding names.
    sets: Vec<HashSet<Cow<'a, [u8]>>>,
    used: usize,
}

impl<'a> Names<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            keys: Stack::new(),
            sets: Vec::new(),
            used: 0,
        }
    }

    /// A container opens.
    pub(super) fn open(&self) -> Held {
        Held {
            from: self.keys.len() as u32,
            count: 0,
            hashed: false,
        }
    }

    /// The innermost container closes.
    pub(super) fn close(&mut self, held: Held) {
        self.keys.truncate(held.from as usize);
        if held.hashed {
            self.used -= 1;
        }
    }

    /// Adds a name to the innermost object; gives it back if it is there already. A borrowed name
    /// stands at `start` of the scanned bytes, its closing quote behind it; an owned one was
    /// escaped.
    #[inline]
    pub(super) fn add(
        &mut self,
        held: &mut Held,
        name: Cow<'a, [u8]>,
        start: usize,
    ) -> Result<(), Cow<'a, [u8]>> {
        held.count += 1;
        let Cow::Borrowed(plain) = name else {
            return self.add_hashed(held, name);
        };
        if held.hashed || held.count > LINEAR || plain.len() > SHORT {
            return self.add_hashed(held, name);
        }
        let key = Key {
            start: start as u32,
            tag: tag(plain),
        };
        let bytes = self.bytes;
        let same = |other: Key| {
            // Equal tags are of equal length.
            other.tag == key.tag
                && bytes
                    .get(other.start as usize..)
                    .is_some_and(|other| other.starts_with(plain))
        };
        if self.keys.since(held.from as usize).any(same) {
            return Err(name);
        }
        self.keys.push(key);
        Ok(())
    }

    #[cold]
    fn add_hashed(&mut self, held: &mut Held, name: Cow<'a, [u8]>) -> Result<(), Cow<'a, [u8]>> {
        if !held.hashed {
            held.hashed = true;
            self.move_to_set(held.from as usize);
        }
        let Some(set) = self
            .used
            .checked_sub(1)
            .and_then(|top| self.sets.get_mut(top))
        else {
            return Ok(());
        };
        if set.contains(&name) {
            return Err(name);
        }
        set.insert(name);
        Ok(())
    }

    /// Takes a set into use, with the names from `from` upwards.
    fn move_to_set(&mut self, from: usize) {
        let mut set = match self.sets.get_mut(self.used).map(std::mem::take) {
            // Clearing costs what the set once held: not worth it after a large object.
            Some(mut old) if old.capacity() <= REUSED => {
                old.clear();
                old
            }
            _ => HashSet::new(),
        };
        for key in self.keys.since(from) {
            let (start, len) = (key.start as usize, (key.tag & 0xff) as usize);
            set.insert(Cow::Borrowed(
                self.bytes.get(start..start + len).unwrap_or_default(),
            ));
        }
        self.keys.truncate(from);
        match self.sets.get_mut(self.used) {
            Some(place) => *place = set,
            None => self.sets.push(set),
        }
        self.used += 1;
    }
}

/// Length, first, middle and last byte: equal names have equal tags.
fn tag(name: &[u8]) -> u32 {
    let byte = |at: usize| name.get(at).copied().unwrap_or(0);
    let last = name.len().saturating_sub(1);
    u32::from_le_bytes([name.len() as u8, byte(0), byte(last / 2), byte(last)])
}
