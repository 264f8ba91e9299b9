//! One record as one line: numbered, stamped, and never longer than its bound.
//!
//! Apart from the writer so that its laws can be tested. It opens nothing and
//! leaves the meaning of a record alone.

use std::time::{SystemTime, UNIX_EPOCH};

use chillgate_policies::engine::record::{clipped, json_line};
use serde_json::{Map, Value};

/// The longest line, newline included.
pub(super) const LONGEST: usize = 8 << 10;

/// What `seq`, `ts` and the newline take at most.
const AROUND: usize = 80;

/// The time of a line. Spelling a second out costs more than the rest of it, so it is kept.
#[derive(Default)]
pub(super) struct Stamp {
    second: u64,
    spelled: String,
}

impl Stamp {
    /// Begins a line: `{"seq":…,"ts":"…"`.
    pub(super) fn write(&mut self, lines: &mut Vec<u8>, seq: u64, at: SystemTime) {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.spelled.is_empty() || self.second != since.as_secs() {
            self.second = since.as_secs();
            let second = i64::try_from(self.second).unwrap_or(i64::MAX);
            let spelled = jiff::Timestamp::from_second(second)
                .unwrap_or_default()
                .to_string();
            spelled.trim_end_matches('Z').clone_into(&mut self.spelled);
        }
        lines.extend_from_slice(br#"{"seq":"#);
        lines.extend_from_slice(itoa::Buffer::new().format(seq).as_bytes());
        lines.extend_from_slice(br#","ts":""#);
        lines.extend_from_slice(self.spelled.as_bytes());
        lines.push(b'.');
        // Six digits: the seventh, always 1, keeps the zeros in front.
        let micros = 1_000_000 + since.subsec_micros();
        lines.extend_from_slice(&itoa::Buffer::new().format(micros).as_bytes()[1..]);
        lines.extend_from_slice(br#"Z""#);
    }
}

/// Goes on with what `write` adds and ends the line that begins at `start`.
pub(super) fn finish(lines: &mut Vec<u8>, start: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let body = lines.len();
    write(lines);
    bound(lines, start, body);
}

/// Ends the line. Where it would be too long, the longest members from `body` on are cut: a cut
/// text ends in `…[N bytes]`, a cut object or array is a text in its place, and `truncated` is set.
fn bound(lines: &mut Vec<u8>, start: usize, body: usize) {
    lines.push(b'}');
    if lines.len() - start >= LONGEST {
        if let Some(comma) = lines.get_mut(body) {
            *comma = b'{';
        }
        let text = lines.get(body..).unwrap_or_default();
        let short = shortened(serde_json::from_slice(text).unwrap_or_default());
        lines.truncate(body);
        lines.push(b',');
        lines.extend_from_slice(short.strip_prefix('{').unwrap_or("}").as_bytes());
    }
    lines.push(b'\n');
}

fn shortened(mut members: Map<String, Value>) -> String {
    members.insert("truncated".to_owned(), true.into());
    for keep in [1024, 256, 32] {
        for value in members.values_mut() {
            cut(value, keep);
        }
        if let Ok(line) = json_line(&members)
            && line.len() <= LONGEST - AROUND
        {
            return line;
        }
    }
    // Unless a record had hundreds of members, which none has.
    r#"{"truncated":true}"#.to_owned()
}

fn cut(value: &mut Value, keep: usize) {
    match value {
        Value::String(text) if text.len() > keep => {
            *text = format!("{}…[{} bytes]", clipped(text, keep), text.len());
        }
        Value::Object(_) | Value::Array(_) => {
            let whole = value.to_string();
            if whole.len() > keep {
                *value = format!("{}…[{} bytes]", clipped(&whole, keep), whole.len()).into();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// A line at that time, with the members of `body`.
    fn stamped(seconds: u64, micros: u32, body: &str) -> String {
        let mut lines = Vec::new();
        let at = UNIX_EPOCH + Duration::new(seconds, micros * 1000);
        Stamp::default().write(&mut lines, 7, at);
        let start = lines.len();
        let members = body.trim_start_matches('{').strip_suffix('}');
        lines.push(b',');
        lines.extend_from_slice(members.expect("an object").as_bytes());
        bound(&mut lines, 0, start);
        String::from_utf8(lines).expect("UTF-8")
    }

    #[test]
    fn a_line_carries_its_number_and_its_time() {
        assert_eq!(
            stamped(1_795_243_534, 42, r#"{"v":1}"#),
            "{\"seq\":7,\"ts\":\"2026-11-21T06:45:34.000042Z\",\"v\":1}\n"
        );
    }

    #[test]
    fn a_new_second_is_spelled_anew() {
        let mut stamp = Stamp::default();
        let mut lines = Vec::new();
        for millis in [999, 1000, 1001, 61_000, 999] {
            stamp.write(&mut lines, 1, UNIX_EPOCH + Duration::from_millis(millis));
            lines.push(b'\n');
        }
        let text = String::from_utf8(lines).expect("UTF-8");
        let times: Vec<_> = text.lines().filter_map(|line| line.get(26..41)).collect();
        let expected = [
            "00:00:00.999000",
            "00:00:01.000000",
            "00:00:01.001000",
            "00:01:01.000000",
            "00:00:00.999000",
        ];
        assert_eq!(times, expected);
    }

    #[test]
    fn a_short_record_is_left_alone() {
        let line = stamped(0, 0, r#"{"b":1,"a":"x"}"#);
        assert!(line.ends_with("Z\",\"b\":1,\"a\":\"x\"}\n"), "{line}");
    }

    #[test]
    fn the_longest_line_is_left_alone_and_one_byte_more_is_not() {
        let around = stamped(1, 0, r#"{"a":""}"#).len();
        for (more, cut) in [(0, false), (1, true)] {
            let text = "x".repeat(LONGEST - around + more);
            let line = stamped(1, 0, &format!(r#"{{"a":"{text}"}}"#));
            assert!(line.len() <= LONGEST, "{}", line.len());
            assert_eq!(line.contains("truncated"), cut, "{more}");
        }
    }

    #[test]
    fn a_long_text_is_cut_and_says_so() {
        let text = format!(
            r#"{{"phase":"admit","tool":"{}","args":{{"a":"{}"}}}}"#,
            "치".repeat(4000),
            "x".repeat(9000)
        );
        let line = stamped(1, 0, &text);
        let value: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(value["phase"], "admit");
        assert_eq!(value["truncated"], true);
        assert!(
            value["tool"]
                .as_str()
                .expect("a text")
                .ends_with("…[12000 bytes]"),
            "{line}"
        );
        assert!(
            value["args"]
                .as_str()
                .expect("a text")
                .ends_with("…[9008 bytes]"),
            "{line}"
        );
    }

    proptest! {
        #[test]
        fn no_record_is_too_long_for_its_line(
            members in prop::collection::btree_map("[a-z]{1,12}", (any::<String>(), 0_usize..3000), 1..30)
        ) {
            let members: Map<_, _> = members
                .into_iter()
                .map(|(name, (text, times))| (name, text.repeat(times).into()))
                .collect();
            let text = json_line(&members).expect("serialises");
            let line = stamped(4_102_444_800, 999_999, &text);
            prop_assert!(line.len() <= LONGEST, "{} bytes", line.len());
            prop_assert_eq!(line.matches('\n').count(), 1);
            let value: Map<String, Value> = serde_json::from_str(&line).expect("JSON");
            let around = stamped(4_102_444_800, 999_999, "{}").len() - "{}".len();
            prop_assert_eq!(value.contains_key("truncated"), around + text.len() > LONGEST);
        }
    }
}
