//! The health listener, asked over real sockets.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;

use super::*;

fn ready() -> Readiness {
    let broken = ServerState {
        name: "files".to_owned(),
        state: State::Down,
        error: Some("\"npx\" was not found".to_owned()),
        remedy: None,
        incident: None,
        preflight: Vec::new(),
    };
    let fine = ServerState {
        name: "chill".to_owned(),
        state: State::Up,
        error: None,
        remedy: None,
        incident: None,
        preflight: Vec::new(),
    };
    Readiness {
        ready: true,
        draining: false,
        servers: vec![fine, broken],
        endpoints: Vec::new(),
    }
}

fn sources() -> Sources {
    Sources {
        pulses: vec![Heartbeat::default()],
        started: Box::new(|| true),
        readiness: Box::new(ready),
        metrics: Box::new(|| "chillgate_up 1\n".to_owned()),
    }
}

fn serve(sources: Sources) -> Serving {
    let bound = Health::bind(([127, 0, 0, 1], 0).into()).expect("bound");
    bound.serve(sources).expect("served")
}

fn connect(serving: &Serving) -> TcpStream {
    let stream = TcpStream::connect(serving.address()).expect("connected");
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("set");
    stream
}

fn ask(serving: &Serving, line: &str) -> (u16, String, String) {
    let mut stream = connect(serving);
    write!(stream, "{line} HTTP/1.1\r\nHost: test\r\n\r\n").expect("sent");
    let mut text = String::new();
    stream
        .read_to_string(&mut text)
        .expect("answered and closed");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head
        .get(9..12)
        .and_then(|code| code.parse().ok())
        .expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}

#[test]
fn each_path_answers_for_itself() {
    let serving = serve(sources());
    assert_eq!(ask(&serving, "GET /livez").0, 200);
    assert_eq!(ask(&serving, "GET /startupz").0, 200);
    let (status, head, body) = ask(&serving, "GET /metrics");
    assert_eq!((status, body.as_str()), (200, "chillgate_up 1\n"));
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    let (status, _, body) = ask(&serving, "GET /somewhere?else");
    assert_eq!(status, 404);
    assert!(
        ["/livez", "/readyz", "/startupz", "/metrics"]
            .iter()
            .all(|it| body.contains(it)),
        "{body}"
    );
}

#[test]
fn a_broken_server_is_named_and_does_not_make_the_gate_unready() {
    let serving = serve(sources());
    for path in ["/readyz", "/health", "/readyz?verbose"] {
        let (status, head, body) = ask(&serving, &format!("GET {path}"));
        assert_eq!(status, 200);
        assert!(head.contains("content-type: application/json"), "{head}");
        let value: serde_json::Value = serde_json::from_str(&body).expect("JSON");
        assert_eq!(
            value,
            serde_json::json!({ "ready": true, "draining": false, "servers": [
                { "name": "chill", "state": "up" },
                { "name": "files", "state": "down", "error": "\"npx\" was not found" },
            ]})
        );
    }
}

#[test]
fn readiness_and_start_follow_what_they_are_told() {
    let now = Arc::new(Mutex::new(ready()));
    let told = Arc::clone(&now);
    let mut sources = sources();
    sources.readiness = Box::new(move || told.lock().expect("not poisoned").clone());
    sources.started = Box::new(|| false);
    let serving = serve(sources);
    assert_eq!(ask(&serving, "GET /startupz").0, 503);
    assert_eq!(ask(&serving, "GET /readyz").0, 200);
    now.lock().expect("not poisoned").draining = true;
    assert_eq!(ask(&serving, "GET /readyz").0, 503);
    assert_eq!(ask(&serving, "GET /livez").0, 200, "draining is no illness");
}

#[test]
fn one_silent_data_path_is_enough_to_be_dead() {
    let mut sources = sources();
    sources.pulses.push(Heartbeat::default());
    let now = clock::real();
    assert!(sources.is_alive(now + Duration::from_millis(9900)));
    assert!(!sources.is_alive(now + Duration::from_millis(10_100)));
    let [first, second] = sources.pulses.as_slice() else {
        panic!("there are two")
    };
    first.millis.store(60_000, Ordering::Relaxed);
    assert!(!sources.is_alive(now + Duration::from_secs(61)));
    second.millis.store(60_000, Ordering::Relaxed);
    assert!(sources.is_alive(now + Duration::from_secs(61)));
}

#[test]
fn a_pulse_beats_by_itself_while_its_runtime_turns() {
    let pulse = Heartbeat {
        origin: clock::real().checked_sub(STALE).expect("it is later"),
        millis: Arc::default(),
    };
    assert!(pulse.age(clock::real()) >= STALE);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let beating = tokio::spawn(pulse.clone().keep_beating());
        tokio::task::yield_now().await;
        beating.abort();
    });
    assert!(pulse.age(clock::real()) < STALE);
}

#[test]
fn only_reading_is_allowed() {
    let serving = serve(sources());
    for method in ["POST", "PUT", "DELETE", "OPTIONS"] {
        let (status, head, _) = ask(&serving, &format!("{method} /metrics"));
        assert_eq!(status, 405);
        assert!(head.contains("allow: get, head"), "{head}");
    }
    let (status, head, body) = ask(&serving, "HEAD /livez");
    assert_eq!((status, body.as_str()), (200, ""));
    assert!(head.contains("content-length: 6"), "{head}");
}

#[test]
fn connections_that_say_nothing_do_not_keep_a_probe_out_for_long() {
    let serving = serve(sources());
    let silent: Vec<_> = (0..connections::MOST + 10)
        .map(|_| connect(&serving))
        .collect();
    let asked = clock::real();
    assert_eq!(ask(&serving, "GET /livez").0, 200);
    // Two rounds of timeouts: the first 64, then those before us in the queue.
    assert!(clock::real() - asked < connections::HEAD * 3);
    drop(silent);
}

#[test]
fn a_port_in_use_is_told_when_binding() {
    let first = Health::bind(([127, 0, 0, 1], 0).into()).expect("bound");
    let error = Health::bind(first.address()).expect_err("it is taken");
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn dropping_it_frees_the_port() {
    let serving = serve(sources());
    let address = serving.address();
    assert_eq!(ask(&serving, "GET /livez").0, 200);
    drop(serving);
    let until = clock::real() + Duration::from_secs(10);
    while TcpStream::connect(address).is_ok() {
        assert!(clock::real() < until, "it still listens");
        thread::yield_now();
    }
}
