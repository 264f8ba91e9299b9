//! chillgate as a service: what its manager hears, and what an installation leaves behind.
//!
//! The manager is a datagram socket of the test's own. `systemctl` is a script that starts and stops
//! what the unit says, because no systemd runs where tests do; units are judged by
//! `systemd-analyze` itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use chillgate_tests::Gate;
use chillgate_tests::gate::bare;
use chillgate_tests::process::{chillgate, command, descendants, free_port, mark, send};
use chillgate_tests::wait::{seconds, until, within};
use rustix::process::Signal;

use crate::mock;

/// The manager's end of the notification socket.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &Path) -> Self {
        Self::of(UnixDatagram::bind(path).unwrap())
    }

    fn of(socket: UnixDatagram) -> Self {
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    /// What has come so far.
    fn heard(&self) -> Option<String> {
        let mut text = [0; 4096];
        let length = self.0.recv(&mut text).ok()?;
        Some(String::from_utf8_lossy(&text[..length]).into_owned())
    }

    /// Waits for a message with this in it, passing over others.
    async fn hears(&self, what: &str) -> String {
        until(
            &format!("`{what}` at the manager"),
            seconds(10),
            async || self.heard().filter(|said| said.contains(what)),
        )
        .await
    }

    fn forget(&self) {
        while self.heard().is_some() {}
    }
}

#[tokio::test]
async fn a_manager_hears_of_start_reload_state_and_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager::at(&path);
    let tables =
        mock("files").table("") + "\n[server.gone]\ncommand = [\"no-such-program-here\"]\n";
    let gate = Gate::with(&tables)
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .start()
        .await;
    assert_eq!(manager.hears("READY=1").await, "READY=1");
    let status = manager
        .hears("STATUS=Serving; servers: 1 up, 1 held back (gone)")
        .await;
    assert_eq!(status.lines().count(), 1, "{status}");
    let family = descendants(gate.pid());
    assert!(family.len() >= 2, "a keeper and its server: {family:?}");
    for pid in family {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let environment = String::from_utf8_lossy(&environment);
        assert!(
            !environment.contains("NOTIFY_SOCKET"),
            "{pid}: {environment}"
        );
    }
    manager.forget();

    gate.signal(Signal::HUP);
    let reloading = manager.hears("RELOADING=1").await;
    let micros = reloading.split_once("\nMONOTONIC_USEC=").unwrap().1;
    let uptime = fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let since = uptime - micros.parse::<f64>().unwrap() / 1e6;
    assert!(
        since.abs() < 3600.0,
        "{since} s from the machine's own clock"
    );
    manager.hears("READY=1").await;

    gate.edit("\"no-such-program-here\"", "3");
    manager.hears("RELOADING=1").await;
    // The old configuration goes on, and so does the service.
    manager.hears("READY=1").await;
    assert!(gate.reloads("rejected").await >= 1.0);

    gate.signal(Signal::TERM);
    let stopping = manager.hears("STOPPING=1").await;
    assert!(stopping.contains("EXTEND_TIMEOUT_USEC="), "{stopping}");
    let (status, _) = gate.stop().await;
    assert!(status.success());
}

#[tokio::test]
async fn the_watchdog_is_fed_as_long_as_chillgate_runs_and_not_while_it_is_stopped() {
    let name = mark();
    let address = SocketAddr::from_abstract_name(name.as_bytes()).unwrap();
    let manager = Manager::of(UnixDatagram::bind_addr(&address).unwrap());
    let gate = Gate::with("[server.chill]\nbuiltin = \"chill\"\n")
        .env("NOTIFY_SOCKET", &format!("@{name}"))
        .env("WATCHDOG_USEC", "200000")
        .start()
        .await;
    for _ in 0..3 {
        manager.hears("WATCHDOG=1").await;
    }
    gate.signal(Signal::STOP);
    let pid = gate.pid();
    until("the stop", seconds(10), async || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ")?.1.starts_with('T').then_some(())
    })
    .await;
    manager.forget();
    // Five beats would have come.
    let silent = tokio::time::timeout(std::time::Duration::from_millis(500), async {
        until("a beat", seconds(10), async || manager.heard()).await
    });
    let silent = silent.await;
    gate.signal(Signal::CONT);
    assert!(silent.is_err(), "{silent:?} from a stopped process");
    manager.hears("WATCHDOG=1").await;
    gate.stop().await;
}

