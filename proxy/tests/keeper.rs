//! The keeper with the real binary and real processes: whatever ends, nothing stays behind.
//!
//! Apart from the unit tests because only the binary knows the keeper's verb. Each test marks its
//! processes with an environment variable of its own and then looks for the mark in the process
//! table, so that nothing depends on what the tested code says about itself.
#![expect(
    clippy::disallowed_methods,
    reason = "these tests start, watch and wait for processes"
)]

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use chillgate::supervisor::{self, Launch, Process, SpawnError, Status, keep};
use chillgate::telemetry::metrics::Metrics;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

const CHILLGATE: &str = env!("CARGO_BIN_EXE_chillgate");

/// A chain, a helper in a session of its own, and a grandchild whose parents are gone.
const FAMILY: &str = r#"sh -c "sleep 999 & wait" & setsid sleep 999 & (setsid sh -c "sleep 999 & exit" &) ; echo up; wait"#;

/// The same, deaf to SIGTERM throughout.
const DEAF: &str = r#"trap "" TERM; setsid sh -c 'trap "" TERM; while :; do sleep 999; done' & echo up; while :; do sleep 1; done"#;

/// Processes of one test, told by a variable in their environment.
struct Mark(String);

impl Mark {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(format!("KEEPER_TEST={}-{next}", std::process::id()))
    }

    fn env(&self) -> Vec<(String, String)> {
        let (name, value) = self.0.split_once('=').expect("a variable");
        let path = std::env::var("PATH").expect("a PATH");
        vec![
            (name.to_owned(), value.to_owned()),
            ("PATH".to_owned(), path),
        ]
    }

    /// Command lines of those alive (zombies have neither environment nor command line).
    fn alive(&self) -> Vec<(Pid, String)> {
        let processes = fs::read_dir("/proc").expect("the process table").flatten();
        processes
            .filter_map(|entry| {
                let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
                let env = fs::read(entry.path().join("environ")).ok()?;
                let mine = env
                    .split(|byte| *byte == 0)
                    .any(|it| it == self.0.as_bytes());
                let line = fs::read(entry.path().join("cmdline")).ok()?;
                mine.then(|| (pid, String::from_utf8_lossy(&line).replace('\0', " ")))
            })
            .collect()
    }

    /// Waits until so many are alive; false after `within`.
    fn comes_to(&self, count: usize, within: Duration) -> bool {
        let until = Instant::now() + within;
        while Instant::now() < until {
            if self.alive().len() == count {
                return true;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        self.alive().len() == count
    }
}

fn launch(mark: &Mark, command: &[&str]) -> Launch {
    Launch {
        name: "test".to_owned(),
        command: command.iter().map(|&part| part.to_owned()).collect(),
        env: mark.env(),
        ..Launch::default()
    }
}

async fn start(mark: &Mark, command: &[&str]) -> Process {
    supervisor::keep_with(CHILLGATE);
    supervisor::spawn(launch(mark, command), &Metrics::new())
        .await
        .expect("it starts")
}

/// Starts a script that says `up`, and hears it.
async fn start_family(mark: &Mark, script: &str) -> (Process, tokio::process::ChildStdin) {
    let mut process = start(mark, &["sh", "-c", script]).await;
    let (stdin, stdout) = process.take_pipes().expect("its pipes");
    let mut line = String::new();
    BufReader::new(stdout)
        .read_line(&mut line)
        .await
        .expect("it speaks");
    assert_eq!(line, "up\n");
    (process, stdin)
}

/// A keeper below a shell of its own, to be killed in chillgate's place.
fn start_orphan_to_be(mark: &Mark, script: &str) -> std::process::Child {
    Command::new("sh")
        .args([
            "-c",
            r#""$0" "$1" $$ same {} -- sh -c "$2" </dev/null >/dev/null & wait"#,
        ])
        .args([CHILLGATE, keep::VERB, script])
        .envs(mark.env())
        .process_group(0)
        .spawn()
        .expect("a shell starts")
}

#[test]
fn killing_chillgate_leaves_no_descendant_within_two_seconds() {
    for (script, count) in [(FAMILY, 7), (DEAF, 6)] {
        let mark = Mark::new();
        let mut parent = start_orphan_to_be(&mark, script);
        assert!(
            mark.comes_to(count, Duration::from_secs(10)),
            "{:?}",
            mark.alive()
        );
        parent.kill().expect("killed");
        parent.wait().expect("reaped");
        assert!(
            mark.comes_to(0, Duration::from_secs(2)),
            "left: {:?}",
            mark.alive()
        );
    }
}

/// What keepers do on systems without a death signal: the shell, their parent, lives on.
#[test]
fn the_end_of_the_pipe_is_as_good_as_chillgates_death() {
    let mark = Mark::new();
    let mut shell = Command::new("sh")
        .args([
            "-c",
            r#"sleep 998 | "$0" "$1" "$$:8" same {} -- sh -c "$2" 8<&0 </dev/null >/dev/null; true"#,
        ])
        .args([CHILLGATE, keep::VERB, FAMILY])
        .envs(mark.env())
        .spawn()
        .expect("a shell starts");
    assert!(
        mark.comes_to(8, Duration::from_secs(10)),
        "{:?}",
        mark.alive()
    );
    let alive = mark.alive();
    let holder = alive.iter().find(|(_, line)| line.trim() == "sleep 998");
    let (holder, _) = holder.expect("it holds the pipe");
    kill_process(*holder, Signal::KILL).expect("killed");
    assert!(
        mark.comes_to(0, Duration::from_secs(2)),
        "{:?}",
        mark.alive()
    );
    assert!(shell.wait().expect("it ends").success());
}

#[tokio::test]
async fn stopping_ends_a_whole_family_at_once() {
    let mark = Mark::new();
    let (mut process, stdin) = start_family(&mark, FAMILY).await;
    let begun = Instant::now();
    drop(stdin);
    let status = process.stop().await;
    assert!(
        begun.elapsed() < Duration::from_secs(1),
        "took {:?}",
        begun.elapsed()
    );
    assert_eq!(status.to_string(), "signal 15 (TERM)");
    assert_eq!(mark.alive(), []);
}

#[tokio::test]
async fn a_family_deaf_to_sigterm_is_gone_within_five_and_a_half_seconds() {
    let mark = Mark::new();
    let mut process = start(&mark, &["sh", "-c", DEAF]).await;
    assert!(
        mark.comes_to(5, Duration::from_secs(10)),
        "{:?}",
        mark.alive()
    );
    let begun = Instant::now();
    let status = process.stop().await;
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(5500), "took {took:?}");
    assert!(
        took > Duration::from_millis(4900),
        "it was not given its time: {took:?}"
    );
    assert_eq!(status, Status::Signal(9));
    assert_eq!(mark.alive(), []);
}

