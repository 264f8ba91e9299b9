//! Where the parts of an installed service are, and what its unit says.
//!
//! The unit is the one in `deploy/systemd`; here only what differs is put in: paths, and for a
//! user's own service what a user's systemd cannot do is left out. Nothing is written here.

use std::path::{Path, PathBuf};

/// The unit's name.
pub(super) const UNIT: &str = "chillgate.service";
/// The unit as it is published.
const TEMPLATE: &str = include_str!("../../../../deploy/systemd/chillgate.service");
/// The configuration that an installation begins with.
pub(super) const START: &str = include_str!("start.toml");
/// The section in which systemd reads nothing: what the installation made.
const OWN: &str = "[X-Chillgate]";

/// Directives for the system's manager only: a user's one has no right to them, or would hide the
/// user's own files from the user's own service.
const SYSTEM_ONLY: &[&str] = &[
    "Wants=network-online",
    "After=network-online",
    "DynamicUser=",
    "RuntimeDirectory=",
    "Environment=HOME=",
    "CapabilityBoundingSet=",
    "AmbientCapabilities=",
    "ProtectSystem=",
    "ProtectHome=",
    "PrivateTmp=",
    "PrivateDevices=",
    "PrivateUsers=",
    "ProtectClock=",
    "ProtectControlGroups=",
    "ProtectHostname=",
    "ProtectKernelLogs=",
    "ProtectKernelModules=",
    "ProtectKernelTunables=",
    "ProtectProc=",
    "RemoveIPC=",
];

/// The paths of one installation, as the service sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Where all of it lies in an image that is being built.
    pub(super) root: Option<PathBuf>,
    pub(super) user: bool,
    pub(super) binary: PathBuf,
    pub(super) unit: PathBuf,
    /// What makes it start by itself.
    pub(super) wanted: PathBuf,
    pub(super) config: PathBuf,
    pub(super) environment: PathBuf,
    /// State and logs, each under every name that systemd gives it.
    pub(super) data: Vec<PathBuf>,
}