#[tokio::test]
async fn who_wraps_a_server_tells_the_manager_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = Manager::at(&path);
    let mut wrap = bare();
    wrap.args(["wrap", "--"])
        .args(mock("files").command())
        .env("NOTIFY_SOCKET", &path)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = within("the wrapper", seconds(20), wrap.status())
        .await
        .unwrap();
    assert!(status.success(), "{status}");
    assert_eq!(manager.heard(), None);
}

/// A run of `chillgate service`: code, output, errors.
async fn service(args: &[&str], environment: &[(&str, &Path)]) -> (Option<i32>, String, String) {
    let mut command = bare();
    command
        .arg("service")
        .args(args)
        .envs(environment.iter().copied())
        .stdin(Stdio::null());
    let what = format!("service {}", args.join(" "));
    let output = within(&what, seconds(60), command.output()).await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

/// Every path below a folder, with what it is.
fn tree(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let what = format!("{:o} {}", meta.permissions().mode(), meta.len());
            if meta.is_dir() {
                open.push(path.clone());
                found.insert(path, format!("{:o}", meta.permissions().mode()));
            } else {
                found.insert(path, what);
            }
        }
    }
    found
}

#[tokio::test]
async fn an_image_gets_all_files_and_keeps_none_after_a_purge() {
    let image = tempfile::tempdir().unwrap();
    fs::create_dir_all(image.path().join("etc/systemd")).unwrap();
    fs::write(image.path().join("etc/hostname"), "image\n").unwrap();
    let before = tree(image.path());
    let root = image.path().to_str().unwrap();
    let at = |path: &str| image.path().join(path);

    let (code, out, err) = service(&["install", "--root", root, "--dry-run"], &[]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(out.lines().all(|line| line.starts_with("would ")), "{out}");
    assert_eq!(tree(image.path()), before, "a dry run wrote something");

    let (code, out, err) = service(&["install", "--root", root], &[]).await;
    assert_eq!((code, err.as_str()), (Some(0), ""), "{out}");
    let wanted = at("etc/systemd/system/multi-user.target.wants/chillgate.service");
    assert_eq!(
        fs::read_link(wanted).unwrap(),
        Path::new("/etc/systemd/system/chillgate.service")
    );
    let binary = at("usr/local/bin/chillgate");
    assert_eq!(fs::read(&binary).unwrap(), fs::read(chillgate()).unwrap());
    let config = at("etc/chillgate/chillgate.toml");
    let mut check = bare();
    check.args(["check", "--config"]).arg(&config);
    let checked = within("check", seconds(20), check.output()).await.unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let (code, out, _) = service(&["status", "--root", root], &[]).await;
    assert!(code == Some(0) && out.contains("no mistakes"), "{out}");

    // Again is no mistake, and what was made is still known.
    let (code, _, err) = service(&["install", "--root", root], &[]).await;
    assert_eq!(code, Some(0), "{err}");

    fs::write(&config, "[[front]]\ntransport = \"stdio\"\n").unwrap();
    for data in ["var/lib/private/chillgate", "var/log/private/chillgate"] {
        fs::create_dir_all(at(data)).unwrap();
        fs::write(at(data).join("kept"), "x").unwrap();
    }
    symlink("private/chillgate", at("var/lib/chillgate")).unwrap();
    let (code, out, err) = service(&["uninstall", "--root", root], &[]).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("keep ") && out.contains("--purge"), "{out}");
    assert!(config.exists() && !binary.exists() && !at("var/lib/chillgate").exists());
    assert!(!at("var/lib/private/chillgate").exists(), "{out}");
    fs::remove_dir_all(at("var")).unwrap();

    let (code, _, err) = service(&["install", "--root", root], &[]).await;
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = service(&["uninstall", "--purge", "--root", root], &[]).await;
    assert_eq!(code, Some(0), "{err}");
    // The folder of the kept file is the one thing that two installations have made together.
    let left: Vec<_> = tree(image.path())
        .into_keys()
        .filter(|path| !before.contains_key(path))
        .collect();
    assert_eq!(left, [at("etc/chillgate")], "left behind");
    fs::remove_dir(at("etc/chillgate")).unwrap();

    let (code, _, err) = service(&["install", "--root", root], &[]).await;
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = service(&["uninstall", "--purge", "--root", root], &[]).await;
    assert_eq!(code, Some(0), "{err}");
    assert_eq!(tree(image.path()), before, "left behind");
    let (code, _, err) = service(&["uninstall", "--root", root], &[]).await;
    assert!(
        code == Some(2) && err.contains("there is no service here"),
        "{err}"
    );
}

