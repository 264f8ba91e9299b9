//! The memory as a whole, with a real folder.

use std::path::Path;

use super::book::{Failure, Sample};
use super::note::WORDS;
use super::*;
use crate::supervisor::Status;

fn launch(env: &[(&str, &str)]) -> Launch {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Launch {
        name: "files".to_owned(),
        command: vec!["sh".to_owned(), "-c".to_owned(), "exit 1".to_owned()],
        env: [("PATH".to_owned(), "/bin:/usr/bin".to_owned())]
            .into_iter()
            .chain(env)
            .collect(),
        cwd: None,
        ..Launch::default()
    }
}

fn incident(incidents: &Incidents, phase: Phase, words: &str, env: &[(&str, &str)]) -> Incident {
    let launch = Launch {
        secrets: Secrets::new(env.iter().map(|(_, value)| *value)),
        ..launch(env)
    };
    Incident {
        server: "files".into(),
        agent: None,
        phase,
        cause: "it closed its output (exit code 1)".to_owned(),
        status: Some(Status::Code(1)),
        by_gate: false,
        has_served: true,
        words: words.lines().map(str::to_owned).collect(),
        facts: Some(Arc::new(incidents.facts(launch))),
        at: Moment::now(),
    }
}

fn note(incidents: &Incidents, phase: Phase, words: &str, env: &[(&str, &str)]) -> Recognised {
    incidents.note(incident(incidents, phase, words, env))
}

fn open(folder: &Path) -> Incidents {
    Incidents::open(Some(folder.to_owned()), &[])
}

fn facts(incidents: &Incidents, env: &[(&str, &str)]) -> Facts {
    incidents.facts(launch(env))
}

const NEEDS: &str = "Error: TOKEN_OF_MINE is required";

#[test]
fn a_failure_is_recognised_by_the_next_process() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = open(folder.path());
    let known = note(&first, Phase::Start, NEEDS, &[]);
    assert!(known.is_new && known.count == 1);
    assert!(
        known
            .sentence()
            .contains("what to do: the server wants the variable TOKEN_OF_MINE")
    );
    // The same outage, tried again.
    let again = note(&first, Phase::Start, NEEDS, &[]);
    assert!(!again.is_new && again.count == 1 && again.id == known.id);
    first.flush();
    let second = open(folder.path());
    let later = note(&second, Phase::Start, NEEDS, &[]);
    assert_eq!((later.id.as_str(), later.count), (known.id.as_str(), 2));
    assert_eq!(later.first_seen, known.first_seen);
    assert!(
        later.sentence().contains("(2 times)"),
        "{}",
        later.sentence()
    );
    assert_eq!(later.label(), "missing-variable");
    assert_eq!(second.patterns()[0].attempts, 3);
}

#[test]
fn a_remedy_that_worked_is_credited_and_one_that_was_not_needed_is_not() {
    let incidents = Incidents::default();
    note(&incidents, Phase::Start, NEEDS, &[]);
    incidents.worked(
        "files",
        None,
        Some(&facts(&incidents, &[("TOKEN_OF_MINE", "x")])),
    );
    incidents.flush();
    let pattern = &incidents.patterns()[0];
    assert_eq!((pattern.worked, pattern.passed), (1, 0));
    let changed = &pattern.recovery.as_ref().expect("it is well").changed;
    assert_eq!(
        changed[..],
        ["the variable TOKEN_OF_MINE", "what `variable` looks at"]
    );
    assert!(pattern.is_resolved(Moment::now()));
    assert_eq!(incidents.current("files", None), None);

    let other = Incidents::default();
    note(
        &other,
        Phase::Start,
        "Error: connect ECONNREFUSED 127.0.0.1:1",
        &[],
    );
    other.worked("files", None, Some(&facts(&other, &[])));
    other.flush();
    assert_eq!(
        (other.patterns()[0].worked, other.patterns()[0].passed),
        (0, 1)
    );
}

