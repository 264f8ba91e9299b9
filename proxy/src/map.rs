//! The map for what is looked up with every message.
//!
//! Its hash is quick, seeded at random and not meant to withstand somebody who chooses keys to
//! collide. So it is for keys that chillgate makes or the configuration names, and for one small map
//! of a host's own: the requests of a session in flight, at most `limits.in-flight-per-agent`. What
//! outsiders may fill further keeps the standard library's own.

use std::collections::HashMap;

/// A hash map with a quick hash.
pub(crate) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
