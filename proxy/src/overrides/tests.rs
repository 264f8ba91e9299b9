//! Overrides begin, replace each other, end, and outlive the process.

use serde_json::json;

use super::*;

/// The clocks, so long after a beginning.
fn at(seconds: u64) -> Moment {
    thread_local! { static BEGAN: Instant = crate::clock::real(); }
    Moment {
        now: BEGAN.with(|began| *began) + Duration::from_secs(seconds),
        wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds),
    }
}

fn new(policy: &str, values: &Value, seconds: u64) -> Override {
    let values = values.as_object().expect("a table").clone();
    Override::new(policy.into(), values, Duration::from_secs(seconds), at(0))
}

fn manual() -> Over {
    Over {
        by: "me".into(),
        reason: "enough".into(),
    }
}

#[test]
fn a_second_value_takes_the_place_of_the_first() {
    let all = Overrides::default();
    let first = new("boss", &json!({ "alertness": 95, "hold": "5s" }), 60);
    all.add(first.clone()).expect("room");
    all.add(new("other", &json!({ "alertness": 1 }), 60))
        .expect("room");
    all.add(new("boss", &json!({ "alertness": 10 }), 60))
        .expect("room");
    assert_eq!(
        Value::from(all.of("boss")),
        json!({ "alertness": 10, "hold": "5s" })
    );
    assert!(
        all.unrecorded().is_empty(),
        "the hold is still the first one's"
    );
    all.add(new("boss", &json!({ "hold": "1s" }), 60))
        .expect("room");
    let over = all.unrecorded();
    assert_eq!(over.len(), 1);
    assert_eq!(over[0].id, first.id);
    assert_eq!(Value::from(all.of("other")), json!({ "alertness": 1 }));
    assert!(all.of("nobody").is_empty());
}

#[test]
fn an_override_ends_when_its_time_is_up_or_when_it_is_told() {
    let all = Overrides::default();
    let (short, long) = (
        new("a", &json!({ "x": 1 }), 10),
        new("b", &json!({ "x": 1 }), 60),
    );
    for one in [&short, &long] {
        all.add(one.clone()).expect("room");
    }
    assert_eq!(all.next(at(4)), Some(Duration::from_secs(6)));
    assert!(!all.expire(at(9)));
    assert!(all.expire(at(10)) && !all.expire(at(11)));
    assert!(all.of("a").is_empty() && !all.of("b").is_empty());
    assert!(
        all.end(&long.id, manual()) && !all.end(&long.id, manual()) && !all.end("none", manual())
    );
    let over: Vec<String> = all
        .unrecorded()
        .into_iter()
        .filter_map(|one| Some(one.over?.by))
        .collect();
    assert_eq!(over, ["chillgate", "me"]);
    all.forget(&short.id);
    assert_eq!(all.unrecorded().len(), 1);
    assert_eq!(all.next(at(12)), None);
}

#[test]
fn a_calendar_that_is_set_moves_no_end_while_the_process_lives() {
    let one = new("a", &json!({ "x": 1 }), 60);
    for jump in [0, 3600, 86_400] {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(900_000 + jump);
        let left = one.left(Moment {
            now: at(20).now,
            wall,
        });
        assert_eq!(left, Duration::from_secs(40));
    }
}

#[test]
fn a_restart_forgets_none_and_makes_none_longer() {
    let folder = tempfile::tempdir().expect("a folder");
    let open = |moment| Overrides::open(Some(folder.path()), "unix:/a", moment);
    let one = Override {
        reason: Some("drill".into()),
        ..new("a", &json!({ "x": 1 }), 60)
    };
    open(at(0)).add(one.clone()).expect("room");
    let kept = open(at(20));
    assert_eq!(kept.running()[0].left(at(20)), Duration::from_secs(40));
    assert_eq!(kept.running()[0].reason, one.reason);
    assert!(kept.are_kept());
    let mut earlier = at(20);
    earlier.wall -= Duration::from_hours(24);
    assert_eq!(
        open(earlier).running()[0].left(at(20)),
        Duration::from_mins(1)
    );
    let late = open(at(61));
    assert!(late.expire(at(61)), "its time was up while nobody ran");
    assert_eq!(
        open(at(61)).unrecorded().len(),
        1,
        "its end is still to be recorded"
    );
    let other = Overrides::open(Some(folder.path()), "unix:/b", at(0));
    assert!(other.running().is_empty(), "another gateway's");
    late.forget(&one.id);
    let files = std::fs::read_dir(folder.path()).expect("listed").count();
    assert_eq!(files, 0, "nothing is kept of nothing");
}

#[test]
fn a_file_that_is_no_book_holds_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = file::place(folder.path(), "x");
    for text in [
        "",
        "nonsense",
        "{\"format\":2,\"overrides\":[]}",
        "{\"format\":1,\"overrides\":[{}]}",
    ] {
        std::fs::write(&place, text).expect("written");
        assert!(file::read(&place).is_err(), "{text}");
        assert!(
            Overrides::open(Some(folder.path()), "x", at(0))
                .running()
                .is_empty()
        );
    }
}

#[test]
fn there_are_only_so_many() {
    let all = Overrides::default();
    for index in 0..MOST {
        all.add(new(&format!("p{index}"), &json!({ "x": 1 }), 60))
            .expect("room");
    }
    assert!(all.add(new("p", &json!({ "x": 1 }), 60)).is_err());
}
