//! The audit log on real files, full ones and slow ones.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::thread;

use chillgate_policies::engine::record::{Phase, Sizes};
use serde_json::Value;

use super::*;
use crate::clock::TokioClock;

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(100);

fn open(path: &Path, metrics: &Metrics) -> Arc<Audit> {
    Audit::open(path.to_owned().into(), Arc::new(TokioClock), metrics).expect("it opens")
}

fn record(agent: &str) -> Record<'_> {
    Record {
        v: 1,
        instance: "test",
        phase: Phase::Admit,
        era: Some("legacy"),
        transport: Some("stdio"),
        session: None,
        agent,
        client: None,
        server: "files",
        method: "tools/call",
        tool: Some("read"),
        id: Some("7"),
        args_sha256: None,
        args: None,
        args_dropped: false,
        decision: None,
        quota: None,
        delay_ms: 0,
        held: false,
        outcome: None,
        cause: None,
        rpc_code: None,
        duration: None,
        bytes: Sizes {
            inward: 1,
            outward: 0,
        },
        levels: None,
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("it is there");
    assert!(
        text.is_empty() || text.ends_with('\n'),
        "the last line is whole"
    );
    text.lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect()
}

fn shows(metrics: &Metrics, line: &str) {
    let text = metrics.render();
    assert!(
        text.lines().any(|it| it == line),
        "no line `{line}` in:\n{text}"
    );
}

#[test]
fn what_many_threads_append_is_written_once_each_and_numbered() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit.jsonl");
    let metrics = Metrics::new();
    let audit = open(&path, &metrics);
    thread::scope(|scope| {
        for n in 0..8 {
            let audit = &audit;
            scope.spawn(move || {
                for _ in 0..500 {
                    audit.append(&record(&format!("agent-{n}"))).expect("taken");
                }
            });
        }
    });
    audit.flush(LONG).expect("written");
    let lines = lines(&path);
    let numbers: Vec<_> = lines
        .iter()
        .filter_map(|line| line["seq"].as_u64())
        .collect();
    assert_eq!(numbers, (1..=4000).collect::<Vec<_>>());
    let of_one = lines
        .iter()
        .filter(|line| line["agent"] == "agent-3")
        .count();
    assert_eq!(of_one, 500);
    let stamp = lines[0]["ts"].as_str().expect("a time");
    assert_eq!(stamp.len(), "2026-11-21T06:45:34.000042Z".len());
    let at: jiff::Timestamp = stamp.parse().expect("RFC 3339");
    assert!(at.duration_until(jiff::Timestamp::now()).as_secs() < 60);
    shows(
        &metrics,
        r#"chillgate_audit_records_total{sink="file"} 4000"#,
    );
}

#[test]
fn an_audit_file_is_for_its_owner_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit.jsonl");
    let _audit = open(&path, &Metrics::new());
    assert_eq!(
        fs::metadata(&path).expect("it is there").mode() & 0o777,
        0o600
    );
}

#[test]
fn a_line_breaker_in_a_name_makes_no_second_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit.jsonl");
    let audit = open(&path, &Metrics::new());
    let sly = "a\r\nb\u{2028}\u{1b}[2J\"}\n{\"seq\":99";
    audit.append(&record(sly)).expect("taken");
    audit.flush(LONG).expect("written");
    let lines = lines(&path);
    assert_eq!(lines.len(), 1);
    assert_eq!(lines[0]["agent"], sly);
}

