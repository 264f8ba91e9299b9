//! What a stream keeps, for whom and for how long. Its readers over HTTP are in the tests of the
//! whole gate; here are the bounds.

use std::time::Duration;

use chillgate_wire::{Envelope, Limits};

use super::*;

const LONG: Duration = Duration::from_mins(1);

fn note(bytes: usize) -> Envelope {
    let text = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/x","params":{{"x":"{}"}}}}"#,
        "x".repeat(bytes)
    );
    Envelope::parse(Bytes::from(text), &Limits::default()).expect("a notification")
}

/// So many bytes for what has been read, and as many for what has not.
fn room(bytes: usize) -> Memory {
    Memory::new(bytes.saturating_mul(16))
}

fn stream(bytes: usize) -> Arc<Carried> {
    Arc::new(Carried::new(1, Weak::new(), room(bytes)))
}

/// The numbers of the events that a new reader gets at once.
fn numbers(stream: &Arc<Carried>, after: u64) -> Vec<u64> {
    let mut reader = stream.read(after);
    let mut numbers = Vec::new();
    while let Some(Some(frame)) = futures_util::FutureExt::now_or_never(reader.next()) {
        let text = String::from_utf8_lossy(&frame).into_owned();
        let id = text.lines().find_map(|line| line.strip_prefix("id: 1-"));
        numbers.extend(id.and_then(|id| id.parse::<u64>().ok()));
    }
    numbers
}

#[test]
fn of_what_has_been_read_so_much_is_kept_and_each_question_and_the_last_event() {
    let carried = stream(1 << 40);
    for _ in 0..10 {
        carried.add(&note(READ / 4));
    }
    assert_eq!(numbers(&carried, 0), (1..=10).collect::<Vec<_>>());
    // Three are below the bound beside the last, a fourth is not.
    assert_eq!(numbers(&carried, 0), [7, 8, 9, 10]);
    assert_eq!(numbers(&carried, 9), [10]);
    assert_eq!(numbers(&carried, 10), [0u64; 0]);
    assert_eq!(numbers(&carried, u64::MAX), [0u64; 0]);
    let question = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"roots/list","params":{{"x":"{}"}}}}"#,
        "x".repeat(READ * 2)
    );
    let question = Envelope::parse(question.into(), &Limits::default()).expect("a request");
    carried.add(&question);
    carried.add(&note(READ * 4));
    assert_eq!(numbers(&carried, 10), [11, 12]);
    assert_eq!(numbers(&carried, 0), [8, 9, 10, 11, 12]);
    assert_eq!(carried.kept().bytes_unread, 0);
}

#[test]
fn what_has_been_read_takes_no_memory_from_what_has_not() {
    let memory = room(1000);
    let carried = |number| Arc::new(Carried::new(number, Weak::new(), memory.clone()));
    let read: Vec<_> = (2..10).map(carried).collect();
    for read in &read {
        read.add(&note(800));
        read.all_read();
        read.end();
    }
    let unread = carried(1);
    unread.add(&note(800));
    unread.end();
    assert_eq!(numbers(&unread, 0), [1]);
}

#[test]
fn a_host_that_was_sent_away_gets_its_answer_however_large() {
    let carried = stream(100);
    let mut reader = carried.read(0);
    carried.cut(RETRY);
    let next = |reader: &mut Reader| futures_util::FutureExt::now_or_never(reader.next());
    assert!(next(&mut reader).flatten().is_some());
    assert_eq!(next(&mut reader), Some(None));
    drop(reader);
    carried.add(&note(5000));
    carried.end();
    assert_eq!(numbers(&carried, 0), [1]);
}

