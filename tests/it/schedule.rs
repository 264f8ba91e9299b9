//! Values by the hour, and clocks that are set: what changes at which moment, and what never does.
//!
//! It stands apart because the calendar of a process is another here (libfaketime): the real binary
//! believes it, its monotonic clock goes on as it is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use chillgate_tests::gate::{bare, ended};
use chillgate_tests::process::{command, free_port};
use chillgate_tests::wait::{long, seconds};
use chillgate_tests::{Gate, Host, until};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::mock;

/// A calendar of a process's own.
struct Calendar {
    folder: TempDir,
}

impl Calendar {
    /// One that shows this moment now.
    async fn at(moment: &str) -> Self {
        let calendar = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        calendar.set(moment).await;
        calendar
    }

    /// Sets it, as an operator or a time server would.
    async fn set(&self, moment: &str) {
        let date = async |args: &[&str]| -> i64 {
            let said = command("date").args(args).output().await.unwrap();
            let said = String::from_utf8_lossy(&said.stdout).trim().to_owned();
            said.parse()
                .unwrap_or_else(|_| panic!("date {args:?}: {said}"))
        };
        // In whole seconds, from the begin of one.
        let now = date(&["+%s%3N"]).await;
        let ahead = date(&["-u", "-d", moment, "+%s%3N"]).await - now;
        self.put_off(ahead);
    }

    /// Sets it off by so many milliseconds from the machine's.
    fn put_off(&self, millis: i64) {
        let sign = if millis < 0 { '-' } else { '+' };
        let (whole, rest) = (millis.abs() / 1000, millis.abs() % 1000);
        let next = self.folder.path().join("next");
        std::fs::write(&next, format!("{sign}{whole}.{rest:03}\n")).unwrap();
        std::fs::rename(next, self.file()).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("offset")
    }

    /// What makes a process believe it.
    fn environment(&self) -> BTreeMap<&'static str, String> {
        let library = std::fs::read_dir("/usr/lib").unwrap().filter_map(|entry| {
            let library = entry.ok()?.path().join("faketime/libfaketimeMT.so.1");
            library.is_file().then_some(library)
        });
        let library = library
            .into_iter()
            .next()
            .expect("libfaketime is installed");
        BTreeMap::from([
            ("LD_PRELOAD", library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DONT_RESET", "1".to_owned()),
        ])
    }

    /// A gate that believes it, with these policies.
    async fn gate(&self, policies: &str) -> Gate {
        let mut gate = Gate::with(&(mock("a").table("") + policies)).audited();
        for (name, value) in self.environment() {
            gate = gate.env(name, &value);
        }
        gate.start().await
    }
}

/// So many calls; how many are not refused.
async fn answered(host: &Host, calls: usize) -> usize {
    let mut answered = 0;
    for _ in 0..calls {
        let reply = host.call("echo", json!({ "message": "x" })).await;
        answered += usize::from(reply.code().is_none());
    }
    answered
}

/// Whether a call may be made.
async fn passes(host: &Host) -> bool {
    answered(host, 1).await == 1
}

/// Nobody may call but in these hours.
fn open_in(hours: &str) -> String {
    format!(
        "[[policy]]\ntype = \"access\"\nname = \"hours\"\ndeny = [\"a__*\"]\n\
         schedule = [{{ {hours}, deny = [\"a__pid\"] }}]\n"
    )
}

/// At the second of a boundary the other values hold; hosts hear that their lists are others.
#[tokio::test]
async fn values_change_over_at_the_minute_that_is_written() {
    for (moment, before) in [
        ("2027-01-03T23:59:56Z", false),
        ("2027-01-04T08:59:56Z", true),
    ] {
        let calendar = Calendar::at(moment).await;
        // 09:00 to 18:00 on a Monday in Seoul.
        let hours = "at = \"Mon-Fri 09:00-18:00\", in = \"Asia/Seoul\"";
        let gate = calendar.gate(&open_in(hours)).await;
        let host = gate.host().open().await;
        let mut stream = host.listen().await;
        assert_eq!(passes(&host).await, before, "{moment}");
        let note = chillgate_tests::wait::within("list_changed", seconds(8), stream.message());
        assert_eq!(
            note.await.unwrap()["method"],
            "notifications/tools/list_changed"
        );
        assert_eq!(passes(&host).await, !before, "{moment}");
        let log = gate.log().join("\n");
        assert!(log.contains("Other values hold from now on."), "{log}");
        let lists = host.tools().await;
        assert_eq!(lists.iter().any(|tool| tool == "echo"), !before);
    }
}

