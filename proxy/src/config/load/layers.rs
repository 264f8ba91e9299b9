//! The layers of a configuration, one on another: preset, file, environment, flags.
//!
//! What comes out is one tree of values and the [`Source`] that knows where each was written.
//! Whether the values make sense is not asked here.

use std::collections::BTreeMap;
use std::path::Path;

use chillgate_policies::presets;
use figment::Figment;
use figment::Profile;
use figment::Provider as _;
use figment::providers::{Format as _, Toml};
use figment::value::{Dict, Value};

use super::super::hint;
use super::super::report::Report;
use super::super::source::{Document, Setting, Source, Step, line};
use super::Sources;
use super::file::{read_file, syntax};
use super::outside::{PREFIX, flag, read_value, set, variable_path};

/// The deepest path a variable or a flag may name.
const DEEPEST: usize = 8;

/// All layers as one.
#[derive(Default)]
pub(super) struct Layers {
    pub(super) tree: Dict,
    pub(super) policies: Vec<Value>,
    pub(super) source: Source,
    pub(super) report: Report,
}

/// Puts the layers together; `environment` is all variables of the process.
pub(super) fn gather(
    sources: &Sources,
    environment: impl Iterator<Item = (String, Option<String>)>,
) -> Layers {
    let mut layers = Layers::default();
    let settings = layers.settings(sources, environment);
    let file = sources.file.as_deref().and_then(|path| layers.read(path));
    layers.preset(sources, file.as_ref());
    layers.source.documents.extend(file);
    layers.stack();
    layers.apply(settings);
    layers
}

/// A setting from outside the files, and its value.
struct Given {
    path: Vec<String>,
    value: Value,
}

impl Layers {
    fn settings(
        &mut self,
        sources: &Sources,
        environment: impl Iterator<Item = (String, Option<String>)>,
    ) -> Vec<Given> {
        let variables: BTreeMap<_, _> = environment
            .filter(|(name, _)| name.starts_with(PREFIX))
            .collect();
        let mut given = Vec::new();
        for (name, text) in variables {
            let origin = format!("environment variable {name}");
            match (variable_path(&name), text) {
                (Some(path), Some(text)) => self.remember(&mut given, path, text, origin),
                (None, _) => {
                    let help = "write CHILLGATE__LIMITS__MESSAGE for `message` in [limits]";
                    self.plain(&origin, "the variable names no key", help);
                }
                (_, None) => {
                    self.plain(
                        &origin,
                        "the value is not valid UTF-8",
                        "unset the variable",
                    );
                }
            }
        }
        for (key, text) in &sources.set {
            let path: Vec<_> = key.split('.').map(str::to_owned).collect();
            self.remember(&mut given, path, text.clone(), flag(key));
        }
        given
    }

    fn remember(&mut self, to: &mut Vec<Given>, path: Vec<String>, text: String, origin: String) {
        if path.first().is_some_and(|first| first == "policy") {
            let help = "write [[policy]] tables in the file";
            self.plain(&origin, "policies cannot be set from outside a file", help);
            return;
        }
        if path.len() > DEEPEST {
            self.plain(&origin, "no key is that deep", "unset the variable");
            return;
        }
        let steps = path
            .iter()
            .enumerate()
            .map(|(at, part)| match part.parse::<usize>() {
                Ok(index) if at == 1 && path.first().is_some_and(|first| first == "front") => {
                    Step::Index(index)
                }
                _ => Step::from(part),
            });
        let path_steps = steps.collect();
        let value = read_value(&text);
        self.source.settings.push(Setting {
            path: path_steps,
            text,
            origin,
        });
        to.push(Given { path, value });
    }

    fn plain(&mut self, place: &str, message: &str, help: &str) {
        let report = Report::plain(place, message, Some(help.to_owned()));
        self.report = std::mem::take(&mut self.report).and(report);
    }

    /// The file, if it could be read and is TOML.
    fn read(&mut self, path: &Path) -> Option<Document> {
        let name = path.display().to_string();
        let text = match read_file(path) {
            Ok(text) => text,
            Err((message, help)) => {
                self.plain(&name, &message, help);
                return None;
            }
        };
        let text = text
            .strip_prefix('\u{feff}')
            .map(str::to_owned)
            .unwrap_or(text);
        let document = self.parse(name, text)?;
        if document.is_empty() {
            self.plain(
                &document.name,
                "the file sets nothing",
                "write extends = \"chill\" for the built-in server, or [server.NAME] with command or url",
            );
        }
        Some(document)
    }

