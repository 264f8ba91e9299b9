//! Whole files in and out of descriptors, within a bound, and their hashes.
//!
//! Apart so that the file above is about names. Nothing here opens anything.

use std::os::fd::AsFd;

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

/// Everything in it, at most so much; an error goes on after the file's name.
pub(super) fn read_all(file: &impl AsFd, most: usize) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match rustix::io::read(file, chunk.as_mut_slice()) {
            Ok(0) => return Ok(all),
            Ok(count) => all.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("cannot be read: {error}")),
        }
        if all.len() > most {
            return Err(format!("is larger than the {most} bytes that are allowed"));
        }
    }
}

/// All of it.
pub(super) fn write_all(file: &impl AsFd, mut bytes: &[u8]) -> Result<(), String> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err("nothing more can be written".to_owned()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// The hash of everything in it, however large; an error goes on after the file's name.
pub(super) fn hash_all(file: &impl AsFd) -> Result<String, String> {
    let mut digest = Sha256::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        match rustix::io::read(file, chunk.as_mut_slice()) {
            Ok(0) => return Ok(HEXLOWER.encode(&digest.finalize())),
            Ok(count) => digest.update(chunk.get(..count).unwrap_or_default()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("cannot be read: {error}")),
        }
    }
}

/// Sixty-four hexadecimal digits.
pub(super) fn hash(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(bytes))
}
