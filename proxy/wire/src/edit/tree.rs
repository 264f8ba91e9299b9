//! Changes by path, merged: what is to happen to the members of one object.
//!
//! A tree because paths share their beginnings. It never sees a message; the plan applies it.

use std::borrow::Cow;

use crate::json;

/// The changes inside one object, by member name.
#[derive(Clone, Debug, Default)]
pub(super) struct Node<'a>(Vec<(&'a str, Change<'a>)>);

/// What happens to one member.
#[derive(Clone, Debug)]
pub(super) enum Change<'a> {
    Set(Cow<'a, [u8]>),
    Remove,
    Within(Node<'a>),
}

impl<'a> Node<'a> {
    pub(super) fn set(&mut self, path: &[&'a str], value: Cow<'a, [u8]>) {
        self.put(path, Change::Set(value));
    }

    pub(super) fn remove(&mut self, path: &[&'a str]) {
        self.put(path, Change::Remove);
    }

    fn put(&mut self, path: &[&'a str], change: Change<'a>) {
        match path {
            [] => {}
            [name] => match self.0.iter_mut().find(|(held, _)| held == name) {
                Some((_, held)) => *held = change,
                None => self.0.push((name, change)),
            },
            [name, rest @ ..] => match self.0.iter_mut().find(|(held, _)| held == name) {
                Some((_, Change::Within(node))) => node.put(rest, change),
                // A change of the whole member gives way: the later counts.
                Some((_, held)) => *held = Change::Within(Self::of(rest, change)),
                None => self.0.push((name, Change::Within(Self::of(rest, change)))),
            },
        }
    }

    fn of(path: &[&'a str], change: Change<'a>) -> Self {
        let mut node = Self::default();
        node.put(path, change);
        node
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn changes(&self) -> impl Iterator<Item = (&'a str, &Change<'a>)> {
        self.0.iter().map(|(name, change)| (*name, change))
    }

    pub(super) fn removes(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|(held, change)| *held == name && matches!(change, Change::Remove))
    }

    /// Whether anything in it writes a value, so that a missing object must be created.
    fn writes(&self) -> bool {
        self.0.iter().any(|(_, change)| change.creates())
    }

    /// The object that holds what is set and nothing else.
    fn render(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        let mut first = true;
        for (name, change) in &self.0 {
            if change.creates() {
                if !std::mem::take(&mut first) {
                    out.push(b',');
                }
                out.extend_from_slice(json::quote(name).as_bytes());
                out.push(b':');
                change.render(out);
            }
        }
        out.push(b'}');
    }
}

impl Change<'_> {
    /// Whether it brings a member that was not there.
    pub(super) fn creates(&self) -> bool {
        match self {
            Self::Set(_) => true,
            Self::Remove => false,
            Self::Within(node) => node.writes(),
        }
    }

    /// The value it brings.
    pub(super) fn render(&self, out: &mut Vec<u8>) {
        match self {
            Self::Set(value) => out.extend_from_slice(value),
            Self::Remove => {}
            Self::Within(node) => node.render(out),
        }
    }
}