impl Place {
    /// The usual place of a system's service, or of a user's with this environment.
    ///
    /// # Errors
    /// In words, where a path cannot stand in a unit or is not known.
    pub(super) fn new(
        user: bool,
        root: Option<PathBuf>,
        binary: Option<PathBuf>,
        variable: impl Fn(&str) -> Option<PathBuf>,
    ) -> Result<Self, String> {
        let place = if user {
            let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
            let home = absolute("HOME").ok_or("HOME does not say where the user's files are")?;
            let config = absolute("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
            let state = absolute("XDG_STATE_HOME").unwrap_or_else(|| home.join(".local/state"));
            let units = config.join("systemd/user");
            Self {
                root,
                user,
                binary: binary.unwrap_or_else(|| home.join(".local/bin/chillgate")),
                wanted: units.join("default.target.wants").join(UNIT),
                unit: units.join(UNIT),
                environment: config.join("chillgate/chillgate.env"),
                config: config.join("chillgate/chillgate.toml"),
                data: vec![state.join("chillgate"), state.join("log/chillgate")],
            }
        } else {
            let units = Path::new("/etc/systemd/system");
            let data = [
                "/var/lib/chillgate",
                "/var/lib/private/chillgate",
                "/var/log/chillgate",
                "/var/log/private/chillgate",
            ];
            Self {
                root,
                user,
                binary: binary.unwrap_or_else(|| "/usr/local/bin/chillgate".into()),
                wanted: units.join("multi-user.target.wants").join(UNIT),
                unit: units.join(UNIT),
                environment: "/etc/chillgate/chillgate.env".into(),
                config: "/etc/chillgate/chillgate.toml".into(),
                data: data.map(PathBuf::from).to_vec(),
            }
        };
        for path in [&place.binary, &place.config] {
            check(path)?;
        }
        Ok(place)
    }

    /// Where a path of the service is for us.
    pub(super) fn at(&self, path: &Path) -> PathBuf {
        match &self.root {
            None => path.to_owned(),
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        }
    }

    /// The unit for these paths, with the folders that the installation made.
    pub(super) fn unit_text(&self, made: &[PathBuf]) -> String {
        let mut text = TEMPLATE
            .replace("/usr/local/bin/chillgate", &shown(&self.binary))
            .replace("/etc/chillgate/chillgate.toml", &shown(&self.config))
            .replace("/etc/chillgate/chillgate.env", &shown(&self.environment));
        if self.user {
            let kept = |line: &&str| !SYSTEM_ONLY.iter().any(|key| line.starts_with(key));
            text = text.split_inclusive('\n').filter(kept).collect();
            text = text
                .replace("multi-user.target", "default.target")
                .replace("as a system service", "as a user's service")
                .replace(
                    "# A user that exists only while the service does. npx and uvx keep their caches below HOME.\n",
                    "",
                );
        }
        let made = made
            .iter()
            .map(|folder| format!("Made={}\n", shown(folder)));
        let made = made.collect::<Vec<_>>().concat();
        format!("{text}\n{OWN}\nBinary={}\n{made}", shown(&self.binary))
    }

    /// Whether a unit that lies there was written by an installation.
    pub(super) fn is_own(unit: &str) -> bool {
        unit.contains(OWN)
    }

    /// What an installed unit says of the binary and of the folders made for it.
    pub(super) fn noted(unit: &str) -> (Option<PathBuf>, Vec<PathBuf>) {
        let own = unit.split_once(OWN).map_or("", |(_, own)| own);
        let of = |key: &'static str| {
            own.lines()
                .filter_map(move |line| line.strip_prefix(key))
                .map(PathBuf::from)
        };
        (of("Binary=").next(), of("Made=").collect())
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Units have their own quoting, and each directive another: only plain paths go in.
fn check(path: &Path) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@".contains(c);
    let text = path.to_str().unwrap_or_default();
    let is_plain = text.chars().all(plain) && path.is_absolute();
    let climbs = text.split('/').any(|part| part == "..");
    if is_plain && !climbs {
        Ok(())
    } else {
        Err(format!(
            "{:?} cannot stand in a unit: an absolute path of letters, digits and / . _ - + @ can",
            path.display().to_string()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(name: &str) -> Option<PathBuf> {
        (name == "HOME").then(|| "/home/me".into())
    }

    #[test]
    fn the_systems_unit_is_the_published_one() {
        let place = Place::new(false, None, None, home).expect("usual");
        let text = place.unit_text(&[PathBuf::from("/etc/chillgate")]);
        let (published, own) = text.split_at(TEMPLATE.len());
        assert_eq!(published, TEMPLATE);
        assert!(Place::is_own(own) && !Place::is_own(TEMPLATE));
        assert_eq!(
            Place::noted(&text),
            (Some(place.binary), vec![PathBuf::from("/etc/chillgate")])
        );
    }

    #[test]
    fn a_users_unit_has_the_users_paths_and_nothing_for_the_system() {
        let place = Place::new(true, None, None, home).expect("usual");
        let text = place.unit_text(&[]);
        for left in [
            "DynamicUser",
            "ProtectHome",
            "/usr/local",
            "/etc/",
            "multi-user",
        ] {
            assert!(!text.contains(left), "{left}: {text}");
        }
        for there in [
            "ExecStart=/home/me/.local/bin/chillgate serve --config /home/me/.config/chillgate/chillgate.toml",
            "WantedBy=default.target",
            "NoNewPrivileges=yes",
            "WatchdogSec=",
        ] {
            assert!(text.contains(there), "{there}: {text}");
        }
        assert!(Place::new(true, None, None, |_| None).is_err());
    }

    #[test]
    fn a_path_that_a_unit_would_read_otherwise_is_refused() {
        for wrong in [
            "/opt/my app/x",
            "relative",
            "/a/%h",
            "/a;b",
            "/a/../b",
            "/a\n[Service]",
        ] {
            let error = Place::new(false, None, Some(wrong.into()), home);
            assert!(error.is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_image_has_it_below_its_root() {
        let place = Place::new(false, Some("/img".into()), None, home).expect("usual");
        assert_eq!(
            place.at(&place.config),
            Path::new("/img/etc/chillgate/chillgate.toml")
        );
        assert!(!place.unit_text(&[]).contains("/img"));
    }
}
