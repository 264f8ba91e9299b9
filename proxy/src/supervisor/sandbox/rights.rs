//! Capabilities: what is left of root's rights in a sandbox.
//!
//! Some of them go round the sandbox (reading the memory and the environment of any process, for
//! one), so a root server keeps those that are about files and users, and no others. Who is not root
//! has none anyway.

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Gives up all rights but those above, for good.
pub(super) fn give_up() -> io::Result<()> {
    let own = capabilities(None)?;
    if own.permitted.contains(CapabilitySet::SETPCAP) {
        for right in CapabilitySet::all().difference(KEPT).iter() {
            // One that this kernel does not have cannot be given up.
            let _ = remove_capability_from_bounding_set(right);
        }
    }
    let _ = clear_ambient_capability_set();
    let sets = CapabilitySets {
        effective: own.effective & KEPT,
        permitted: own.permitted & KEPT,
        inheritable: CapabilitySet::empty(),
    };
    Ok(set_capabilities(None, sets)?)
}
