//! Random bytes, straight from the kernel: for session ids, keys and seals.
//!
//! How the kernel is asked differs from system to system and is `platform`'s.

/// `N` unguessable bytes; at most 256, which the kernel gives in one piece.
pub fn bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= 256, "one system call gives 256 bytes whole") };
    let mut bytes = [0; N];
    crate::platform::random(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_are_alike() {
        assert_ne!(super::bytes::<32>(), super::bytes::<32>());
    }
}
