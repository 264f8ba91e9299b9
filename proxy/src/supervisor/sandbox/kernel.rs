//! What Linux gives of a sandbox, found by trying it on a process of its own, and the binding itself.
//!
//! Versions and files under `/proc` say what could be; containers forbid parts of it. So a child
//! binds itself once and tells how it went. Asked once for each chillgate.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use super::{Kernel, Rules, calls, files, rights};
use crate::supervisor::held::own_binary;
use crate::supervisor::{exec, native};
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, LandlockStatus, Ruleset, RulesetAttr,
    RulesetStatus,
};

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
    let pid_namespace = native::enter_namespace().is_ok()
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

/// Binds this process, and all it starts, for good.
pub(in crate::supervisor) fn bind(rules: &Rules) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    if rules.usual_calls {
        rights::give_up()?;
    }
    if rules.landlock > 0 {
        files::bind(rules).map_err(io::Error::other)?;
    }
    if rules.seccomp {
        calls::bind(rules).map_err(io::Error::other)?;
    }
    Ok(())
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
