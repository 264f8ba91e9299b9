//! What is left of the places kept inside `params` and `result` once a message is changed.
//!
//! Nearly every change leaves them where they were or moves them with everything else. Apart from
//! the plan because it decides nothing about bytes. In doubt the places are void, and looking takes
//! a walk again.

use super::tree::{Change, Node};
use crate::envelope::Head;
use crate::envelope::head::inside::Inside;

/// Takes out of `head` the places that these changes make void. The others still have to be
/// shifted.
pub(super) fn follow(head: &mut Head, changes: &Node<'_>) {
    for (name, change) in changes.changes() {
        let Some(slot) = Head::slot(name.as_bytes()) else {
            continue;
        };
        let Change::Within(members) = change else {
            head.inside = Inside::default();
            return;
        };
        for (member, change) in members.changes() {
            let is_followed = match change {
                Change::Remove => {
                    head.inside.remove(slot, &[member]);
                    true
                }
                Change::Set(_) => head.inside.may_set(slot, &[member]),
                Change::Within(deeper) => {
                    head.inside.has(slot, &[member])
                        && deeper.changes().all(|(name, change)| match change {
                            Change::Remove => {
                                head.inside.remove(slot, &[member, name]);
                                true
                            }
                            Change::Set(_) | Change::Within(_) => {
                                head.inside.may_set(slot, &[member, name])
                            }
                        })
                }
            };
            if !is_followed {
                head.inside = Inside::default();
                return;
            }
        }
    }
}
