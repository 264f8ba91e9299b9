//! Landlock: which files a server may read and change, which ports it may connect to, and that it
//! signals nobody outside.
//!
//! Programs and libraries of the system are readable always, as nothing would start without; of
//! `/etc` only what every program reads, since keys and password hashes lie there as well.

use std::fs;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath,
    PathFd, Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use super::Rules;

/// What programs need of the system to start. `/proc` of others is closed by Landlock itself as far
/// as it holds secrets: memory and environment.
const SYSTEM: [&str; 15] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/opt",
    "/nix/store",
    "/snap",
    "/proc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/run/systemd/resolve",
    "/run/resolvconf",
];

/// The same of `/etc`, by name.
const ETC: [&str; 26] = [
    "alternatives",
    "ca-certificates",
    "crypto-policies",
    "fonts",
    "gai.conf",
    "group",
    "host.conf",
    "hostname",
    "hosts",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.conf",
    "localtime",
    "machine-id",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "passwd",
    "pki/ca-trust",
    "pki/tls/certs",
    "resolv.conf",
    "services",
    "ssl/certs",
    "ssl/openssl.cnf",
    "timezone",
];

/// And what begins so: folders of one version of a language.
const ETC_BEGINNINGS: [&str; 2] = ["java", "python"];

const DEVICES: [&str; 6] = [
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
];

/// Binds this process. Everything that the revision has is asked for, and nothing beyond it, so
/// that the rules are the same wherever the revision is.
pub(super) fn bind(rules: &Rules) -> Result<(), RulesetError> {
    let abi = abi(rules.landlock);
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::from_all(abi))?;
    if rules.ports.is_some() {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    if !Scope::from_all(abi).is_empty() {
        ruleset = ruleset.scope(Scope::from_all(abi))?;
    }
    let mut ruleset = ruleset.create()?;
    let read = AccessFs::from_read(abi);
    // Nobody needs to make devices; root could make one of the disk and read all there is.
    let write = (read | AccessFs::from_write(abi)) & !(AccessFs::MakeChar | AccessFs::MakeBlock);
    for path in system() {
        ruleset = open(ruleset, &path, read, abi)?;
    }
    for path in &rules.read {
        ruleset = open(ruleset, path, read, abi)?;
    }
    for path in &rules.write {
        ruleset = open(ruleset, path, write, abi)?;
    }
    for path in DEVICES {
        ruleset = open(ruleset, Path::new(path), write, abi)?;
    }
    for port in rules.ports.iter().flatten() {
        ruleset = ruleset.add_rule(NetPort::new(*port, AccessNet::ConnectTcp))?;
    }
    ruleset.restrict_self()?;
    Ok(())
}

fn system() -> impl Iterator<Item = PathBuf> {
    let named = ETC.iter().map(|name| Path::new("/etc").join(name));
    let versions = fs::read_dir("/etc").into_iter().flatten();
    let versions = versions.filter_map(Result::ok).filter(|entry| {
        let name = entry.file_name();
        ETC_BEGINNINGS
            .iter()
            .any(|word| name.as_encoded_bytes().starts_with(word.as_bytes()))
    });
    SYSTEM
        .iter()
        .map(PathBuf::from)
        .chain(named)
        .chain(versions.map(|entry| entry.path()))
}

/// What is not there needs no rule: the user's own paths were looked at before.
fn open(
    ruleset: RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
    abi: ABI,
) -> Result<RulesetCreated, RulesetError> {
    let (Ok(file), Ok(meta)) = (PathFd::new(path), path.metadata()) else {
        return Ok(ruleset);
    };
    let access = if meta.is_dir() {
        access
    } else {
        access & AccessFs::from_file(abi)
    };
    ruleset.add_rule(PathBeneath::new(file, access))
}

/// The revision as the library names it. One that it does not know yet has what the last has.
fn abi(number: u8) -> ABI {
    match number {
        0 => ABI::Unsupported,
        1 => ABI::V1,
        2 => ABI::V2,
        3 => ABI::V3,
        4 => ABI::V4,
        5 => ABI::V5,
        6 => ABI::V6,
        7 => ABI::V7,
        8 => ABI::V8,
        _ => ABI::V9,
    }
}
