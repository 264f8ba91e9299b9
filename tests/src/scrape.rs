//! `/metrics`, parsed far enough to add up.
//!
//! It stands apart so that tests compare numbers and not text. Whether the text is good Prometheus
//! is promtool's judgement, not this file's.

use std::collections::BTreeMap;

/// One sample.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The metric's name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value.
    pub value: f64,
}

/// All samples of one scrape.
#[derive(Clone, Debug)]
pub struct Scrape(Vec<Sample>);

impl Scrape {
    /// Parses the text format.
    ///
    /// # Panics
    /// When a line is no sample.
    pub fn parse(text: &str) -> Self {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(
            lines
                .map(|line| sample(line).unwrap_or_else(|| panic!("no sample: {line}")))
                .collect(),
        )
    }

    /// The sum over all samples of a metric with these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let fits = |sample: &&Sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        };
        self.0.iter().filter(fits).map(|sample| sample.value).sum()
    }

    /// The same of something that is counted.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum = self.sum(name, labels).round();
        assert!((0.0..1e15).contains(&sum), "{name} is no count: {sum}");
        sum as u64
    }

    /// Whether a metric is there at all.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|sample| sample.name == name)
    }

    /// Every sample.
    pub fn iter(&self) -> impl Iterator<Item = &Sample> {
        self.0.iter()
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = match value {
        "+Inf" => f64::INFINITY,
        "NaN" => f64::NAN,
        number => number.parse().ok()?,
    };
    let Some((name, rest)) = series.split_once('{') else {
        return Some(Sample {
            name: series.to_owned(),
            labels: BTreeMap::new(),
            value,
        });
    };
    let mut labels = BTreeMap::new();
    let mut rest = rest.strip_suffix('}')?;
    while !rest.is_empty() {
        let (key, after) = rest.split_once("=\"")?;
        let end = closing_quote(after)?;
        let text = after[..end]
            .replace("\\\"", "\"")
            .replace("\\n", "\n")
            .replace("\\\\", "\\");
        labels.insert(key.to_owned(), text);
        rest = after[end + 1..].trim_start_matches(',');
    }
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_with_quotes_and_commas_are_read() {
        let scrape = Scrape::parse(
            "# HELP a b\na_total{x=\"1,\\\"2\\\"\",y=\"z\"} 3\na_total{x=\"n\"} 4\nb 0.5\n",
        );
        assert!((scrape.sum("a_total", &[("x", "1,\"2\"")]) - 3.0).abs() < 1e-9);
        assert!((scrape.sum("a_total", &[]) - 7.0).abs() < 1e-9);
        assert!(scrape.has("b"));
    }
}
