//! The never-arrows: what may not know what, checked over the manifests and the source text.
//!
//! It stands apart because a wall that nobody checks is a sentence. Crates are asked through their
//! manifests; modules through the paths they write.

use std::path::{Path, PathBuf};

use chillgate_tests::process::{command, root};
use serde_json::Value;

/// What chillgate is made of.
const PRODUCT: [&str; 5] = [
    "policies/src",
    "proxy/src",
    "proxy/wire/src",
    "proxy/chill/src",
    "proxy/ops/src",
];
const TESTS: [&str; 2] = ["tests/src", "tests/it"];

/// Every `.rs` file below a folder, with its text, tests included.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in
            std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} has no source");
    found
}

/// The code of a file: without comments, and without its test modules.
fn code(text: &str) -> String {
    let body = text.split("#[cfg(test)]").next().unwrap_or_default();
    body.lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n")
}

/// Files below `folder` whose code has one of these words, except those named.
fn offenders(folder: &str, words: &[&str], except: &[&str]) -> Vec<String> {
    let base = root();
    sources(folder)
        .into_iter()
        .filter(|(path, _)| !path.ends_with("tests.rs"))
        .filter_map(|(path, text)| {
            let shown = path
                .strip_prefix(&base)
                .unwrap_or(&path)
                .display()
                .to_string();
            let allowed = except.iter().any(|home| shown.starts_with(home));
            let word = words.iter().find(|word| code(&text).contains(**word))?;
            (!allowed).then(|| format!("{shown}: {word}"))
        })
        .collect()
}

async fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = command(Path::new(&cargo));
    command
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root());
    let output = command.output().await.unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn dependencies(metadata: &Value, package: &str) -> Vec<String> {
    let packages = metadata["packages"].as_array().unwrap();
    let found = packages
        .iter()
        .find(|p| p["name"] == package)
        .unwrap_or_else(|| panic!("no {package}"));
    let normal = found["dependencies"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|d| d["kind"].is_null());
    normal
        .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test]
async fn each_crate_depends_only_on_what_its_wall_allows() {
    let metadata = metadata().await;
    for (package, forbidden) in [
        (
            "chillgate-wire",
            &[
                "tokio",
                "hyper",
                "rmcp",
                "figment",
                "chillgate-policies",
                "chillgate-chill",
                "chillgate",
            ][..],
        ),
        (
            "chillgate-policies",
            &[
                "tokio",
                "hyper",
                "rmcp",
                "figment",
                "redis",
                "prometheus",
                "chillgate-wire",
                "chillgate-chill",
                "chillgate",
            ],
        ),
        (
            "chillgate-chill",
            &[
                "hyper",
                "figment",
                "chillgate-wire",
                "chillgate-ops",
                "chillgate",
            ],
        ),
        (
            "chillgate-ops",
            &[
                "hyper",
                "figment",
                "chillgate-wire",
                "chillgate-policies",
                "chillgate-chill",
                "chillgate",
            ],
        ),
        ("chillgate", &["rmcp", "chillgate-tests", "chillgate-bench"]),
    ] {
        let found = dependencies(&metadata, package);
        let broken: Vec<_> = found
            .iter()
            .filter(|name| forbidden.contains(&name.as_str()))
            .collect();
        assert!(broken.is_empty(), "{package} must not depend on {broken:?}");
    }
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        let on_tests = dependencies(&metadata, name)
            .iter()
            .any(|d| d == "chillgate-tests");
        assert!(!on_tests, "{name} depends on the tests");
    }
}

#[test]
fn front_and_backend_meet_only_in_the_gate() {
    let front = offenders("proxy/src/front", &["crate::backend"], &[]);
    let backend = offenders("proxy/src/backend", &["crate::front"], &[]);
    assert!(
        front.is_empty() && backend.is_empty(),
        "{front:?} {backend:?}"
    );
}