/// The quota of the hour counts what was spent in the hour before.
#[tokio::test]
async fn a_limit_of_another_hour_refills_nothing() {
    let calendar = Calendar::at("2027-01-04T08:59:55Z").await;
    let quota = "[[policy]]\ntype = \"quota\"\nname = \"calls\"\nallow = \"3/h\"\nmatch = { method = \"tools/call\" }\n\
                 schedule = [{ at = \"Mon 09:00-10:00\", allow = \"5/h\" }]\n";
    let gate = calendar.gate(quota).await;
    let host = gate.host().open().await;
    assert_eq!(answered(&host, 5).await, 3);
    until("the hour", seconds(10), async || {
        gate.log()
            .join("\n")
            .contains("Other values hold")
            .then_some(())
    })
    .await;
    assert_eq!(answered(&host, 9).await, 2, "two more, not five");
}

/// `check` and `explain` say which values hold, and until when.
#[tokio::test]
async fn what_holds_now_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("chillgate.toml");
    let text = "[server.a]\ncommand = [\"x\"]\n[[policy]]\ntype = \"boss-alert\"\nname = \"boss\"\nalertness = 50\n\
                schedule = [{ at = \"Mon-Fri 09:00-18:00\", in = \"Asia/Seoul\", alertness = 80 }]\n";
    std::fs::write(&config, text).unwrap();
    for (moment, alertness, said) in [
        (
            "2027-01-04T03:00:00Z",
            "80 %",
            "by its schedule now: Mon-Fri 09:00-18:00 in Asia/Seoul; others from 2027-01-04T09:00:00Z",
        ),
        (
            "2027-01-04T12:00:00Z",
            "50 %",
            "its own values now; by its schedule others from 2027-01-05T00:00:00Z",
        ),
        (
            "2027-01-08T12:00:00Z",
            "50 %",
            "its own values now; by its schedule others from 2027-01-11T00:00:00Z",
        ),
    ] {
        let calendar = Calendar::at(moment).await;
        for words in [&["check"][..], &["explain", "tools/call", "--tool", "x"]] {
            let mut verb = bare();
            verb.envs(calendar.environment())
                .args(words)
                .arg("--config")
                .arg(&config);
            let (code, out, err) = ended(verb, 20).await;
            assert_eq!(code, Some(0), "{err}");
            assert!(
                out.contains(alertness) && out.contains(said),
                "{moment} {words:?}: {out}"
            );
        }
    }
}

/// Faults, row 73: a clock that is set brings no window of the calendar back early, and none late
/// that goes on by itself.
#[tokio::test]
async fn a_clock_that_is_set_admits_nobody_twice() {
    let quota = |zone: &str| {
        format!(
            "[[policy]]\ntype = \"quota\"\nname = \"daily\"\nmatch = {{ method = \"tools/call\" }}\nallow = \"3/day in {zone}\"\n"
        )
    };
    let (mut extra, mut jumps) = (0, 0);
    for (zone, moment) in [
        // Half an hour before midnight, at either change of clocks, and in the middle of a day.
        ("Asia/Seoul", "2027-01-04T14:30:00Z"),
        ("Europe/Berlin", "2026-03-29T00:59:00Z"),
        ("Europe/Berlin", "2026-10-25T00:59:00Z"),
        ("UTC", "2027-01-04T12:00:00Z"),
    ] {
        let calendar = Calendar::at(moment).await;
        let gate = calendar.gate(&quota(zone)).await;
        let host = gate.host().open().await;
        assert_eq!(answered(&host, 5).await, 3);
        for jump in [
            "1 hour", "-1 hour", "-1 day", "1 day", "25 hours", "-40 days",
        ] {
            calendar.set(&format!("{moment} {jump}")).await;
            jumps += 1;
            extra += answered(&host, 3).await;
        }
    }
    assert_eq!(extra, 0, "extra admissions");
    eprintln!("{jumps} jumps of a calendar: {extra} extra admissions");
    // Midnight itself comes when it should.
    let calendar = Calendar::at("2027-01-04T14:59:55Z").await;
    let gate = calendar.gate(&quota("Asia/Seoul")).await;
    let host = gate.host().open().await;
    assert_eq!(answered(&host, 5).await, 3);
    sleep(seconds(6)).await;
    assert_eq!(answered(&host, 5).await, 3, "the next day");
}

