//! File runbooks on a system whose kernel cannot keep a path beneath a folder: there are none.
//!
//! The configuration is refused before (`config/system.rs`); this is what stands behind it. It never
//! falls back to comparing paths: whoever can swap a folder for a link would get out.

use async_trait::async_trait;
use chillgate_ops::{Done, Plan};
use serde_json::{Map, Value};

use crate::config::runbook::{FileRunbook, Runbook};

/// Nobody writes.
#[derive(Clone, Debug, Default)]
pub(super) struct Writing(());

/// A call that fits its runbook, of which there is none.
pub(super) struct FilePlan(std::convert::Infallible);

/// Refuses every call.
pub(super) fn plan(
    _: &Runbook,
    _: &FileRunbook,
    _: &str,
    _: &Map<String, Value>,
    _: &str,
    _: &Writing,
) -> Result<FilePlan, String> {
    Err("this system cannot hold paths back: file runbooks need Linux".to_owned())
}

#[async_trait]
impl Plan for FilePlan {
    fn question(&self) -> Option<String> {
        match self.0 {}
    }

    async fn carry_out(self: Box<Self>) -> Done {
        match self.0 {}
    }
}