#[test]
fn without_memory_an_event_is_there_for_who_reads_it_and_for_nobody_after() {
    let carried = stream(1000);
    carried.add(&note(10));
    let mut reader = carried.read(0);
    carried.add(&note(2000));
    carried.end();
    let next = |reader: &mut Reader| futures_util::FutureExt::now_or_never(reader.next());
    assert!(next(&mut reader).flatten().is_some());
    assert_eq!(
        next(&mut reader).flatten().map(|frame| frame.len() > 2000),
        Some(true)
    );
    assert_eq!(next(&mut reader), Some(None));
    drop(reader);
    assert_eq!(numbers(&carried, 0), [1], "there was room for that one");
    let memory = carried.memory.clone();
    drop(carried);
    assert!(memory.unread.hold(1000).is_ok(), "all of it is given back");
    assert!(memory.read.hold(1000).is_ok(), "all of it is given back");

    let carried = stream(1000);
    carried.add(&note(2000));
    carried.add(&note(10));
    carried.end();
    // Nobody reads: what is not paid for is gone, and what comes after it is not.
    assert_eq!(numbers(&carried, 0), [2]);
}

#[tokio::test]
async fn a_stream_that_nobody_reads_takes_no_more_than_it_may() {
    let carried = stream(1 << 40);
    let has_room = || futures_util::FutureExt::now_or_never(carried.until_room()).is_some();
    while has_room() {
        carried.add(&note(100_000));
    }
    assert_eq!(carried.last(), 11);
    let mut reader = carried.read(0);
    for _ in 0..2 {
        reader.next().await.expect("an event");
    }
    assert!(has_room());
}

fn ended(replays: &Replays, count: u64) -> Vec<Arc<Carried>> {
    let streams = (0..count).map(|_| {
        let number = replays.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        let stream = Arc::new(Carried::new(number, Weak::new(), replays.memory.clone()));
        locked(&replays.streams).push_back(stream.clone());
        stream.add(&note(1));
        stream.end();
        stream
    });
    streams.collect()
}

#[test]
fn of_many_streams_that_have_ended_those_go_first_that_were_read() {
    let replays = Replays::new(room(1 << 20));
    let streams = ended(&replays, ENDED as u64 + 2);
    streams[5].all_read();
    streams[9].all_read();
    replays.forget(LONG);
    let left: Vec<u64> = locked(&replays.streams)
        .iter()
        .map(|kept| kept.number)
        .collect();
    assert_eq!(left.len(), ENDED);
    assert!(!left.contains(&6) && !left.contains(&10) && left.contains(&1));
    ended(&replays, 1);
    replays.forget(LONG);
    assert!(matches!(replays.find("1-0"), Found::Nothing), "the oldest");
    assert!(matches!(replays.find("2-0"), Found::Answering(_)));
}

#[test]
fn an_id_leads_to_what_came_after_it_or_nowhere() {
    let replays = Replays::new(room(2000));
    let one = &ended(&replays, 1)[0];
    assert!(matches!(replays.find("1-0"), Found::Answering(_)));
    assert!(matches!(replays.find("1-1"), Found::Over));
    for id in [
        "1-2",
        "2-0",
        "",
        "-",
        "1",
        "x-1",
        "1-x",
        "0-1",
        "1-18446744073709551615",
    ] {
        assert!(matches!(replays.find(id), Found::Nothing), "{id}");
    }
    assert!(matches!(replays.find("0-0"), Found::Own(0)));
    // An answer that there was no memory for is not taken for one that was sent.
    let big = Arc::new(Carried::new(2, Weak::new(), replays.memory.clone()));
    locked(&replays.streams).push_back(big.clone());
    big.add(&note(5000));
    big.end();
    assert!(matches!(replays.find("2-0"), Found::Nothing));
    drop(one.clone());
}

#[tokio::test(start_paused = true)]
async fn what_is_old_goes_and_gives_its_memory_back() {
    let replays = Replays::new(room(1000));
    ended(&replays, 1);
    replays.own().add(&note(500));
    replays.own().all_read();
    assert!(replays.memory.unread.hold(990).is_err());
    assert!(replays.memory.read.hold(600).is_err());
    tokio::time::advance(LONG).await;
    replays.forget(LONG);
    assert!(locked(&replays.streams).is_empty());
    assert!(replays.own().after(0).is_empty());
    assert_eq!(replays.own().last(), 1, "its numbers go on");
    assert!(replays.memory.unread.hold(1000).is_ok());
    assert!(replays.memory.read.hold(1000).is_ok());
}
