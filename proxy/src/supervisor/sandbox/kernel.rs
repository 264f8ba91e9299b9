//! What the kernel gives of a sandbox, found by trying it on a process of its own.
//!
//! Versions and files under `/proc` say what could be; containers forbid parts of it. So a child
//! binds itself once and tells how it went. Asked once for each chillgate.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr,
    RulesetStatus,
};
use serde::{Deserialize, Serialize};

use super::{Rules, calls};
use crate::supervisor::{exec, namespace, own_binary};

/// What a sandbox can be made of here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// Landlock's revision; 0 where it is not there.
    pub landlock: u8,
    /// Whether system calls can be filtered.
    pub seccomp: bool,
    /// Whether a process namespace can be made.
    pub pid_namespace: bool,
}

impl Kernel {
    pub(in crate::supervisor) fn to_text(self) -> String {
        serde_json::to_string(&self).expect("numbers and truths are JSON")
    }
}

/// What there is. The first call starts a process and waits for it, some milliseconds.
pub fn kernel() -> Kernel {
    static FOUND: OnceLock<Kernel> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let output = chillgate("probe").stderr(Stdio::null()).output();
        output
            .ok()
            .and_then(|output| serde_json::from_slice(&output.stdout).ok())
            .unwrap_or_default()
    })
}

/// In the child: binds this process by everything there is.
pub(in crate::supervisor) fn try_out() -> Kernel {
    let pid_namespace = namespace::enter().is_ok()
        && chillgate("nothing")
            .status()
            .is_ok_and(|status| status.success());
    let landlock = try_landlock();
    let rules = Rules {
        usual_calls: true,
        sockets: false,
        ..Rules::default()
    };
    let seccomp = calls::bind(&rules).is_ok();
    Kernel {
        landlock,
        seccomp,
        pid_namespace,
    }
}

fn try_landlock() -> u8 {
    let tried = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(ABI::V9))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self);
    let Ok(status) = tried else { return 0 };
    match status.landlock {
        LandlockStatus::Available { effective_abi, .. }
            if status.ruleset != RulesetStatus::NotEnforced =>
        {
            effective_abi as u8
        }
        _ => 0,
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the supervisor is where processes are started"
)]
fn chillgate(mode: &str) -> Command {
    let mut command = Command::new(own_binary());
    command
        .arg0("chillgate")
        .args([exec::VERB, &std::process::id().to_string(), mode])
        .stdin(Stdio::null());
    command
}
