//! What a server sees of chillgate's own environment: a short list, and what its table names.
//!
//! Everything else stays behind, above all secrets meant for chillgate or for another server. This
//! file reads the environment; it never changes it.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};

use crate::config::secret::SecretText;
use crate::platform::{ENVIRONMENT, same_variable};

/// Names handed on without asking, besides those that the system needs ([`ENVIRONMENT`]).
const BASIC: [&str; 9] = [
    "PATH",
    "HOME",
    "LANG",
    "TZ",
    "TMPDIR",
    "USER",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
];

/// The complete environment of a server, sorted by name: the basic variables and `LC_*`, those
/// named by `inherit` as far as they are set, and `set`, which wins. Values that are not UTF-8 are
/// left out.
///
/// # Errors
/// In words, when a name cannot be a variable or a value of `set` cannot be had.
pub fn of(
    inherit: &[String],
    set: &BTreeMap<String, SecretText>,
) -> Result<Vec<(String, String)>, String> {
    let own = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    compose(own, inherit, set)
}

/// The same without what cannot be had: for whoever looks at a server that this keeps from starting.
pub fn without_missing(
    inherit: &[String],
    set: &BTreeMap<String, SecretText>,
) -> Vec<(String, String)> {
    let there = set.iter().filter(|(name, text)| value(name, text).is_ok());
    let there = there.map(|(name, text)| (name.clone(), text.clone()));
    of(inherit, &there.collect()).unwrap_or_default()
}

/// The value of a variable that is set.
fn value(name: &str, text: &SecretText) -> Result<SecretString, String> {
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err(format!(
            "{name:?} in `env` cannot be the name of a variable"
        ));
    }
    let value = text.resolve().map_err(|error| {
        let cause = std::error::Error::source(&error).map(|it| format!(": {it}"));
        format!("`env` {name}: {error}{}", cause.unwrap_or_default())
    })?;
    if value.expose_secret().contains('\0') {
        return Err(format!("`env` {name}: the value has a NUL byte in it"));
    }
    Ok(value)
}

fn compose(
    own: impl Iterator<Item = (String, String)>,
    inherit: &[String],
    set: &BTreeMap<String, SecretText>,
) -> Result<Vec<(String, String)>, String> {
    let is_wanted = |name: &str| {
        let mut known = BASIC.iter().chain(ENVIRONMENT);
        known.any(|it| same_variable(it, name))
            || name.starts_with("LC_")
            || inherit.iter().any(|it| same_variable(it, name))
    };
    let mut env: BTreeMap<String, String> = own.filter(|(name, _)| is_wanted(name)).collect();
    for (name, text) in set {
        let value = value(name, text)?;
        // What is set wins, also over another spelling where that is the same variable.
        env.retain(|own, _| !same_variable(own, name));
        env.insert(name.clone(), value.expose_secret().to_owned());
    }
    Ok(env.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own() -> impl Iterator<Item = (String, String)> {
        [
            ("PATH", "/bin"),
            ("LC_ALL", "C.UTF-8"),
            ("AWS_SECRET_ACCESS_KEY", "planted"),
            ("CHILLGATE__IDENTITY__STATIC", "planted"),
            ("LD_PRELOAD", "planted"),
            ("NODE_OPTIONS", "planted"),
            ("HTTPS_PROXY", "http://proxy:3128"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
    }

    fn names(env: &[(String, String)]) -> Vec<&str> {
        env.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn only_the_short_list_is_handed_on() {
        let env = compose(own(), &[], &BTreeMap::new()).expect("composes");
        assert_eq!(names(&env), ["LC_ALL", "PATH"]);
    }

    #[test]
    fn what_the_table_names_is_added_and_wins() {
        let set = BTreeMap::from([("PATH".to_owned(), SecretText::from("/opt/bin"))]);
        let inherit = ["HTTPS_PROXY".to_owned(), "NOT_SET".to_owned()];
        let env = compose(own(), &inherit, &set).expect("composes");
        assert_eq!(names(&env), ["HTTPS_PROXY", "LC_ALL", "PATH"]);
        assert_eq!(env[2].1, "/opt/bin");
    }

    #[test]
    fn a_value_that_cannot_be_had_names_its_variable() {
        let set = BTreeMap::from([("TOKEN".to_owned(), SecretText::from("file:/nowhere/token"))]);
        let error = compose(own(), &[], &set).expect_err("there is no such file");
        assert!(
            error.contains("TOKEN") && error.contains("/nowhere/token"),
            "{error}"
        );
        let set = BTreeMap::from([("A=B".to_owned(), SecretText::from("x"))]);
        assert!(compose(own(), &[], &set).is_err_and(|error| error.contains("A=B")));
    }
}
