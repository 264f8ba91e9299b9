//! `chillgate override`: values of policies replaced for a while in a running chillgate, and back.
//!
//! Orders and shows through the admin API; what may be replaced is decided there.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use chillgate_policies::engine::span::Span;
use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::answer::{Answer, FINE};
use super::{Global, admin};

const PATH: &str = "/api/v1/overrides";

/// `chillgate override`.
#[derive(Args, Clone, Debug)]
pub struct OverrideArgs {
    /// What to do.
    #[command(subcommand)]
    pub verb: OverrideVerb,
}

/// What can be done with overrides.
#[derive(Clone, Debug, Subcommand)]
pub enum OverrideVerb {
    /// Let other values hold for a while.
    Set {
        /// The policy's name as `check` shows it, or server.NAME for ChillMCP.
        #[arg(value_name = "POLICY")]
        policy: String,
        /// A value as the file would have it, such as alertness=95; more than one may be given.
        #[arg(value_name = "KEY=VALUE", required = true, value_parser = assignment)]
        values: Vec<(String, Value)>,
        /// For how long, such as 30m; at most 31d.
        #[arg(long = "for", value_name = "TIME", required = true, value_parser = span)]
        span: Duration,
        /// Why, for the audit log.
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Show those that hold.
    List {
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// End one before its time.
    End {
        /// Its id, as `list` shows it.
        #[arg(value_name = "ID", value_parser = id)]
        id: String,
    },
}

/// Does it and prints what came of it.
pub fn run(args: &OverrideArgs, global: &Global) -> ExitCode {
    admin::run(global, async |admin| match &args.verb {
        OverrideVerb::Set {
            policy,
            values,
            span,
            reason,
            json,
        } => {
            let mut wanted = json!({
                "policy": policy,
                "values": values.iter().cloned().collect::<Map<_, _>>(),
                "for": Span(*span).to_string(),
            });
            if let Some(reason) = reason {
                wanted["reason"] = reason.as_str().into();
            }
            let set = admin.ask(Method::POST, PATH, Some(&wanted)).await?;
            let mut answer = shown(std::slice::from_ref(&set), *json);
            if set["survivesRestart"] == false {
                answer.err.push_str(
                    "A restart forgets it: there is no state folder that can be written.\n",
                );
            }
            Ok(answer)
        }
        OverrideVerb::List { json } => {
            let listed = admin.ask(Method::GET, PATH, None).await?;
            let all = listed["overrides"].as_array().cloned().unwrap_or_default();
            let mut answer = shown(&all, *json);
            if all.is_empty() && !json {
                answer.err.push_str("No override holds.\n");
            }
            Ok(answer)
        }
        OverrideVerb::End { id } => {
            admin
                .ask(Method::DELETE, &format!("{PATH}/{id}"), None)
                .await?;
            Ok(Answer {
                out: String::new(),
                err: format!("{id} is over.\n"),
                code: FINE,
            })
        }
    })
}

fn shown(all: &[Value], json: bool) -> Answer {
    let out = if json {
        format!("{:#}\n", Value::from(all))
    } else {
        all.iter().map(line).collect()
    };
    Answer {
        out,
        err: String::new(),
        code: FINE,
    }
}

fn line(one: &Value) -> String {
    let text = |key: &str| {
        one[key]
            .as_str()
            .unwrap_or_default()
            .escape_debug()
            .to_string()
    };
    let values = one["values"].as_object().into_iter().flatten();
    let values: Vec<String> = values
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    let mut out = format!(
        "{}  {} {} until {}, by {}",
        text("id"),
        text("policy"),
        values.join(" "),
        text("until"),
        text("by")
    );
    // Writing to a `String` cannot fail.
    if one["reason"].is_string() {
        let _ = write!(out, ": {}", text("reason"));
    }
    if one["setAside"].is_string() {
        let _ = write!(out, " (set aside: {})", text("setAside"));
    }
    out.push('\n');
    out
}

/// `KEY=VALUE`: a value of TOML, or a text as it is.
fn assignment(text: &str) -> Result<(String, Value), String> {
    let Some((key, value)) = text.split_once('=') else {
        return Err("KEY=VALUE, such as alertness=95 or allow=10/min".to_owned());
    };
    let (key, value) = (key.trim(), value.trim());
    if key.is_empty() || value.is_empty() {
        return Err("KEY=VALUE, such as alertness=95 or allow=10/min".to_owned());
    }
    let document = format!("x = {value}\n");
    let read = toml_edit::de::from_str::<Value>(&document).ok();
    let read = read.and_then(|mut read| {
        // More than one key would be text that goes on in another line.
        let whole = read.as_object()?.len() == 1;
        whole.then(|| read["x"].take())
    });
    // Dates are tables to the reader, and no policy has any.
    let is_date = |value: &Value| value.get("$__toml_private_datetime").is_some();
    let read = read.filter(|value| !is_date(value));
    Ok((key.to_owned(), read.unwrap_or_else(|| value.into())))
}

/// How long it shall hold.
fn span(text: &str) -> Result<Duration, String> {
    let span: Result<Span, _> = text.parse();
    span.map(|span| span.0).map_err(|error| error.to_string())
}

fn id(text: &str) -> Result<String, String> {
    let is_hex =
        (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let id = is_hex.then(|| text.to_ascii_lowercase());
    id.ok_or_else(|| "an id as `chillgate override list` shows it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_in_the_file_or_taken_as_text() {
        for (text, key, value) in [
            ("alertness=95", "alertness", json!(95)),
            ("allow=10/min", "allow", json!("10/min")),
            ("hold=20s", "hold", json!("20s")),
            ("allow=\"10/min\"", "allow", json!("10/min")),
            ("mode=shadow", "mode", json!("shadow")),
            ("exact=false", "exact", json!(false)),
            (
                "exceed={ wait = \"5s\" }",
                "exceed",
                json!({ "wait": "5s" }),
            ),
            ("deny=[\"a__*\", \"b\"]", "deny", json!(["a__*", "b"])),
            ("deny=a=b", "deny", json!("a=b")),
            ("x=2026-01-01", "x", json!("2026-01-01")),
            ("x=1\ny=2", "x", json!("1\ny=2")),
        ] {
            assert_eq!(assignment(text), Ok((key.to_owned(), value)), "{text}");
        }
        for text in ["alertness", "=5", "alertness=", ""] {
            assert!(assignment(text).is_err(), "{text}");
        }
    }
}