    fn parse(&mut self, name: String, text: String) -> Option<Document> {
        let (document, error) = Document::parse(name, text);
        let Some(error) = error else {
            return Some(document);
        };
        let (message, help) = syntax(&error.message, &document.text, error.range.start);
        self.report
            .push(line(&document, error.range), &[], message, help);
        None
    }

    /// Finds the preset the configuration extends and puts it first.
    fn preset(&mut self, sources: &Sources, file: Option<&Document>) {
        let path = [Step::from("extends")];
        let set = self
            .source
            .settings
            .iter()
            .rev()
            .find(|setting| setting.path == path);
        let written = file.and_then(|file| file.text_at("extends"));
        let default = sources.preset.filter(|_| sources.file.is_none());
        let wanted = set
            .map(|setting| setting.text.trim_matches('"').to_owned())
            .or(written)
            .or(default.map(str::to_owned));
        let Some(wanted) = wanted else { return };
        if let Some(text) = presets::get(&wanted) {
            let name = format!("preset \"{wanted}\"");
            let document = self.parse(name, text.to_owned());
            self.source.documents.extend(document);
            return;
        }
        let names: Vec<&str> = presets::names().collect();
        let help = match hint::nearest(&wanted, names.iter().copied()) {
            Some(name) => format!("write extends = \"{name}\""),
            None => format!("the presets are {}", hint::list(names.iter().copied())),
        };
        let message = format!("there is no preset `{wanted}`");
        let mut source = self.source.clone();
        source.documents.extend(file.cloned());
        self.report.add(&source, &path, false, message, Some(help));
    }

    /// Lays the documents on one another. Policies are joined, everything else is replaced key by
    /// key.
    pub(super) fn stack(&mut self) {
        let mut figment = Figment::new();
        let texts: Vec<_> = self
            .source
            .documents
            .iter()
            .map(|document| document.text.clone())
            .collect();
        for (index, text) in texts.iter().enumerate() {
            let toml = Toml::string(text);
            let own = toml
                .data()
                .ok()
                .and_then(|mut data| data.remove(&Profile::Default));
            figment = figment.merge(toml);
            match own.and_then(|mut own| own.remove("policy")) {
                None => {}
                Some(Value::Array(_, policies)) => {
                    for (local, policy) in policies.into_iter().enumerate() {
                        self.join(policy, (index, local));
                    }
                }
                Some(_) => {
                    let path = [Step::from("policy")];
                    let help = "write [[policy]] with two brackets on each side".to_owned();
                    let message = "`policy` is a list of tables";
                    self.report
                        .add(&self.source, &path, true, message, Some(help));
                }
            }
        }
        let data = figment
            .data()
            .ok()
            .and_then(|mut data| data.remove(&Profile::Default));
        self.tree = data.unwrap_or_default();
        self.tree.remove("policy");
    }

    /// Adds a policy, in place of the same one of an earlier layer. The same one twice in one file
    /// is a mistake, which compiling the policies finds.
    fn join(&mut self, policy: Value, place: (usize, usize)) {
        let mut earlier = self.policies.iter_mut().zip(&mut self.source.policies);
        let earlier = earlier.find(|(known, (from, _))| *from != place.0 && same(known, &policy));
        if let Some((known, at)) = earlier {
            *known = policy;
            *at = place;
        } else {
            self.policies.push(policy);
            self.source.policies.push(place);
        }
    }

    fn apply(&mut self, settings: Vec<Given>) {
        let mut root = Value::from(std::mem::take(&mut self.tree));
        for (index, given) in settings.into_iter().enumerate() {
            if let Err(message) = set(&mut root, "", &given.path, given.value)
                && let Some(setting) = self.source.settings.get(index)
            {
                let report = Report::plain(&setting.origin, message, None);
                self.report = std::mem::take(&mut self.report).and(report);
            }
        }
        if let Value::Dict(_, tree) = root {
            self.tree = tree;
        }
    }
}

/// Whether two policies of different layers are the same one: by their name, or where neither has
/// one by what their default name is made of.
fn same(a: &Value, b: &Value) -> bool {
    let (Value::Dict(_, a), Value::Dict(_, b)) = (a, b) else {
        return false;
    };
    match (a.get("name"), b.get("name")) {
        (None, None) => ["type", "match", "per"]
            .iter()
            .all(|key| a.get(*key) == b.get(*key)),
        (a, b) => a == b,
    }
}