#[tokio::test]
async fn a_server_that_ends_at_the_end_of_its_input_is_not_hurried() {
    let mark = Mark::new();
    let mut process = start(&mark, &["sh", "-c", "cat; sleep 0.5; exit 7"]).await;
    assert_eq!(process.stop().await.to_string(), "exit code 7");
}

#[tokio::test]
async fn dropping_a_process_ends_its_family() {
    let mark = Mark::new();
    let (process, _stdin) = start_family(&mark, FAMILY).await;
    drop(process);
    assert!(
        mark.comes_to(0, Duration::from_secs(2)),
        "left: {:?}",
        mark.alive()
    );
}

#[tokio::test]
async fn what_a_server_leaves_behind_ends_with_it() {
    let mark = Mark::new();
    let (mut process, _stdin) = start_family(&mark, &FAMILY.replace("; wait", "; exit 3")).await;
    let begun = Instant::now();
    assert_eq!(process.wait().await, Status::Code(3));
    assert!(
        begun.elapsed() < Duration::from_millis(500),
        "took {:?}",
        begun.elapsed()
    );
    assert_eq!(mark.alive(), []);
}

#[tokio::test]
async fn a_killed_keeper_takes_its_family_along() {
    let mark = Mark::new();
    let (mut process, _stdin) =
        start_family(&mark, r#"sh -c "sleep 999 & wait" & echo up; wait"#).await;
    let keeper = Pid::from_raw(process.pid().try_into().expect("a pid")).expect("a pid");
    kill_process(keeper, Signal::KILL).expect("killed");
    assert_eq!(
        process.wait().await.to_string(),
        "its keeper was ended by signal 9 (KILL)"
    );
    assert!(
        mark.comes_to(0, Duration::from_secs(1)),
        "left: {:?}",
        mark.alive()
    );
}

#[tokio::test]
async fn a_keeper_that_hangs_is_ended_with_its_family() {
    let mark = Mark::new();
    let (mut process, stdin) = start_family(&mark, FAMILY).await;
    let keeper = Pid::from_raw(process.pid().try_into().expect("a pid")).expect("a pid");
    kill_process(keeper, Signal::STOP).expect("stopped");
    drop(stdin);
    let begun = Instant::now();
    process.stop().await;
    assert!(
        begun.elapsed() < Duration::from_millis(5500),
        "took {:?}",
        begun.elapsed()
    );
    assert!(
        mark.comes_to(0, Duration::from_secs(1)),
        "left: {:?}",
        mark.alive()
    );
}

#[tokio::test]
async fn a_servers_own_end_is_passed_through() {
    for (script, told) in [
        ("exit 0", "exit code 0"),
        ("exit 42", "exit code 42"),
        ("kill -9 $$", "signal 9 (KILL)"),
        ("kill -11 $$", "signal 11 (SEGV)"),
    ] {
        let mut process = start(&Mark::new(), &["sh", "-c", script]).await;
        assert_eq!(process.wait().await.to_string(), told, "{script}");
        assert_eq!(
            process.stop().await.to_string(),
            told,
            "{script}, asked again"
        );
    }
}

#[tokio::test]
async fn bytes_pass_straight_through_and_end_when_the_server_ends() {
    let mut process = start(&Mark::new(), &["cat"]).await;
    let (mut stdin, stdout) = process.take_pipes().expect("its pipes");
    assert!(process.take_pipes().is_none());
    let mut lines = BufReader::new(stdout).lines();
    stdin
        .write_all(b"{\"jsonrpc\":\"2.0\"}\n")
        .await
        .expect("written");
    assert_eq!(
        lines.next_line().await.expect("read").as_deref(),
        Some("{\"jsonrpc\":\"2.0\"}")
    );
    drop(stdin);
    assert_eq!(lines.next_line().await.expect("read"), None);
    assert_eq!(process.wait().await, Status::Code(0));
}

#[tokio::test]
async fn writing_to_a_dead_server_fails() {
    let mut process = start(&Mark::new(), &["sh", "-c", "exec <&-; sleep 999"]).await;
    let (mut stdin, _stdout) = process.take_pipes().expect("its pipes");
    let line = [b'x'; 4096];
    let until = Instant::now() + Duration::from_secs(10);
    // The keeper must not hold the reading end: then this would fill the pipe and hang.
    while stdin.write_all(&line).await.is_ok() {
        assert!(Instant::now() < until, "the pipe never breaks");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_sees_its_own_environment_and_three_descriptors() {
    let mark = Mark::new();
    let script = "tr '\\0' '\\n' </proc/self/environ; ls /proc/self/fd | wc -l";
    let dir = tempfile::tempdir().expect("a directory");
    let mut launch = launch(&mark, &["sh", "-c", &format!("{script}; pwd")]);
    launch.cwd = Some(dir.path().to_owned());
    supervisor::keep_with(CHILLGATE);
    let mut process = supervisor::spawn(launch, &Metrics::new())
        .await
        .expect("it starts");
    let (_stdin, stdout) = process.take_pipes().expect("its pipes");
    let mut lines = BufReader::new(stdout).lines();
    let mut seen = Vec::new();
    while let Some(line) = lines.next_line().await.expect("read") {
        seen.push(line);
    }
    let cwd = seen.pop().expect("a directory");
    let fds = seen.pop().expect("a count");
    assert_eq!(cwd, dir.path().to_str().expect("UTF-8"));
    // Three, and the one by which `ls` reads the directory.
    assert_eq!(fds.trim(), "4");
    seen.retain(|line| {
        !["PWD=", "OLDPWD=", "SHLVL=", "_="]
            .iter()
            .any(|it| line.starts_with(it))
    });
    seen.sort();
    let mut expected: Vec<_> = mark.env().iter().map(|(k, v)| format!("{k}={v}")).collect();
    expected.sort();
    assert_eq!(seen, expected);
}

#[test]
fn descriptors_handed_to_chillgate_stop_at_the_keeper() {
    let output = Command::new("sh")
        .args([
            "-c",
            r#"exec 7</etc/passwd 9</etc/passwd; "$0" "$1" $$ same {} -- ls /proc/self/fd; true"#,
        ])
        .args([CHILLGATE, keep::VERB])
        .output()
        .expect("a shell starts");
    let listed = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!(
        listed.lines().collect::<Vec<_>>(),
        ["0", "1", "2", "3"],
        "3 is ls's own"
    );
}

#[tokio::test]
async fn what_a_server_says_before_it_dies_is_kept() {
    let script = "echo first >&2; printf 'no \\033[31mconfig' >&2; exit 1";
    let mut process = start(&Mark::new(), &["sh", "-c", script]).await;
    assert_eq!(process.wait().await, Status::Code(1));
    assert_eq!(process.last_words(), ["first", r"no \u{1b}[31mconfig"]);
}

#[tokio::test]
async fn a_program_that_cannot_start_is_told_in_words() {
    supervisor::keep_with(CHILLGATE);
    let mark = Mark::new();
    let error = supervisor::spawn(launch(&mark, &["no-such-npx"]), &Metrics::new()).await;
    assert!(
        matches!(error, Err(SpawnError::NotFound { .. })),
        "{error:?}"
    );
    // Found, executable, and yet no program: only the system knows.
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("server");
    let mut file = fs::File::create(&path).expect("created");
    file.write_all(b"#!/nowhere/interpreter\n")
        .expect("written");
    drop(file);
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("permitted");
    let mut process = start(&mark, &[path.to_str().expect("UTF-8")]).await;
    assert_eq!(process.wait().await, Status::Code(127));
    let words = process.last_words().join("\n");
    assert!(
        words.starts_with("chillgate: cannot start") && words.contains("server"),
        "{words}"
    );
}

#[tokio::test]
async fn a_flood_on_stderr_does_not_hold_the_server_up() {
    let metrics = Metrics::new();
    supervisor::keep_with(CHILLGATE);
    let flood = launch(
        &Mark::new(),
        &[
            "sh",
            "-c",
            "head -c 50000000 /dev/zero | tr '\\0' 'x' | fold -w 999 >&2; echo done",
        ],
    );
    let mut process = supervisor::spawn(flood, &metrics).await.expect("it starts");
    let (_stdin, stdout) = process.take_pipes().expect("its pipes");
    let line = BufReader::new(stdout)
        .lines()
        .next_line()
        .await
        .expect("read");
    assert_eq!(line.as_deref(), Some("done"));
    process.wait().await;
    let text = metrics.render();
    let dropped = text.lines().find_map(|it| {
        it.strip_prefix("chillgate_child_stderr_dropped_bytes_total{server=\"test\"} ")
    });
    let dropped: u64 = dropped.expect("it was counted").parse().expect("a number");
    assert!(dropped > 40_000_000, "{dropped}");
}

#[test]
fn the_keepers_verb_explains_itself_to_people() {
    for args in [
        &[][..],
        &["1"],
        &["x", "same", "{}", "--", "true"],
        &["1", "--"],
        &["1", "true"],
    ] {
        let output = Command::new(CHILLGATE)
            .arg(keep::VERB)
            .args(args)
            .output()
            .expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("own use"),
            "{args:?}"
        );
    }
    // A parent that is not its parent: chillgate died before the keeper could ask for the signal.
    let output = Command::new(CHILLGATE)
        .args([keep::VERB, "1", "same", "{}", "--", "true"])
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    assert_eq!(output.status.code(), Some(126));
}
