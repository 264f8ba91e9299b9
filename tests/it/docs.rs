//! What the README and the other pages tell a reader to do can be done.
//!
//! It stands apart because prose is not compiled: commands, paths and config in it are checked here.

use std::path::{Path, PathBuf};

use chillgate_tests::gate::bare;
use chillgate_tests::process::root;

/// The pages of the repository.
fn pages() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root()];
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir()
                && !["target", "node_modules", ".git", ".tools"].contains(&name.as_str())
            {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    found
}

/// The fenced blocks of a page, each with its language.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            let block: Vec<&str> = lines
                .by_ref()
                .take_while(|line| !line.trim_start().starts_with("```"))
                .collect();
            found.push((language.trim().to_owned(), block.join("\n")));
        }
    }
    found
}

fn readme() -> String {
    std::fs::read_to_string(root().join("README.md")).expect("there is a README")
}

#[test]
fn the_readme_has_a_start_a_picture_and_the_test_command() {
    let text = readme();
    for word in [
        "cargo run",
        "http://127.0.0.1:8800/mcp",
        "tests/run",
        "mcpServers",
    ] {
        assert!(text.contains(word), "{word} is not in the README");
    }
}

#[tokio::test]
async fn every_chillgate_command_in_the_pages_is_one_that_exists() {
    let mut checked = 0;
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for (_, block) in blocks(&text)
            .into_iter()
            .filter(|(language, _)| ["sh", "bash", "console"].contains(&language.as_str()))
        {
            for line in block.lines() {
                let line = line.trim().trim_start_matches("$ ");
                let Some(rest) = line.strip_prefix("chillgate ") else {
                    continue;
                };
                let words: Vec<&str> = rest.split_whitespace().collect();
                let verb = words.first().copied().unwrap_or_default();
                if verb.starts_with('-') {
                    continue;
                }
                let help = bare().args([verb, "--help"]).output().await.unwrap();
                assert!(
                    help.status.success(),
                    "{}: `{line}`: no such verb",
                    page.display()
                );
                let help = String::from_utf8_lossy(&help.stdout).into_owned();
                for flag in words
                    .iter()
                    .take_while(|word| **word != "--")
                    .filter(|word| word.starts_with("--"))
                {
                    let flag = flag.split('=').next().unwrap_or_default();
                    assert!(
                        help.contains(flag),
                        "{}: `{line}`: {verb} has no {flag}",
                        page.display()
                    );
                }
                checked += 1;
            }
        }
    }
    assert!(checked > 0, "no page shows a chillgate command");
}

#[test]
fn every_json_block_is_json_and_every_relative_link_leads_somewhere() {
    for page in pages() {
        let text = std::fs::read_to_string(&page).unwrap();
        for (_, block) in blocks(&text)
            .into_iter()
            .filter(|(language, _)| language == "json")
        {
            let parsed: Result<serde_json::Value, _> = serde_json::from_str(&block);
            assert!(
                parsed.is_ok(),
                "{}: {:?}\n{block}",
                page.display(),
                parsed.err()
            );
        }
        let prose: String = text.split("```").step_by(2).collect();
        for target in links(&prose) {
            let path = target.split('#').next().unwrap_or_default();
            let elsewhere = path.is_empty() || path.contains("://") || path.starts_with("mailto:");
            let folder = page.parent().unwrap_or(Path::new("/"));
            assert!(
                elsewhere || folder.join(path).exists(),
                "{}: {target} leads nowhere",
                page.display()
            );
        }
    }
}

/// The targets of `[text](target)` in a page.
fn links(prose: &str) -> Vec<String> {
    let ends = prose
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split_once(')'));
    ends.map(|(target, _)| target.trim().to_owned())
        .filter(|target| !target.contains(' '))
        .collect()
}
