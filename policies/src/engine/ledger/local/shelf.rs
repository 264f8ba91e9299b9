//! A bounded map in shards, so that cores rarely meet.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::Bucket;

const SHARDS: usize = 16;

/// Counters by their bucket.
#[derive(Debug)]
pub(super) struct Shelf<V> {
    shards: Vec<Mutex<Shard<V>>>,
    /// Chooses the shard alone; each shard hashes for itself, safe from chosen keys.
    hasher: foldhash::fast::RandomState,
}

/// A part of them.
#[derive(Debug)]
pub(super) struct Shard<V> {
    kept: HashMap<Bucket, Kept<V>>,
    most: usize,
}

#[derive(Debug)]
struct Kept<V> {
    value: V,
    touched: u64,
}

impl<V> Shelf<V> {
    pub(super) fn new(keys: usize) -> Self {
        let most = keys.div_ceil(SHARDS).max(1);
        let shard = || {
            Mutex::new(Shard {
                kept: HashMap::new(),
                most,
            })
        };
        Self {
            shards: std::iter::repeat_with(shard).take(SHARDS).collect(),
            hasher: foldhash::fast::RandomState::default(),
        }
    }

    /// The shard that a bucket is in.
    pub(super) fn index(&self, bucket: &Bucket) -> usize {
        self.hasher.hash_one(bucket) as usize % SHARDS
    }

    pub(super) fn lock(&self, index: usize) -> MutexGuard<'_, Shard<V>> {
        self.shards[index]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn each(&self, mut see: impl FnMut(&Bucket, &V)) {
        for index in 0..SHARDS {
            let shard = self.lock(index);
            let all = shard.kept.iter();
            all.for_each(|(bucket, kept)| see(bucket, &kept.value));
        }
    }

    /// Drops every counter that fits; how many.
    pub(super) fn forget(&self, fits: impl Fn(&Bucket) -> bool) -> usize {
        let mut gone = 0;
        for index in 0..SHARDS {
            let mut shard = self.lock(index);
            let before = shard.kept.len();
            shard.kept.retain(|bucket, _| !fits(bucket));
            gone += before - shard.kept.len();
        }
        gone
    }
}

impl<V> Shard<V> {
    /// The counter of a bucket, a new one where there is none. `idle` ones go first for its room.
    pub(super) fn entry(
        &mut self,
        bucket: &Bucket,
        now: u64,
        new: impl FnOnce() -> V,
        idle: impl Fn(&V) -> bool,
    ) -> &mut V {
        if !self.kept.contains_key(bucket) {
            if self.kept.len() >= self.most {
                self.make_room(idle);
            }
            let value = new();
            let kept = Kept {
                value,
                touched: now,
            };
            self.kept.insert(bucket.clone(), kept);
        }
        let kept = self.kept.get_mut(bucket);
        let kept = kept.expect("it is there, or has just been put there");
        kept.touched = now;
        &mut kept.value
    }

    /// Drops what says nothing any more; if that is not an eighth, also the longest unused, up to an
    /// eighth, so that the search is paid once for many new keys.
    fn make_room(&mut self, idle: impl Fn(&V) -> bool) {
        self.kept.retain(|_, kept| !idle(&kept.value));
        let keep = self.most - self.most.div_ceil(8);
        if self.kept.len() <= keep {
            return;
        }
        let mut ages: Vec<u64> = self.kept.values().map(|kept| kept.touched).collect();
        let excess = self.kept.len() - keep;
        let (_, youngest_to_go, _) = ages.select_nth_unstable(excess - 1);
        let (limit, mut left) = (*youngest_to_go, excess);
        self.kept.retain(|_, kept| {
            let goes = left > 0 && kept.touched <= limit;
            left -= usize::from(goes);
            !goes
        });
    }
}