#[tokio::test]
async fn systemd_has_nothing_to_say_against_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("chillgate");
    symlink(chillgate(), &binary).unwrap();
    let image = folder.path().join("image");
    fs::create_dir(&image).unwrap();
    let args = ["install", "--root", image.to_str().unwrap(), "--bin"];
    let args = [&args[..], &[binary.to_str().unwrap()]].concat();
    let (code, _, err) = service(&args, &[]).await;
    assert_eq!(code, Some(0), "{err}");
    let home = folder.path().join("home");
    fs::create_dir_all(home.join("run/systemd")).unwrap();
    let user = User::new(&home);
    user.configure();
    let (code, _, err) = user.service(&["install"]).await;
    assert_eq!(code, Some(0), "{err}");
    for (scope, unit) in [
        (&[][..], image.join("etc/systemd/system/chillgate.service")),
        (
            &["--user"],
            home.join(".config/systemd/user/chillgate.service"),
        ),
    ] {
        let mut verify = command("systemd-analyze");
        verify
            .args(scope)
            .arg("verify")
            .arg(&unit)
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("HOME", &home);
        let said = within("verify", seconds(30), verify.output())
            .await
            .unwrap();
        // It ends well where it does not know a key.
        let err = String::from_utf8_lossy(&said.stderr);
        assert!(said.status.success() && err.is_empty(), "{unit:?}: {err}");
    }
    let mut judge = command("systemd-analyze");
    judge
        .args(["security", "--offline=true", "--threshold=30", "--no-pager"])
        .arg(image.join("etc/systemd/system/chillgate.service"));
    let said = within("security", seconds(30), judge.output())
        .await
        .unwrap();
    let text = String::from_utf8_lossy(&said.stdout);
    let line = text.lines().last().unwrap_or_default();
    assert!(
        said.status.success() && line.contains("exposure level"),
        "{line}"
    );
}

#[tokio::test]
async fn what_others_have_written_is_left_alone() {
    let image = tempfile::tempdir().unwrap();
    let units = image.path().join("etc/systemd/system");
    fs::create_dir_all(&units).unwrap();
    fs::write(
        units.join("chillgate.service"),
        "[Service]\nExecStart=/bin/true\n",
    )
    .unwrap();
    let before = tree(image.path());
    let root = image.path().to_str().unwrap();
    for verb in ["install", "update", "uninstall", "status"] {
        let (code, _, err) = service(&[verb, "--root", root], &[]).await;
        assert!(
            code == Some(2) && err.contains("was not written by"),
            "{verb}: {err}"
        );
    }
    let (code, _, err) = service(&["install", "--root", root, "--bin", "/opt/my app"], &[]).await;
    assert!(
        code == Some(2) && err.contains("cannot stand in a unit"),
        "{err}"
    );
    assert_eq!(tree(image.path()), before);
}

/// A user with a systemd that is a script: it starts what the unit says, and stops it.
struct User {
    home: PathBuf,
    path: String,
}

const SYSTEMCTL: &str = r#"#!/bin/sh
# Does to the unit below $HOME what systemctl would; every call is written down.
echo "$*" >> "$HOME/calls"
unit="$HOME/.config/systemd/user/chillgate.service"
start() {
    line=$(sed -n 's/^ExecStart=//p' "$unit")
    $line > "$HOME/log" 2>&1 &
    echo $! > "$HOME/pid"
}
stop() {
    [ -f "$HOME/pid" ] || return 0
    pid=$(cat "$HOME/pid"); rm "$HOME/pid"
    kill "$pid" 2> /dev/null || return 0
    while kill -0 "$pid" 2> /dev/null; do sleep 0.05; done
}
for word; do
    case "$word" in
        restart) stop; start ;;
        disable) stop ;;
        show) echo ActiveState=active; echo SubState=running; echo NRestarts=0 ;;
    esac
