//! Arguments of runbooks, and the words of a command that they stand in.
//!
//! The rules by which a value that a model chose cannot become anything but itself: it fits its
//! pattern from end to end, holds no control character, begins no word anew and is no option.

use std::collections::BTreeMap;
use std::fmt;

use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

/// The longest value of an argument, in bytes.
pub const LONGEST_VALUE: usize = 1024;

/// How large a compiled pattern may be.
const PATTERN: usize = 256 << 10;

/// A mistake and what to write instead.
type Said = (String, String);

/// An argument that a call may give.
#[derive(Clone, Debug)]
pub struct Argument {
    /// What its value must match as a whole, as written.
    pub pattern: String,
    /// What it is, for the model.
    pub description: Option<String>,
    /// Its value where a call gives none. Absent: each call must give it.
    pub default: Option<String>,
    whole: Regex,
}

impl PartialEq for Argument {
    fn eq(&self, other: &Self) -> bool {
        let said = |it: &Self| {
            (
                it.pattern.clone(),
                it.description.clone(),
                it.default.clone(),
            )
        };
        said(self) == said(other)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(super) struct RawArgument {
    pattern: Option<String>,
    description: Option<String>,
    default: Option<String>,
}

impl RawArgument {
    pub(super) fn into_argument(self, name: &str) -> Result<Argument, Said> {
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        if !(1..=64).contains(&name.len()) || !name.chars().all(legal) {
            return Err((
                format!("`{name}` cannot be an argument's name"),
                "use 1 to 64 of the characters a-z, 0-9, `_` and `-`".to_owned(),
            ));
        }
        let Some(pattern) = self.pattern else {
            return Err((
                format!("the argument `{name}` has no `pattern`: anything would be let through"),
                format!("write {name} = {{ pattern = \"(nginx|redis)\\\\.service\" }}"),
            ));
        };
        let whole = whole(&pattern).map_err(|error| {
            (
                format!("the pattern of `{name}` cannot be used: {error}"),
                "write a regular expression such as \"[a-z0-9-]{1,32}\"; classes are of ASCII"
                    .to_owned(),
            )
        })?;
        let argument = Argument {
            pattern,
            description: self.description,
            default: self.default,
            whole,
        };
        if let Some(default) = &argument.default {
            argument.check(default).map_err(|why| {
                (
                    format!("the default of `{name}` {why}"),
                    "write a value that fits, or remove `default`".to_owned(),
                )
            })?;
        }
        Ok(argument)
    }
}

/// The pattern from end to end. It is compiled alone first: one that only makes sense within the
/// brackets around it, such as `a)|(b`, would not be bound by them.
fn whole(pattern: &str) -> Result<Regex, String> {
    let compile = |text: &str| {
        let mut builder = RegexBuilder::new(text);
        // ASCII classes: a digit of another script is not what anybody means by `\d` here.
        builder.unicode(false).size_limit(PATTERN);
        builder.build().map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            error => {
                let text = error.to_string();
                let last = text.lines().last().unwrap_or_default();
                last.trim_start_matches("error: ").to_owned()
            }
        })
    };
    compile(pattern)?;
    compile(&format!(r"\A(?:{pattern})\z"))
}

impl Argument {
    /// Whether a value fits; an error goes on after the argument's name.
    pub fn check(&self, value: &str) -> Result<(), String> {
        if value.len() > LONGEST_VALUE {
            return Err(format!("is longer than {LONGEST_VALUE} bytes"));
        }
        // Whatever the pattern says: a line break in a value is never what an operator meant.
        if value.chars().any(char::is_control) {
            return Err("holds a control character".to_owned());
        }
        if !self.whole.is_match(value.as_bytes()) {
            return Err(format!("does not match `{}` as a whole", self.pattern));
        }
        Ok(())
    }
}

/// A word of a command after the program: plain text, or text around one argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    before: String,
    argument: Option<String>,
    after: String,
}

impl Word {
    /// Finds the placeholder of a declared argument; other braces are plain text.
    pub(super) fn parse(text: &str, arguments: &BTreeMap<String, Argument>) -> Result<Self, Said> {
        let places: Vec<(usize, &String)> = arguments
            .keys()
            .flat_map(|name| {
                let placeholder = format!("{{{name}}}");
                let found: Vec<_> = text.match_indices(&placeholder).map(|(at, _)| at).collect();
                found.into_iter().map(move |at| (at, name))
            })
            .collect();
        match places.as_slice() {
            [] => Ok(Self {
                before: text.to_owned(),
                argument: None,
                after: String::new(),
            }),
            [(at, name)] => {
                let (before, rest) = text.split_at(*at);
                let after = rest.strip_prefix(&format!("{{{name}}}"));
                Ok(Self {
                    before: before.to_owned(),
                    argument: Some((*name).clone()),
                    after: after.unwrap_or_default().to_owned(),
                })
            }
            _ => Err((
                format!("`{text}` has more than one argument in one word"),
                "give each a word of its own in `command`".to_owned(),
            )),
        }
    }

