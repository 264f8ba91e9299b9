//! Lines against a model that holds the whole stream, and the memory the model does not bound.

use bytes::BufMut;
use proptest::prelude::*;

use super::*;

/// Appends `bytes` the way a reader does: at most `chunk` at once, never beyond the space given.
/// Returns what came out, and the most that was ever held.
fn feed(
    lines: &mut Lines,
    mut bytes: &[u8],
    chunk: usize,
) -> (Vec<Result<Bytes, Oversized>>, usize) {
    let (mut out, mut most) = (Vec::new(), 0);
    while !bytes.is_empty() {
        let space = lines.space();
        let room = space.capacity() - space.len();
        let (now, later) = bytes.split_at(chunk.min(room).min(bytes.len()));
        assert!(!now.is_empty(), "no room to read into");
        space.put_slice(now);
        bytes = later;
        most = most.max(lines.buffer.capacity());
        out.extend(&mut *lines);
        assert!(lines.buffered() <= lines.cap.saturating_add(1));
    }
    (out, most)
}

/// What the stream holds, line by line: the text, or the length of one too long.
fn model(stream: &[u8], cap: usize) -> Vec<Result<Vec<u8>, u64>> {
    let lines = stream
        .split(|b| *b == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let kept = lines.filter(|line| !line.is_empty());
    kept.map(|l| {
        if l.len() > cap {
            Err(l.len() as u64)
        } else {
            Ok(l.to_vec())
        }
    })
    .collect()
}

fn plain(lines: Vec<Result<Bytes, Oversized>>) -> Vec<Result<Vec<u8>, u64>> {
    lines
        .into_iter()
        .map(|l| l.map(|b| b.to_vec()).map_err(|gone| gone.bytes))
        .collect()
}

#[test]
fn lines_share_the_buffer_they_were_read_into() {
    let mut lines = Lines::new(100);
    lines.space().extend_from_slice(b"one\ntwo\n");
    let start = lines.buffer.as_ptr() as usize;
    let [one, two] = [(); 2].map(|()| lines.next().unwrap().unwrap());
    assert_eq!(
        (one.as_ptr() as usize, two.as_ptr() as usize),
        (start, start + 4)
    );
    assert_eq!(lines.next(), None);
}

#[test]
fn a_line_of_a_hundred_megabytes_passes_through_in_little_memory() {
    let cap = 1 << 20;
    let mut lines = Lines::new(cap);
    let (mut most, part) = (0, vec![b'a'; 1 << 20]);
    for _ in 0..100 {
        let (out, held) = feed(&mut lines, &part, 1 << 16);
        assert_eq!(out, []);
        most = most.max(held);
    }
    assert!(most <= cap + 1 + CHUNK, "{most}");
    let (out, _) = feed(&mut lines, b"\n{}\n", 3);
    assert_eq!(plain(out), [Err(100 << 20), Ok(b"{}".to_vec())]);
    assert!(
        lines.buffer.capacity() <= 2 * CHUNK,
        "{}",
        lines.buffer.capacity()
    );
}

#[test]
fn memory_is_given_back_after_a_large_line() {
    let mut lines = Lines::new(4 << 20);
    let mut stream = vec![b'a'; 4 << 20];
    stream.extend_from_slice(b"\nrest");
    let (out, most) = feed(&mut lines, &stream, 1 << 16);
    assert_eq!(out.len(), 1);
    assert!(most <= (4 << 20) + 1 + CHUNK, "{most}");
    assert!(
        lines.buffer.capacity() <= 2 * CHUNK,
        "{}",
        lines.buffer.capacity()
    );
    assert_eq!(lines.finish().unwrap().unwrap(), "rest");
}

#[test]
fn a_stream_without_a_cap_is_read_too() {
    let mut lines = Lines::new(usize::MAX);
    let long = vec![b'x'; 100_000];
    let (out, most) = feed(&mut lines, &[&long[..], b"\n"].concat(), 4096);
    assert_eq!(plain(out), [Ok(long)]);
    assert!(most < 400_000, "{most}");
}

#[test]
fn the_line_break_is_not_counted() {
    let mut lines = Lines::new(4);
    let (out, _) = feed(
        &mut lines,
        b"1234\r\n1234\n12345\r\n12345\n123\r\r\n\r\n",
        1,
    );
    let kept = |text: &[u8]| Ok(text.to_vec());
    assert_eq!(
        plain(out),
        [kept(b"1234"), kept(b"1234"), Err(5), Err(5), kept(b"123\r")]
    );
}

#[test]
fn the_end_of_the_stream_ends_the_line() {
    for (stream, last) in [
        (&b"a\nb"[..], Some(Ok(b"b".to_vec()))),
        (b"a\nb\r", Some(Ok(b"b".to_vec()))),
        (b"a\n", None),
        (b"a\n\r", None),
        (b"", None),
        (b"a\n123456789", Some(Err(9))),
    ] {
        let mut lines = Lines::new(4);
        feed(&mut lines, stream, 2);
        assert_eq!(
            plain(lines.finish().into_iter().collect()),
            Vec::from_iter(last)
        );
        assert_eq!(lines.finish(), None);
    }
}

#[test]
fn a_dropped_line_names_the_call_it_answered() {
    let mut lines = Lines::new(64);
    let long = format!(
        "{{\"jsonrpc\":\"2.0\",\"id\":41,\"result\":{{\"a\":\"{}\"}}}}\n",
        "x".repeat(900)
    );
    let (out, _) = feed(&mut lines, long.as_bytes(), 7);
    assert_eq!(
        out,
        [Err(Oversized {
            bytes: long.len() as u64 - 1,
            id: Some(Id::number(41))
        })]
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn any_stream_in_any_chunks_gives_the_lines_of_the_whole(
        parts in proptest::collection::vec(
            prop_oneof![
                3 => "[a-z{}\"]{0,12}".prop_map(String::into_bytes),
                2 => Just(b"\n".to_vec()),
                1 => Just(b"\r\n".to_vec()),
                1 => (0..40_000_usize).prop_map(|n| vec![b'x'; n]),
            ], 0..30),
        cap in prop_oneof![0..20_usize, 1000..50_000_usize],
        chunk in prop_oneof![1..40_usize, 1000..70_000_usize],
    ) {
        let stream = parts.concat();
        // One byte at a time is covered by short streams; keep the long ones quick.
        let chunk = chunk.max(stream.len() / 2000);
        let mut lines = Lines::new(cap);
        let (mut out, most) = feed(&mut lines, &stream, chunk);
        out.extend(lines.finish());
        prop_assert_eq!(plain(out), model(&stream, cap));
        prop_assert!(most <= cap + 1 + 2 * CHUNK, "{}", most);
    }
}
