//! The map for what is looked up with every message.
//!
//! Its hash is quick, seeded at random and not meant to withstand somebody who chooses keys to
//! collide. So it is for keys that chillgate makes or the configuration names, and for small maps
//! bounded elsewhere; what outsiders may fill keeps the standard library's own.

use std::collections::HashMap;

/// A hash map with a quick hash.
pub(crate) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
