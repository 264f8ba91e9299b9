//! Variables and flags: which key each names, and what its text means.
//!
//! Pure: the caller reads the environment. Whether the key exists is found out with all others.

use figment::value::{Dict, Empty, Value};

/// What a variable of chillgate's begins with. Kubernetes makes `CHILLGATE_PORT` and the like for a
/// service of this name: hence two underscores.
pub(super) const PREFIX: &str = "CHILLGATE__";

/// `CHILLGATE__A__B_C` is `a.b-c`. Names of a child's own variables keep their spelling.
pub(super) fn variable_path(name: &str) -> Option<Vec<String>> {
    let parts: Vec<&str> = name.strip_prefix(PREFIX)?.split("__").collect();
    let plain = |part: &&str| part.to_ascii_lowercase().replace('_', "-");
    let mut path: Vec<String> = parts.iter().map(plain).collect();
    if let [server, _, env, _, ..] = path.as_slice()
        && server == "server"
        && env == "env"
    {
        let variable = parts.get(3..)?.join("__");
        path.truncate(3);
        path.push(variable);
    }
    if path.iter().any(String::is_empty) {
        None
    } else {
        Some(path)
    }
}

pub(super) fn flag(key: &str) -> String {
    match key {
        "front.0.listen" => "flag --listen".to_owned(),
        "health.listen" => "flag --health".to_owned(),
        "log.format" => "flag --log-format".to_owned(),
        "log.filter" => "flag --log".to_owned(),
        _ => "the command line".to_owned(),
    }
}

/// A text from outside is a TOML value if it can be read as one, else itself.
pub(super) fn read_value(text: &str) -> Value {
    match text.trim().parse::<toml_edit::Value>() {
        Ok(value) => value_of(&value, text),
        Err(_) => Value::from(text),
    }
}

fn value_of(value: &toml_edit::Value, text: &str) -> Value {
    match value {
        toml_edit::Value::String(value) => Value::from(value.value().as_str()),
        toml_edit::Value::Integer(value) => Value::from(*value.value()),
        toml_edit::Value::Float(value) => Value::from(*value.value()),
        toml_edit::Value::Boolean(value) => Value::from(*value.value()),
        toml_edit::Value::Datetime(_) => Value::from(text),
        toml_edit::Value::Array(values) => values
            .iter()
            .map(|value| value_of(value, text))
            .collect::<Vec<_>>()
            .into(),
        toml_edit::Value::InlineTable(table) => {
            let pairs = table
                .iter()
                .map(|(key, value)| (key.to_owned(), value_of(value, text)));
            Value::from(pairs.collect::<Dict>())
        }
    }
}

/// Puts a value into the tree, making what is missing on the way. The caller bounds how deep.
pub(super) fn set(
    at: &mut Value,
    inside: &str,
    path: &[String],
    value: Value,
) -> Result<(), String> {
    let Some((head, rest)) = path.split_first() else {
        *at = value;
        return Ok(());
    };
    if inside == "front" && matches!(at, Value::Empty(..)) {
        *at = Value::from(Vec::<Value>::new());
    }
    match at {
        Value::Array(_, items) => {
            let index = head
                .parse::<usize>()
                .ok()
                .filter(|index| *index <= items.len());
            let Some(index) = index else {
                let count = items.len();
                return Err(format!(
                    "`{inside}` has {count} elements, counted from 0: there is no `{head}`"
                ));
            };
            if index == items.len() {
                items.push(Value::from(Dict::new()));
            }
            items
                .get_mut(index)
                .map_or(Ok(()), |item| set(item, head, rest, value))
        }
        Value::Dict(_, table) => {
            let empty = || Value::from(Empty::None);
            set(
                table.entry(head.clone()).or_insert_with(empty),
                head,
                rest,
                value,
            )
        }
        other => {
            *other = Value::from(Dict::new());
            set(other, inside, path, value)
        }
    }
}