done
"#;

impl User {
    fn new(home: &Path) -> Self {
        let tools = home.join("tools");
        fs::create_dir_all(&tools).unwrap();
        fs::create_dir_all(home.join("run/systemd")).unwrap();
        let systemctl = tools.join("systemctl");
        fs::write(&systemctl, SYSTEMCTL).unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!("{}:/usr/bin:/bin", tools.display());
        let home = home.to_owned();
        Self { home, path }
    }

    async fn service(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let args = [args, &["--user"]].concat();
        let run = self.home.join("run");
        let config = self.home.join(".config");
        let state = self.home.join(".local/state");
        let environment = [
            ("HOME", self.home.as_path()),
            ("PATH", Path::new(&self.path)),
            ("XDG_RUNTIME_DIR", &run),
            ("XDG_CONFIG_HOME", &config),
            ("XDG_STATE_HOME", &state),
        ];
        service(&args, &environment).await
    }

    fn config(&self) -> PathBuf {
        self.home.join(".config/chillgate/chillgate.toml")
    }

    /// A configuration of the user's own, on ports that are free.
    fn configure(&self) -> String {
        fs::create_dir_all(self.config().parent().unwrap()).unwrap();
        let config = format!(
            "[[front]]\ntransport = \"streamable-http\"\nlisten = \"127.0.0.1:{}\"\n\
             [health]\nlisten = \"127.0.0.1:{}\"\n[server.chill]\nbuiltin = \"chill\"\n",
            free_port(),
            free_port()
        );
        fs::write(self.config(), &config).unwrap();
        config
    }

    fn binary(&self) -> PathBuf {
        self.home.join(".local/bin/chillgate")
    }

    fn calls(&self) -> Vec<String> {
        let calls = fs::read_to_string(self.home.join("calls")).unwrap();
        fs::write(self.home.join("calls"), "").unwrap();
        calls.lines().map(str::to_owned).collect()
    }

    /// A program that answers `check` and is of no use otherwise.
    fn script(&self, name: &str, check: u8) -> String {
        let path = self.home.join(name);
        let text = format!("#!/bin/sh\n[ \"$1\" = check ] && exit {check}\nexec sleep 600\n");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for User {
    /// What the script has started is the test's, however the test ends.
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.home.join("pid")).unwrap_or_default();
        if let Ok(pid) = pid.trim().parse() {
            send(pid, Signal::KILL);
        }
    }
}