/// The end of an override is so long after its begin, whatever the calendar is set to.
#[tokio::test]
async fn a_clock_that_is_set_moves_the_end_of_no_override() {
    for jump in ["1 hour", "-1 day"] {
        let moment = "2027-01-04T12:00:00Z";
        let calendar = Calendar::at(moment).await;
        let port = free_port();
        let admin =
            format!("[admin]\nlisten = \"127.0.0.1:{port}\"\ntoken = \"a-token-of-some-length\"\n");
        let closed = "[[policy]]\ntype = \"access\"\nname = \"hours\"\ndeny = [\"a__pid\"]\n";
        let gate = calendar.gate(&(admin + closed)).await;
        let host = gate.host().open().await;
        let mut verb = bare();
        verb.args([
            "override",
            "set",
            "hours",
            "deny=a__*",
            "--for",
            "5s",
            "--config",
        ]);
        verb.arg(gate.config());
        let began = Instant::now();
        let (code, _, err) = ended(verb, 20).await;
        assert_eq!(code, Some(0), "{err}");
        calendar.set(&format!("{moment} {jump}")).await;
        assert!(!passes(&host).await);
        until("the end of the override", seconds(9), async || {
            passes(&host).await.then_some(())
        })
        .await;
        let lasted = began.elapsed();
        assert!(
            lasted >= Duration::from_millis(4_900),
            "{jump}: it ended after {lasted:?}"
        );
    }
}

/// The longer form: a boundary of the real calendar, and one that a set clock has jumped over, which
/// is noticed within a minute.
#[tokio::test]
async fn a_real_minute_and_a_jump_are_noticed() {
    if !long() {
        return;
    }
    let date = async |when: &str| {
        let said = command("date")
            .args(["-u", "-d", when, "+%H:%M"])
            .output()
            .await
            .unwrap();
        String::from_utf8_lossy(&said.stdout).trim().to_owned()
    };
    let hours = format!(
        "at = \"{}-{}\"",
        date("now + 2 minutes").await,
        date("now + 3 minutes").await
    );
    let gate = Gate::with(&(mock("a").table("") + &open_in(&hours)))
        .start()
        .await;
    let host = gate.host().open().await;
    let real = async {
        assert!(!passes(&host).await, "{hours}");
        until("its begin", seconds(125), async || {
            passes(&host).await.then_some(())
        })
        .await;
        let begun = Instant::now();
        until("its end", seconds(65), async || {
            (!passes(&host).await).then_some(())
        })
        .await;
        let lasted = begun.elapsed();
        assert!(
            lasted > seconds(58) && lasted < seconds(62),
            "a minute took {lasted:?}"
        );
    };
    let jumped = async {
        let calendar = Calendar::at("2027-01-04T12:00:00Z").await;
        let gate = calendar.gate(&open_in("at = \"15:00-16:00\"")).await;
        let host = gate.host().open().await;
        assert!(!passes(&host).await);
        calendar.set("2027-01-04T15:10:00Z").await;
        until("the jump", seconds(65), async || {
            passes(&host).await.then_some(())
        })
        .await;
        calendar.set("2027-01-03T12:00:00Z").await;
        until("the jump back", seconds(65), async || {
            (!passes(&host).await).then_some(())
        })
        .await;
    };
    tokio::join!(real, jumped);
}
