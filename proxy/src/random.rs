//! Random bytes, straight from the kernel: for session ids, keys and seals.
//!
//! The system call and nothing else, so that it works where there is no `/dev` (a `FROM scratch`
//! image) and needs no second way.

use rustix::rand::{GetRandomFlags, getrandom};

/// `N` unguessable bytes; at most 256, which the kernel gives in one piece.
pub fn bytes<const N: usize>() -> [u8; N] {
    const { assert!(N <= 256, "one system call gives 256 bytes whole") };
    let mut bytes = [0; N];
    loop {
        match getrandom(&mut bytes[..], GetRandomFlags::empty()) {
            Ok(given) if given == N => return bytes,
            // Interrupted before the pool was ready, right after the machine has started.
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("Linux has had getrandom since 3.17, but: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_are_alike() {
        assert_ne!(super::bytes::<32>(), super::bytes::<32>());
    }
}
