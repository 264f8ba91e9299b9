//! The log as a collector, a terminal and a host that does not read see it.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tracing::{debug, info};

use super::*;

const SLY: &str = "a\r\nb\u{1b}[31mc\u{9b}d\u{2028}e\u{202e}f";

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Paper {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("not poisoned").clone()).expect("UTF-8")
    }
}

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0
            .lock()
            .expect("not poisoned")
            .extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Paper {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn logged(look: Look, filter: &str, say: impl FnOnce()) -> String {
    let paper = Paper::default();
    tracing::subscriber::with_default(to(look, filter, paper.clone()), say);
    paper.text()
}

#[test]
fn a_json_line_has_its_fields_at_the_top() {
    let text = logged(Look::Json, "info", || {
        info!(server = "files", "Restarting the server.");
    });
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["message"], "Restarting the server.");
    assert_eq!(
        (&value["server"], &value["level"]),
        (&"files".into(), &"INFO".into())
    );
    assert!(
        value["timestamp"]
            .as_str()
            .is_some_and(|at| at.parse::<jiff::Timestamp>().is_ok())
    );
}

#[test]
fn an_event_is_one_line_and_steers_no_terminal() {
    for look in [
        Look::Json,
        Look::Human { colours: false },
        Look::Human { colours: true },
    ] {
        let text = logged(look, "info", || {
            info!(shown = %SLY, debugged = ?SLY, plain = SLY, "Heard {SLY}");
        });
        let body = text.strip_suffix('\n').expect("a line ends");
        let own_colours = look == Look::Human { colours: true };
        let steering = body
            .chars()
            .filter(|c| c.is_control() && !(own_colours && *c == '\u{1b}'));
        assert_eq!(steering.count(), 0, "{look:?}: {body:?}");
        assert!(!body.contains("\u{1b}[31m"), "{look:?}: {body:?}");
        assert!(
            !body.contains(['\u{2028}', '\u{202e}']),
            "{look:?}: {body:?}"
        );
        if look == Look::Json {
            let value: serde_json::Value = serde_json::from_str(body).expect("JSON");
            assert_eq!(value["plain"], SLY);
        }
    }
}

#[test]
fn colours_are_for_terminals_alone() {
    let plain = logged(Look::Human { colours: false }, "info", || info!("Ready."));
    assert!(
        !plain.contains('\u{1b}') && plain.contains("INFO"),
        "{plain:?}"
    );
    let coloured = logged(Look::Human { colours: true }, "info", || info!("Ready."));
    assert!(coloured.contains('\u{1b}'), "{coloured:?}");
}

#[test]
fn the_filter_decides_and_a_misspelled_one_is_told() {
    let speak = || {
        debug!("quiet");
        info!("loud");
    };
    let text = logged(Look::Human { colours: false }, "info", speak);
    assert!(text.contains("loud") && !text.contains("quiet"), "{text}");
    let text = logged(
        Look::Human { colours: false },
        "warn,chillgate=debug",
        speak,
    );
    assert!(text.contains("loud") && text.contains("quiet"), "{text}");
    let error = parse("chillgate=loud")
        .expect_err("there is no such level")
        .to_string();
    assert!(
        error.contains("`chillgate=loud` is no log filter"),
        "{error}"
    );
    assert!(error.contains("write \"info\""), "{error}");
}

#[test]
fn a_line_beyond_its_bound_is_cut() {
    let long = "x".repeat(40_000);
    let text = logged(
        Look::Human { colours: false },
        "info",
        || info!(%long, "Long."),
    );
    assert!(text.len() < 17_000, "{} bytes", text.len());
    assert!(text.ends_with(" bytes]\n"), "{}", &text[text.len() - 30..]);
}

#[test]
fn what_is_logged_is_written_before_the_end() {
    let paper = Paper::default();
    let (sink, guard) = Sink::start(paper.clone(), |_| ()).expect("started");
    for n in 0..1000 {
        writeln!(sink.clone(), "line {n}").expect("taken");
    }
    drop(guard);
    assert_eq!(paper.text().lines().count(), 1000);
}

#[test]
fn a_host_that_does_not_read_stderr_stops_nobody() {
    /// Writes nothing until it is let go.
    struct Stuck(mpsc::Receiver<()>, Paper);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (let_go, held) = mpsc::channel();
    let lost = Arc::new(AtomicU64::new(0));
    let (counted, paper) = (Arc::clone(&lost), Paper::default());
    let (mut sink, guard) = Sink::start(Stuck(held, paper.clone()), move |count| {
        counted.fetch_add(count, Ordering::Relaxed);
    })
    .expect("started");
    let line = [&[b'x'; 999][..], b"\n"].concat();
    for _ in 0..5000 {
        sink.write_all(&line).expect("taken, or counted");
    }
    drop(let_go);
    drop(guard);
    // The end is heard before the count of what was lost with the last lines.
    for _ in 0..1000 {
        if lost.load(Ordering::Relaxed) > 0 {
            break;
        }
        mpsc::channel::<()>()
            .1
            .recv_timeout(Duration::from_millis(5))
            .expect_err("nobody sends");
    }
    let written = paper.text().lines().count() as u64;
    assert_eq!(written + lost.load(Ordering::Relaxed), 5000);
    assert!((1000..=2200).contains(&written), "{written}");
}