    /// The argument that stands in it.
    pub fn argument(&self) -> Option<&str> {
        self.argument.as_deref()
    }

    /// The word with this value; an error goes on after the argument's name.
    pub fn with(&self, value: &str, argument: &Argument) -> Result<String, String> {
        let begins_it = self.before.is_empty();
        if begins_it && value.starts_with('-') && !argument.pattern.starts_with('-') {
            return Err("begins with `-`, which would make it an option".to_owned());
        }
        Ok(format!("{}{value}{}", self.before, self.after))
    }

    /// The word as it is where no argument stands in it.
    pub fn plain(&self) -> Option<&str> {
        let is_plain = self.argument.is_none();
        is_plain.then_some(&self.before)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.argument {
            None => f.write_str(&self.before),
            Some(name) => write!(f, "{}{{{name}}}{}", self.before, self.after),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(pattern: &str) -> Result<Argument, Said> {
        RawArgument {
            pattern: Some(pattern.to_owned()),
            ..RawArgument::default()
        }
        .into_argument("a")
    }

    #[test]
    fn a_value_fits_from_end_to_end_or_not_at_all() {
        let unit = argument(r"(nginx|redis)\.service").expect("compiles");
        assert_eq!(unit.check("nginx.service"), Ok(()));
        for bad in [
            "",
            "nginx.service\n",
            "nginx.servicex",
            "x nginx.service",
            "nginxxservice",
            "NGINX.service",
        ] {
            assert!(unit.check(bad).is_err(), "{bad:?}");
        }
        let multi = argument("(?m)^a$").expect("compiles");
        assert!(multi.check("a\nb").is_err() && multi.check("a").is_ok());
        let either = argument("a|b").expect("compiles");
        assert!(either.check("ax").is_err() && either.check("xb").is_err());
    }

    #[test]
    fn classes_are_of_ascii_and_control_characters_never_fit() {
        let digits = argument(r"\d+").expect("compiles");
        assert!(digits.check("123").is_ok() && digits.check("١٢٣").is_err());
        let word = argument(r"\w+").expect("compiles");
        assert!(word.check("nginx").is_ok() && word.check("nginх").is_err());
        let any = argument(r"(?s).*").expect("compiles");
        for bad in ["a\nb", "a\0b", "\u{1b}[31m", "a\rb", "\u{85}"] {
            assert!(any.check(bad).is_err(), "{bad:?}");
        }
        assert!(any.check(&"x".repeat(LONGEST_VALUE)).is_ok());
        assert!(any.check(&"x".repeat(LONGEST_VALUE + 1)).is_err());
    }

    #[test]
    fn a_pattern_cannot_escape_the_brackets_around_it() {
        for bad in [
            "a)|(b",
            "(",
            "a)|.*(?:",
            "(?x) a #",
            &"a{1000}".repeat(1000),
        ] {
            assert!(argument(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_value_is_never_an_option_unless_the_pattern_says_so() {
        let free = argument("[a-z-]+").expect("compiles");
        let option = argument("-[a-z]").expect("compiles");
        let all = BTreeMap::from([("a".to_owned(), free.clone())]);
        let own = Word::parse("{a}", &all).expect("parses");
        let inside = Word::parse("--unit={a}", &all).expect("parses");
        assert!(own.with("-rf", &free).is_err());
        assert_eq!(own.with("rf", &free), Ok("rf".to_owned()));
        assert_eq!(own.with("-r", &option), Ok("-r".to_owned()));
        assert_eq!(inside.with("-x", &free), Ok("--unit=-x".to_owned()));
    }

    #[test]
    fn a_word_has_at_most_one_argument_and_keeps_other_braces() {
        let all = BTreeMap::from([
            ("a".to_owned(), argument("x").expect("compiles")),
            ("b".to_owned(), argument("x").expect("compiles")),
        ]);
        assert!(Word::parse("{a}{b}", &all).is_err());
        assert!(Word::parse("{a}-{a}", &all).is_err());
        let plain = Word::parse("{{.Names}} {print}", &all).expect("parses");
        assert_eq!(plain.plain(), Some("{{.Names}} {print}"));
        let word = Word::parse("<{b}>", &all).expect("parses");
        assert_eq!(
            (word.argument(), word.to_string()),
            (Some("b"), "<{b}>".to_owned())
        );
    }
}
