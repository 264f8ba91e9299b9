//! A stack whose first items live in place, so that scanning an ordinary message allocates nothing.
//!
//! It exists because the scan needs two of them per message. It never shrinks by itself and never
//! checks a bound: its users do.

/// A stack of small values; the first `N` need no allocation.
pub(crate) struct Stack<T, const N: usize> {
    inline: [T; N],
    spill: Vec<T>,
    len: usize,
}

impl<T: Copy + Default, const N: usize> Stack<T, N> {
    pub(crate) fn new() -> Self {
        Self {
            inline: [T::default(); N],
            spill: Vec::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, item: T) {
        match self.inline.get_mut(self.len) {
            Some(place) => *place = item,
            None => self.spill.push(item),
        }
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let top = *self.last_mut()?;
        self.truncate(self.len - 1);
        Some(top)
    }

    pub(crate) fn last_mut(&mut self) -> Option<&mut T> {
        match self.len.checked_sub(1)? {
            top if top < N => self.inline.get_mut(top),
            top => self.spill.get_mut(top - N),
        }
    }

    /// Drops everything from `len` upwards.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.spill.truncate(self.len.saturating_sub(N));
    }

    /// The items from `from` to the top.
    pub(crate) fn since(&self, from: usize) -> impl Iterator<Item = T> + '_ {
        let held = self.len.min(N);
        let inline = self.inline.get(from.min(held)..held).unwrap_or_default();
        let spill = self.spill.get(from.saturating_sub(N)..).unwrap_or_default();
        inline.iter().chain(spill).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::Stack;

    #[test]
    fn what_spills_is_popped_in_the_same_order() {
        let mut stack = Stack::<u8, 2>::new();
        (0..5).for_each(|n| stack.push(n));
        assert_eq!(stack.since(1).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(stack.since(3).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(stack.pop(), Some(4));
        stack.truncate(1);
        stack.push(9);
        assert_eq!(stack.since(0).collect::<Vec<_>>(), [0, 9]);
        assert_eq!(
            (stack.pop(), stack.pop(), stack.pop()),
            (Some(9), Some(0), None)
        );
    }
}