#[test]
fn preflight_says_what_still_stands_in_the_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let first = open(folder.path());
    note(&first, Phase::Start, NEEDS, &[]);
    first.flush();
    let second = open(folder.path());
    let found = second.preflight(&[second.candidate(launch(&[]))]);
    assert_eq!((found[0].check, found[0].failing), ("variable", true));
    assert_eq!(found[0].remedy.as_deref(), Some("missing-variable"));
    assert_eq!(second.findings("files"), found);
    // What is missing is there now.
    let cured = second.candidate(launch(&[("TOKEN_OF_MINE", "x")]));
    assert_eq!(second.preflight(&[cured]), []);
    assert_eq!(second.findings("files"), []);
    // Where there is nothing to look at, that nothing has changed.
    let third = Incidents::default();
    note(
        &third,
        Phase::Start,
        "ModuleNotFoundError: No module named 'nope'",
        &[],
    );
    let found = third.preflight(&[third.candidate(launch(&[]))]);
    assert_eq!((found[0].check, found[0].failing), ("unchanged", false));
    assert!(
        found[0].says.contains("No module named 'nope'"),
        "{found:?}"
    );
    assert_eq!(
        third.preflight(&[third.candidate(launch(&[("A", "1")]))]),
        []
    );
    // A server that is not configured any more is nobody's.
    let mut gone = launch(&[]);
    gone.name = "other".to_owned();
    assert_eq!(third.preflight(&[third.candidate(gone)]), []);
    assert_eq!(second.worked("files", None, None), Vec::<&str>::new());
}

#[test]
fn no_secret_reaches_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let incidents = open(folder.path());
    let words = "connecting with Zq9-planted-value\nError: login Zq9-planted-value refused\ntoken=abc123xyz";
    let env = [("KEY_OF_MINE", "Zq9-planted-value")];
    let known = note(&incidents, Phase::Run, words, &env);
    incidents.flush();
    let mut all = format!("{known:?}{}", known.sentence());
    for entry in std::fs::read_dir(folder.path()).expect("listed") {
        let path = entry.expect("an entry").path();
        all += &std::fs::read_to_string(path).expect("text");
    }
    assert!(
        all.contains("KEY_OF_MINE") && all.contains("[redacted]"),
        "{all}"
    );
    assert!(
        !all.contains("planted") && !all.contains("abc123xyz"),
        "{all}"
    );
}

#[test]
fn two_processes_that_share_a_folder_lose_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, other) = (open(folder.path()), open(folder.path()));
    for (number, word) in ["alpha", "beta", "gamma", "delta"].into_iter().enumerate() {
        let who = if number % 2 == 0 { &one } else { &other };
        note(who, Phase::Start, &format!("Error: no {word} here"), &[]);
        note(who, Phase::Start, "Error: both see this", &[]);
        who.flush();
    }
    let third = open(folder.path()).patterns();
    let names: Vec<_> = third
        .iter()
        .map(|it| (it.what.as_str(), it.count))
        .collect();
    assert_eq!(names.len(), 5, "{names:?}");
    assert!(names.contains(&("Error: both see this", 2)), "{names:?}");
}

#[test]
fn ten_thousand_different_failures_stay_within_the_bounds() {
    let folder = tempfile::tempdir().expect("a folder");
    let incidents = open(folder.path());
    let environment = facts(&incidents, &[]).environment;
    for n in 0..10_000 {
        let line = format!("Error: {n} broke {}", "in many words ".repeat(15));
        let failure = Failure {
            id: format!("{n:08x}"),
            server: "files".to_owned(),
            agent: None,
            phase: Phase::Start,
            ended: String::new(),
            what: line.clone(),
            is_new_outage: true,
            remedy: None,
            environment: environment.clone(),
            sample: Sample {
                at: Moment::now(),
                cause: "it closed its output".to_owned(),
                words: vec![line; WORDS],
            },
        };
        incidents
            .0
            .shared
            .put_down(vec![Event::Failed(Box::new(failure))]);
        if n % 700 == 0 {
            note(&incidents, Phase::Start, NEEDS, &[]);
            incidents.flush();
        }
    }
    assert!(locked(&incidents.0.shared.state).pending.len() <= PENDING);
    let last = note(&incidents, Phase::Start, "Error: the very last", &[]).id;
    incidents.flush();
    let size = folder
        .path()
        .join("incidents.json")
        .metadata()
        .expect("written")
        .len();
    assert!(size <= file::LARGEST as u64 && size > 100_000, "{size}");
    let patterns = open(folder.path()).patterns();
    assert!(patterns.len() <= book::PATTERNS && patterns.len() > 100);
    assert!(patterns.iter().any(|pattern| pattern.id == last));
}

#[test]
fn without_a_folder_it_is_remembered_until_the_end() {
    let incidents = Incidents::default();
    note(&incidents, Phase::Start, NEEDS, &[]);
    incidents.flush();
    assert_eq!(incidents.patterns().len(), 1);
}