#[test]
fn config_and_telemetry_know_nothing_of_the_machine_they_serve() {
    let inner = [
        "crate::gate",
        "crate::front",
        "crate::backend",
        "crate::session",
        "crate::route",
        "crate::snapshot",
        "crate::app",
    ];
    for folder in ["proxy/src/config", "proxy/src/telemetry"] {
        let broken = offenders(folder, &inner, &[]);
        assert!(broken.is_empty(), "{broken:?}");
    }
}

#[test]
fn each_outside_thing_has_one_home() {
    for (words, homes) in [
        (&["figment::"][..], &["proxy/src/config/load"][..]),
        (&["rmcp::"], &["proxy/chill/", "proxy/ops/"]),
        (
            &["hyper::", "hyper_util::"],
            &[
                "proxy/src/front",
                "proxy/src/backend",
                "proxy/src/health",
                "proxy/src/admin",
                "proxy/src/client.rs",
            ],
        ),
        (&["jsonwebtoken::", "x509_cert::"], &["proxy/src/identity"]),
        (&["redis::"], &["proxy/src/store"]),
        (&["Command::new"], &["proxy/src/supervisor"]),
        (&["prometheus::"], &["proxy/src/telemetry/metrics"]),
    ] {
        for folder in PRODUCT {
            let broken = offenders(folder, words, homes);
            assert!(broken.is_empty(), "{words:?} outside {homes:?}: {broken:?}");
        }
    }
}

#[test]
fn which_system_this_is_is_asked_in_two_rooms() {
    let asking = [
        "cfg(target_",
        "cfg(not(target_",
        "cfg(unix",
        "cfg(windows",
        "cfg_attr(",
    ];
    let rooms = [
        "proxy/src/platform",
        "proxy/src/supervisor",
        // These name another file for the same module, and no more.
        "proxy/src/ops.rs",
        "proxy/src/telemetry/metrics.rs",
    ];
    for folder in PRODUCT {
        let broken = offenders(folder, &asking, &rooms);
        assert!(broken.is_empty(), "{broken:?}");
    }
}

#[test]
fn only_the_application_knows_everybody() {
    let known = ["crate::app"];
    let broken = offenders(
        "proxy/src",
        &known,
        &[
            "proxy/src/app",
            "proxy/src/cli",
            "proxy/src/main.rs",
            "proxy/src/lib.rs",
        ],
    );
    assert!(broken.is_empty(), "{broken:?}");
    let publishing = offenders(
        "proxy/src",
        &[".publish("],
        &["proxy/src/reload", "proxy/src/app", "proxy/src/snapshot"],
    );
    assert!(
        publishing.is_empty(),
        "only a reload writes what is live: {publishing:?}"
    );
}

#[test]
fn no_code_is_unsafe_and_no_module_is_called_mod() {
    for folder in PRODUCT.into_iter().chain(TESTS) {
        let broken = offenders(
            folder,
            &["unsafe {", "unsafe fn", "todo!(", "unimplemented!("],
            &["tests/it/architecture.rs"],
        );
        assert!(broken.is_empty(), "{broken:?}");
        let named_mod: Vec<_> = sources(folder)
            .into_iter()
            .filter(|(path, _)| path.ends_with("mod.rs"))
            .collect();
        assert!(named_mod.is_empty(), "{named_mod:?}");
    }
}

#[test]
fn every_file_opens_with_what_it_is() {
    let mut bare = Vec::new();
    for folder in PRODUCT.into_iter().chain(TESTS) {
        bare.extend(
            sources(folder)
                .into_iter()
                .filter(|(_, text)| !text.starts_with("//!"))
                .map(|(path, _)| path),
        );
    }
    assert!(bare.is_empty(), "without a `//!` head: {bare:?}");
}

#[test]
fn no_identifier_says_upstream_or_downstream() {
    for folder in PRODUCT {
        let broken = offenders(
            folder,
            &["upstream", "downstream", "Upstream", "Downstream"],
            &[],
        );
        assert!(broken.is_empty(), "{broken:?}");
    }
}
