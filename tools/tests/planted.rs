//! The bugs that the simulator is tested with: each stands in one place, and no program that is shipped has them.

mod binary;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The feature that brings them.
const FEATURE: &str = "planted-bugs";
/// Who may have it: the crate that defines it, and the one that uses it.
const MAY_HAVE: &[&str] = &["proto", "chaos"];
/// Programs that are shipped, and a name that each of them knows.
const PROGRAMS: &[(&str, &str)] = &[("dfsd", "root-token"), ("dfs", "token-file")];
/// Where the bugs are defined.
const DEFINITIONS: &str = "proto/src/planted.rs";
/// The crates that a node consists of.
const PRODUCTION: &[&str] = &["proto", "ec", "chunk", "index", "nvme", "net", "shard", "meta", "node", "server"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Each bug's name in the code and on the command line.
fn bugs() -> Vec<(String, String)> {
    let text = std::fs::read_to_string(root().join(DEFINITIONS)).unwrap();
    let definition = |line: &str| -> Option<(String, String)> {
        let (bug, name) = line.trim().strip_suffix("\",")?.split_once(" = \"")?;
        Some((bug.to_owned(), name.to_owned()))
    };
    let bugs: Vec<_> = text.lines().filter_map(definition).collect();
    assert!(bugs.len() >= 20, "the definitions were read: {bugs:?}");
    bugs
}

fn cargo(arguments: &[&str]) -> String {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("cargo metadata has a list here").iter()
}

/// Every way in which a crate of `metadata` has the feature that should not.
fn wrong_features(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = package["name"].as_str().unwrap();
        let features = package["features"].as_object().unwrap();
        for (feature, enables) in features {
            let brings = list(enables).any(|enabled| enabled.as_str().unwrap().ends_with(FEATURE));
            if (feature == FEATURE && !MAY_HAVE.contains(&name)) || (feature != FEATURE && brings) {
                found.push(format!("{name} has it by its feature {feature}"));
            }
        }
        for dependency in list(&package["dependencies"]) {
            if list(&dependency["features"]).any(|enabled| enabled == FEATURE) {
                found.push(format!("{name} asks {} for it", dependency["name"]));
            }
        }
    }
    found
}

#[test]
fn only_the_simulator_may_have_planted_bugs_and_only_if_asked() {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version", "1", "--no-deps"])).unwrap();
    assert_eq!(wrong_features(&metadata), Vec::<String>::new());
    let have = |package: &&Value| package["features"].get(FEATURE).is_some();
    let having: BTreeSet<&str> =
        list(&metadata["packages"]).filter(have).map(|package| package["name"].as_str().unwrap()).collect();
    assert_eq!(having, MAY_HAVE.iter().copied().collect());
}

#[test]
fn a_feature_that_brings_planted_bugs_is_found() {
    let package = |features: Value, asked: &[&str]| {
        let dependencies = serde_json::json!([{ "name": "proto", "features": asked }]);
        serde_json::json!({ "packages": [{ "name": "node", "features": features, "dependencies": dependencies }] })
    };
    let none = serde_json::json!({});
    assert!(wrong_features(&package(none.clone(), &["other"])).is_empty());
    assert_eq!(wrong_features(&package(none, &[FEATURE])).len(), 1);
    assert_eq!(wrong_features(&package(serde_json::json!({ FEATURE: [] }), &[])).len(), 1);
    assert_eq!(wrong_features(&package(serde_json::json!({ "default": ["proto/planted-bugs"] }), &[])).len(), 1);
}

/// As cargo resolves them together, which is what `make` builds.
#[test]
fn a_build_of_the_programs_does_not_enable_planted_bugs() {
    let tree = cargo(&["tree", "-p", "server", "-p", "tools", "-p", "client", "-p", "bench", "-e", "features,normal"]);
    assert!(tree.contains("proto"), "the tree shows our crates");
    assert!(!tree.contains(FEATURE), "{tree}");
}

#[test]
fn no_shipped_program_names_a_planted_bug() {
    for (program, known) in PROGRAMS {
        let bytes = std::fs::read(binary::binary(program)).unwrap();
        let names = names_in(&bytes);
        assert!(names.contains(known), "{program} is searched as it should be");
        for (_, name) in bugs() {
            assert!(!names.contains(&name), "{program} knows of {name}");
        }
    }
}

/// All that looks like `some-names` in a program, in which texts may follow each other without a gap.
fn names_in(program: &[u8]) -> String {
    let runs = program.split(|byte| !(byte.is_ascii_lowercase() || *byte == b'-'));
    let names = runs.filter(|run| run.contains(&b'-')).map(|run| String::from_utf8_lossy(run).into_owned());
    names.collect::<Vec<_>>().join("\n")
}

#[test]
fn each_bug_is_planted_in_one_line_of_production_code() {
    let mut sources = String::new();
    for member in PRODUCTION {
        read_sources(&root().join(member).join("src"), &mut sources);
    }
    for (bug, _) in bugs() {
        let planted = format!("planted::is(Bug::{bug})");
        assert_eq!(sources.matches(&planted).count(), 1, "{planted}");
    }
}

/// Appends all sources below `directory` but the definitions.
fn read_sources(directory: &Path, sources: &mut String) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_sources(&path, sources);
        } else if path != root().join(DEFINITIONS) {
            sources.push_str(&std::fs::read_to_string(&path).unwrap());
        }
    }
}