#[test]
fn a_folder_that_cannot_be_written_is_no_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    let gone = folder.path().join("gone");
    let incidents = open(&gone);
    assert_eq!(note(&incidents, Phase::Start, NEEDS, &[]).count, 1);
    incidents.flush();
    assert_eq!(incidents.patterns().len(), 1);
}

#[test]
fn the_users_own_remedies_can_change_while_it_runs() {
    let incidents = Incidents::default();
    assert_eq!(
        note(&incidents, Phase::Start, NEEDS, &[]).label(),
        "missing-variable"
    );
    let own: Remedy = toml_edit::de::from_str(
        "name = \"mine\"\nsays = \"ask Kim\"\nmatch = { server = \"files\", exit = 1 }",
    )
    .expect("a remedy");
    incidents.set_own(&[own]);
    let known = note(&incidents, Phase::Start, NEEDS, &[]);
    assert_eq!(
        (known.label(), known.sentence().as_str()),
        ("own", "; what to do: ask Kim")
    );
}

#[test]
fn a_failure_in_service_is_an_outage_each_time() {
    let incidents = Incidents::default();
    note(&incidents, Phase::Run, "boom", &[]);
    incidents.worked("files", None, Some(&facts(&incidents, &[])));
    incidents.flush();
    assert_eq!(note(&incidents, Phase::Run, "boom", &[]).count, 2);
    // It came back at once: it was not over.
    assert_eq!(incidents.patterns()[0].passed, 0);
}

#[test]
fn what_is_behind_a_server_is_not_told_before_its_next_start() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let number = port.local_addr().expect("an address").port();
    let words = format!("Error: listen EADDRINUSE: address already in use 127.0.0.1:{number}");
    let first = open(folder.path());
    note(&first, Phase::Start, &words, &[]);
    first.flush();
    let look = |incidents: &Incidents| incidents.preflight(&[incidents.candidate(launch(&[]))]);
    assert_eq!(look(&first)[0].check, "port");
    // What had broken it is gone, though nothing of the server has changed.
    drop(port);
    assert_eq!(look(&first), []);

    // Nor is one that has started well since, whatever it was.
    let second = Incidents::default();
    note(&second, Phase::Start, "Error: no luck today", &[]);
    assert_eq!(look(&second)[0].check, "unchanged");
    second.worked("files", None, Some(&facts(&second, &[])));
    second.flush();
    assert_eq!(look(&second), []);
}

#[test]
fn each_end_of_what_had_been_well_is_an_outage_of_its_own() {
    for (phase, count) in [
        (Phase::Run, 2),
        (Phase::Stop, 2),
        (Phase::Start, 1),
        (Phase::Remote, 1),
    ] {
        let incidents = Incidents::default();
        note(&incidents, phase, "Error: the same", &[]);
        let again = note(&incidents, phase, "Error: the same", &[]);
        assert_eq!(again.count, count, "{phase:?}");
    }
}

#[test]
fn a_retry_that_fails_as_well_is_the_same_outage() {
    let incidents = Incidents::default();
    assert_eq!(note(&incidents, Phase::Run, "boom", &[]).count, 1);
    // The one in its place starts well, and falls with the first call.
    incidents.worked("files", None, Some(&facts(&incidents, &[])));
    let again = Incident {
        has_served: false,
        ..incident(&incidents, Phase::Run, "boom", &[])
    };
    let again = incidents.note(again);
    assert_eq!((again.count, again.sentence().as_str()), (1, ""));
    assert_eq!(incidents.patterns()[0].attempts, 2);
    // One that has served and falls is another.
    incidents.worked("files", None, Some(&facts(&incidents, &[])));
    assert_eq!(note(&incidents, Phase::Run, "boom", &[]).count, 2);
}

#[test]
fn a_signal_of_chillgates_own_has_no_remedy() {
    for (by_gate, remedy) in [(false, Some("terminated")), (true, None)] {
        let incidents = Incidents::default();
        let known = incidents.note(Incident {
            status: Some(Status::Signal(15)),
            by_gate,
            ..incident(&incidents, Phase::Run, "", &[])
        });
        let found = known.remedy.as_ref().map(|remedy| remedy.id.as_str());
        assert_eq!(found, remedy);
        assert_eq!(incidents.patterns()[0].ended, "signal 15 (TERM)");
    }
}
