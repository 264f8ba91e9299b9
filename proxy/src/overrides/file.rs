//! The file of overrides: whole or not at all, for its user alone.
//!
//! One for each address of an admin API, so that gateways that share a state folder do not hear each
//! other's.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Override;
use crate::platform::{OpenOptionsExt as _, give_to_owner, sync_folder};

/// The version of the form.
const FORMAT: u32 = 1;
/// The largest that is read.
const LARGEST: u64 = 4 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept<B> {
    format: u32,
    overrides: B,
}

/// Where those of the admin API at this address are kept.
pub(super) fn place(folder: &Path, address: &str) -> PathBuf {
    let digest = Sha256::digest(address.as_bytes());
    let short = HEXLOWER.encode(digest.get(..4).unwrap_or_default());
    folder.join(format!("overrides-{short}.json"))
}

/// What is kept there; no file is none.
pub(super) fn read(place: &Path) -> io::Result<Vec<Override>> {
    let bytes = match File::open(place) {
        Ok(file) if file.metadata()?.len() > LARGEST => {
            return Err(io::Error::other("it is larger than any that was written"));
        }
        Ok(_) => std::fs::read(place)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let kept: Kept<Vec<Override>> = serde_json::from_slice(&bytes)?;
    if kept.format != FORMAT {
        return Err(io::Error::other("another version of chillgate wrote it"));
    }
    Ok(kept.overrides)
}

/// Keeps them, in the place of what was kept.
pub(super) fn write(place: &Path, overrides: &[Override]) -> io::Result<()> {
    let folder = place.parent().unwrap_or(Path::new("/"));
    if overrides.is_empty() {
        return match std::fs::remove_file(place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    }
    let next = place.with_extension("next");
    let mut options = File::options();
    options.create(true).write(true).truncate(true).mode(0o600);
    let mut file = options.open(&next)?;
    give_to_owner(&file, folder)?;
    let format = FORMAT;
    file.write_all(&serde_json::to_vec(&Kept { format, overrides })?)?;
    file.sync_all()?;
    std::fs::rename(&next, place)?;
    sync_folder(folder)
}
