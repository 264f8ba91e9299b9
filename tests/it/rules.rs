//! Which rules of the protocol a test names, as a list that keeps itself true.
//!
//! It stands apart because it reads the tests instead of running anything. A test names a rule by
//! its number in the comment above it; the list says where. `UPDATE=1` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use chillgate_tests::process::root;

/// All Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The rules that the comments right above each test name, with the test.
fn named() -> BTreeMap<String, Vec<String>> {
    let mut named: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let root = root();
    let folders = ["tests/it", "proxy/src", "proxy/wire/src", "policies/src"];
    for path in folders
        .iter()
        .flat_map(|folder| sources(&root.join(folder)))
    {
        let text = std::fs::read_to_string(&path).unwrap();
        let (mut rules, mut is_test) = (Vec::new(), false);
        for line in text.lines().map(str::trim) {
            if let Some(comment) = line.strip_prefix("///") {
                let words =
                    comment.split(|letter: char| !letter.is_alphanumeric() && letter != '-');
                let numbers = words.filter(|word| word.len() == 5 && word.starts_with("R-"));
                rules.extend(numbers.map(str::to_owned));
            } else if line.starts_with("#[") {
                is_test |= line.contains("test]");
            } else {
                let name = line
                    .split("fn ")
                    .nth(1)
                    .and_then(|rest| rest.split('(').next());
                if let (true, Some(name)) = (is_test, name) {
                    let module = path.file_stem().unwrap_or_default().to_string_lossy();
                    for rule in &rules {
                        let tests = named.entry(rule.clone()).or_default();
                        tests.push(format!("`{module}::{name}`"));
                    }
                }
                (rules, is_test) = (Vec::new(), false);
            }
        }
    }
    named
}

#[test]
fn the_list_of_rules_is_what_the_tests_name() {
    let known = std::fs::read_to_string(root().join("tests/rules.txt")).unwrap();
    let mut named = named();
    let mut rows = String::new();
    let (mut all, mut covered) = (0, 0);
    for line in known.lines() {
        let (rule, text) = line.split_once(' ').unwrap();
        let tests = named.remove(rule).unwrap_or_default();
        all += 1;
        covered += usize::from(!tests.is_empty());
        writeln!(rows, "| {rule} | {text} | {} |", tests.join(", ")).unwrap();
    }
    assert!(
        named.is_empty(),
        "tests name rules that rules.txt does not have: {named:?}"
    );
    let page = format!(
        "# Rules of the protocol, and the tests that name them\n\n{covered} of {all} rules are named by a test. A rule \
         without one may hold all the same: other tests can rest on it without naming it, and some belong to \
         parts that are not there yet. Written by `tests/it/rules.rs`; `UPDATE=1` writes it anew.\n\n\
         | rule | what it says | tests |\n|---|---|---|\n{rows}"
    );
    let path = root().join("tests/RULES.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, page).unwrap();
        return;
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(
        written, page,
        "tests/RULES.md is old: run this test with UPDATE=1"
    );
}
