//! Mistakes in a configuration, shown like a compiler's: file, line, the line itself, what to
//! write.
//!
//! It only words and draws. Several mistakes are one [`Report`], so that a file is put right in one
//! go. Secrets never reach it: [`super::source`] masks them in the lines it hands over.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal as _, Write as _};

use super::source::{Place, Source, Step};

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it is.
    pub place: Place,
    /// What is wrong: lower-case, one line.
    pub message: String,
    /// Which policy or server it is in, shown after the carets.
    pub label: Option<String>,
    /// What to write instead.
    pub help: Option<String>,
}

/// One mistake or more. Never empty once handed out as an error.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    mistakes: Vec<Mistake>,
}

impl std::error::Error for Report {}

impl Report {
    /// A report of one mistake that has no line, e.g. a file that cannot be read.
    pub fn plain(place: &str, message: impl Into<String>, help: Option<String>) -> Self {
        let place = Place::Named(place.to_owned());
        let message = message.into();
        Self {
            mistakes: vec![Mistake {
                place,
                message,
                label: None,
                help,
            }],
        }
    }

    /// The mistakes, in the order of their lines.
    pub fn mistakes(&self) -> &[Mistake] {
        &self.mistakes
    }

    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.mistakes.is_empty()
    }

    /// The first mistake on one line, for a log: `chillgate.toml:15:9: allow must be …`.
    pub fn headline(&self) -> String {
        let Some(first) = self.mistakes.first() else {
            return "no mistake".to_owned();
        };
        let more = match self.mistakes.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count - 1),
        };
        match &first.place {
            Place::Line {
                file, line, column, ..
            } => {
                format!("{file}:{line}:{column}: {}{more}", clean(&first.message))
            }
            Place::Named(name) => format!("{name}: {}{more}", clean(&first.message)),
        }
    }

    /// One more mistake, at the value (or, with `key`, at the key) of `path`.
    pub(super) fn add(
        &mut self,
        source: &Source,
        path: &[Step],
        key: bool,
        message: impl Into<String>,
        help: Option<String>,
    ) {
        self.push(source.locate(path, key), path, message.into(), help);
    }

    /// One more mistake at a known place.
    pub(super) fn push(
        &mut self,
        place: Place,
        path: &[Step],
        message: String,
        help: Option<String>,
    ) {
        let mistake = Mistake {
            place,
            message,
            label: label(path),
            help,
        };
        if !self.mistakes.contains(&mistake) {
            self.mistakes.push(mistake);
        }
    }

    /// Names the policy a mistake is in, which its place alone does not say.
    pub(super) fn relabel_last(&mut self, label: String) {
        if let Some(last) = self.mistakes.last_mut() {
            last.label = Some(label);
        }
    }

    /// Both reports as one.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.mistakes.extend(other.mistakes);
        self.sort();
        self
    }

    /// In the order of the lines; what has none comes last.
    pub(super) fn sort(&mut self) {
        self.mistakes
            .sort_by(|a, b| order(&a.place).cmp(&order(&b.place)));
    }

    /// The whole text; `colour` for a terminal only.
    pub fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for mistake in &self.mistakes {
            if !text.is_empty() {
                text.push('\n');
            }
            // Writing to a `String` cannot fail.
            let _ = draw(&mut text, mistake, &Paint { colour });
        }
        text
    }

    /// Prints the report on standard error: in colour if that is a terminal and nobody minds.
    pub fn print(&self) {
        let stderr = std::io::stderr();
        let colour = stderr.is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        // Nobody is left to tell if standard error is gone.
        let _ = stderr.lock().write_all(self.render(colour).as_bytes());
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

fn order(place: &Place) -> (bool, &str, usize, usize) {
    match place {
        Place::Line {
            file, line, column, ..
        } => (false, file, *line, *column),
        Place::Named(name) => (true, name, 0, 0),
    }
}

fn label(path: &[Step]) -> Option<String> {
    match path {
        [Step::Key(table), Step::Key(name), _, ..] if table == "server" => {
            Some(format!("in server \"{name}\""))
        }
        [Step::Key(table), Step::Index(index), _, ..] if table == "front" && *index > 0 => {
            Some(format!("in the {} front", ordinal(*index)))
        }
        [Step::Key(table), Step::Index(index), _, ..]
            if table == "runbook" || table == "endpoint" =>
        {
            Some(format!("in the {} {table}", ordinal(*index)))
        }
        _ => None,
    }
}

/// `0` is `1st`.
pub(super) fn ordinal(index: usize) -> String {
    let number = index + 1;
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

struct Paint {
    colour: bool,
}

impl Paint {
    fn wrap(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
    fn error(&self, text: &str) -> String {
        self.wrap("1;31", text)
    }
    fn frame(&self, text: &str) -> String {
        self.wrap("34", text)
    }
    fn bold(&self, text: &str) -> String {
        self.wrap("1", text)
    }
}

fn draw(to: &mut String, mistake: &Mistake, paint: &Paint) -> fmt::Result {
    writeln!(
        to,
        "{}: {}",
        paint.error("error"),
        paint.bold(&clean(&mistake.message))
    )?;
    let width = match &mistake.place {
        Place::Line { line, .. } => line.to_string().len().max(2),
        Place::Named(_) => 2,
    };
    let gutter = " ".repeat(width);
    match &mistake.place {
        Place::Line {
            file,
            line,
            column,
            text,
            length,
        } => {
            let label = mistake.label.as_deref().map(clean).unwrap_or_default();
            let (text, column_shown, length) = window(text, *column, *length);
            let lead: String = text
                .chars()
                .take(column_shown.saturating_sub(1))
                .map(|c| {
                    if c == '\t' {
                        "\t".to_owned()
                    } else {
                        " ".repeat(columns(c))
                    }
                })
                .collect();
            let meant = text
                .chars()
                .skip(column_shown.saturating_sub(1))
                .take(length);
            let carets = "^".repeat(meant.map(columns).sum::<usize>().max(1));
            let at = format!("{}:{line}:{column}", clean(file));
            writeln!(to, "{gutter}{} {at}", paint.frame("┌─"))?;
            writeln!(
                to,
                "{}{} {text}",
                paint.frame(&format!("{line:>width$}")),
                paint.frame("│")
            )?;
            let carets = paint.error(&carets);
            let under = format!("{lead}{carets} {label}");
            writeln!(to, "{gutter}{} {}", paint.frame("│"), under.trim_end())?;
        }
        Place::Named(name) => {
            let label = mistake
                .label
                .as_deref()
                .map(|l| format!(" {l}"))
                .unwrap_or_default();
            writeln!(
                to,
                "{gutter}{} {}{}",
                paint.frame("┌─"),
                clean(name),
                clean(&label)
            )?;
        }
    }
    if let Some(help) = &mistake.help {
        for (row, help) in help.lines().enumerate() {
            let lead = if row == 0 { "= help:" } else { "       " };
            writeln!(to, "{gutter}{} {}", paint.frame(lead), clean(help))?;
        }
    }
    Ok(())
}

/// At most 160 characters of a line, with the meant part inside; the column within that part.
fn window(text: &str, column: usize, length: usize) -> (String, usize, usize) {
    const WIDEST: usize = 160;
    let count = text.chars().count();
    if count <= WIDEST {
        return (text.to_owned(), column, length);
    }
    let skip = column.saturating_sub(40).min(count.saturating_sub(WIDEST));
    let cut: String = text.chars().skip(skip).take(WIDEST).collect();
    (
        cut,
        column - skip,
        length.min(WIDEST.saturating_sub(column - skip - 1)).max(1),
    )
}

/// How many columns a terminal gives a character: two for Hangul, CJK and full-width forms.
fn columns(c: char) -> usize {
    match u32::from(c) {
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// Text of unknown origin without anything a terminal would act on.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '·' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(text: &str, column: usize, length: usize) -> String {
        let file = "a.toml".to_owned();
        let place = Place::Line {
            file,
            line: 7,
            column,
            text: text.to_owned(),
            length,
        };
        let mut report = Report::default();
        report.push(place, &[], "wrong".to_owned(), None);
        report.to_string()
    }

    #[test]
    fn carets_stand_under_wide_characters() {
        let text = drawn("이름 = \"값\"", 6, 3);
        assert!(
            text.ends_with(" 7│ 이름 = \"값\"\n  │        ^^^^\n"),
            "{text}"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_mistake() {
        let text = drawn(&format!("{}x = 1", "y".repeat(5000)), 5005, 1);
        assert!(text.len() < 600 && text.contains("x = 1"), "{text}");
        assert_eq!(window(&"y".repeat(500), 500, 1).1, 160);
    }

    #[test]
    fn colour_is_only_added_when_asked_for() {
        let report = Report::plain("a.toml", "no\u{1b}[31mne", Some("write one".to_owned()));
        assert!(!report.render(false).contains('\u{1b}'));
        assert_eq!(report.render(true).matches('\u{1b}').count(), 8);
    }

    #[test]
    fn ordinals_read_like_english() {
        let said: Vec<_> = [0, 1, 2, 3, 10, 11, 12, 20, 100]
            .into_iter()
            .map(ordinal)
            .collect();
        let known = [
            "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "101st",
        ];
        assert_eq!(said, known);
    }
}