#[tokio::test]
async fn an_update_that_does_not_become_ready_is_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let user = User::new(folder.path());
    let before = tree(folder.path());
    let config = user.configure();
    let (code, out, err) = user.service(&["install"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert_eq!(
        user.calls(),
        [
            "--user --no-pager daemon-reload",
            "--user --no-pager enable chillgate.service",
            "--user --no-pager restart chillgate.service"
        ]
    );
    assert_eq!(fs::read_to_string(user.config()).unwrap(), config);
    let status = async || user.service(&["status"]).await;
    until("the service", seconds(20), async || {
        let (code, out, _) = status().await;
        (code == Some(0) && out.contains("\"ready\":true")).then_some(())
    })
    .await;
    let good = fs::read(user.binary()).unwrap();

    // One that does not take the configuration changes nothing.
    user.calls();
    let (code, _, err) = user
        .service(&["update", "--from", &user.script("picky", 1)])
        .await;
    assert!(code == Some(1) && err.contains("does not accept"), "{err}");
    assert_eq!(
        (fs::read(user.binary()).unwrap(), user.calls()),
        (good.clone(), vec![])
    );

    // One that takes it and does not serve is replaced by the one before.
    let idle = user.script("idle", 0);
    let args = ["update", "--ready-within", "1", "--from", &idle];
    let (code, out, err) = user.service(&args).await;
    assert!(
        code == Some(1) && err.contains("the old one serves again"),
        "{out}{err}"
    );
    assert_eq!(fs::read(user.binary()).unwrap(), good);
    assert_eq!(user.calls().len(), 2, "restarted with each");
    let (code, out, _) = status().await;
    assert!(code == Some(0) && out.contains("\"ready\":true"), "{out}");

    // One that is not ready in time is taken back with its unit, one that is renews it.
    let unit = user.home.join(".config/systemd/user/chillgate.service");
    let fresh = fs::read_to_string(&unit).unwrap();
    let older = fresh.replace("WatchdogSec=", "# WatchdogSec=");
    assert_ne!(older, fresh);
    fs::write(&unit, &older).unwrap();
    let twin = folder.path().join("twin");
    fs::copy(chillgate(), &twin).unwrap();
    let twin = twin.to_str().unwrap();
    let (code, out, err) = user
        .service(&["update", "--ready-within", "0", "--from", twin])
        .await;
    assert!(
        code == Some(1) && err.contains("serves again") || err.contains("nor is"),
        "{out}{err}"
    );
    assert_eq!(fs::read_to_string(&unit).unwrap(), older, "{out}");
    assert_eq!(
        user.calls()
            .iter()
            .filter(|it| it.contains("daemon-reload"))
            .count(),
        2
    );
    until("the service again", seconds(20), async || {
        (status().await.0 == Some(0)).then_some(())
    })
    .await;
    let (_, out, _) = user.service(&["update", "--dry-run", "--from", twin]).await;
    assert!(
        out.contains("would write") && out.contains("chillgate.service"),
        "{out}"
    );
    assert_eq!(fs::read_to_string(&unit).unwrap(), older);
    let (code, out, err) = user.service(&["update", "--from", twin]).await;
    assert!(
        code == Some(0) && out.contains("written anew"),
        "{out}{err}"
    );
    assert_eq!(fs::read_to_string(&unit).unwrap(), fresh);
    let calls = user.calls();
    let at = |word: &str| calls.iter().position(|it| it.contains(word));
    assert!(
        at("daemon-reload").is_some() && at("daemon-reload") < at("restart"),
        "{calls:?}"
    );

    // A good one stays; a unit that is as it should be is left alone.
    let next = folder.path().join("next");
    fs::copy(chillgate(), &next).unwrap();
    let (code, out, err) = user
        .service(&["update", "--from", next.to_str().unwrap()])
        .await;
    assert!(
        code == Some(0) && out.contains("ready with the new") && !out.contains("anew"),
        "{out}{err}"
    );
    fs::write(user.config(), config.replace("chill", "chil")).unwrap();
    let (code, out, _) = status().await;
    assert!(code == Some(1) && out.contains("mistake"), "{out}");

    let (code, out, err) = user.service(&["uninstall", "--purge"]).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let calls = user.calls();
    assert!(calls.contains(&"--user --no-pager disable --now chillgate.service".to_owned()));
    for ours in ["idle", "picky", "twin", "next", "calls", "log"] {
        fs::remove_file(folder.path().join(ours)).unwrap();
    }
    let left: Vec<_> = tree(folder.path())
        .into_keys()
        .filter(|path| !before.contains_key(path))
        .collect();
    // Made by the test itself before anything was installed.
    let made = [
        user.home.join(".config"),
        user.home.join(".config/chillgate"),
    ];
    assert_eq!(left, made, "left behind");
}

#[tokio::test]
async fn what_cannot_be_done_is_said_before_anything_is() {
    let folder = tempfile::tempdir().unwrap();
    let user = User::new(folder.path());
    fs::remove_dir_all(folder.path().join("run")).unwrap();
    let before = tree(folder.path());
    let (code, _, err) = user.service(&["install"]).await;
    assert!(code == Some(2) && err.contains("no systemd runs"), "{err}");
    assert_eq!(tree(folder.path()), before);
    let (code, _, err) = user.service(&["update"]).await;
    assert!(
        code == Some(2) && err.contains("chillgate service install"),
        "{err}"
    );
    let (code, _, err) = service(&["install", "--dry-run"], &[]).await;
    assert_eq!(code, Some(0), "{err}");
}