#[test]
fn a_full_disk_refuses_records_and_loses_none() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit.jsonl");
    symlink("/dev/full", &path).expect("linked");
    let metrics = Metrics::new();
    let audit = open(&path, &metrics);
    audit
        .append(&record("taken-before"))
        .expect("nobody knows yet");
    let error = audit.flush(SHORT * 3).expect_err("it is full");
    assert!(
        error.to_string().contains("1 records are not written yet"),
        "{error}"
    );
    let error = audit
        .append(&record("refused"))
        .expect_err("now it is known");
    assert!(error.to_string().contains("No space left"), "{error}");
    assert!(audit.trouble().is_some());
    let failed = metrics.render();
    let failed = failed
        .lines()
        .find(|line| line.starts_with("chillgate_audit_write_failures_total"));
    assert!(
        failed.is_some_and(|line| !line.ends_with(" 0")),
        "{failed:?}"
    );

    fs::remove_file(&path).expect("removed");
    audit.reopen();
    audit.flush(LONG).expect("there is room now");
    audit.append(&record("taken-after")).expect("taken");
    audit.flush(LONG).expect("written");
    let lines = lines(&path);
    let told: Vec<_> = lines
        .iter()
        .map(|line| (&line["seq"], &line["agent"]))
        .collect();
    assert_eq!(
        told,
        [
            (&1.into(), &"taken-before".into()),
            (&2.into(), &"taken-after".into())
        ]
    );
    assert_eq!(audit.trouble(), None);
}

#[test]
fn a_reader_that_hangs_fills_the_buffer_and_no_more() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0)
        .expect("a pipe");
    let audit = open(&path, &Metrics::new());
    let name = "x".repeat(4000);
    let mut taken = 0;
    while audit.append(&record(&name)).is_ok() {
        taken += 1;
        assert!(taken < 10_000, "the buffer has no bound");
    }
    assert!(taken > 1900, "8 MiB hold more than {taken}");
    assert!(audit.flush(SHORT).is_err());
    let mut read = BufReader::new(fs::File::open(&path).expect("opened")).lines();
    for n in 1..=taken {
        let line = read.next().expect("a line").expect("read");
        assert!(line.starts_with(&format!("{{\"seq\":{n},")), "{n}: {line}");
    }
    audit.flush(LONG).expect("all is read");
    audit.append(&record(&name)).expect("there is room again");
}

#[test]
fn a_rotated_file_is_left_for_a_new_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, old) = (
        dir.path().join("audit.jsonl"),
        dir.path().join("audit.jsonl.1"),
    );
    let audit = open(&path, &Metrics::new());
    audit.append(&record("one")).expect("taken");
    audit.flush(LONG).expect("written");
    // Nothing moved: the same file goes on, and its own lock is no obstacle.
    audit.reopen();
    audit.append(&record("two")).expect("taken");
    audit.flush(LONG).expect("written");
    fs::rename(&path, &old).expect("moved");
    audit.reopen();
    audit.append(&record("three")).expect("taken");
    audit.flush(LONG).expect("written");
    let agents = |path| {
        lines(path)
            .iter()
            .map(|line| line["agent"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(agents(&old), ["one", "two"]);
    assert_eq!(agents(&path), ["three"]);
}

#[test]
fn a_second_writer_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit.jsonl");
    let _first = open(&path, &Metrics::new());
    let second = Audit::open(path.into(), Arc::new(TokioClock), &Metrics::new());
    assert!(matches!(second, Err(OpenError::Busy(_))), "{second:?}");
}

#[test]
fn half_a_line_of_a_killed_process_stays_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("audit.jsonl");
    fs::write(&path, "{\"seq\":1}\n{\"seq\":2,\"ag").expect("written");
    let audit = open(&path, &Metrics::new());
    audit.append(&record("next")).expect("taken");
    audit.flush(LONG).expect("written");
    let text = fs::read_to_string(&path).expect("it is there");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[..2], ["{\"seq\":1}", "{\"seq\":2,\"ag"]);
    assert!(serde_json::from_str::<Value>(lines[2]).is_ok_and(|line| line["agent"] == "next"));
}

#[test]
fn a_missing_directory_is_told_before_anything_starts() {
    let error = Audit::open(
        PathBuf::from("/nowhere/audit.jsonl").into(),
        Arc::new(TokioClock),
        &Metrics::new(),
    );
    assert!(error.is_err_and(|error| error.to_string().contains("does not exist; create it")));
    assert_eq!(Destination::from(PathBuf::from("-")), Destination::Stdout);
}
