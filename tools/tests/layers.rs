//! The architecture, enforced: who may import whom, who may touch a runtime, and which licences we take.
//!
//! The rules are those of DESIGN.md ("Crates and who may import whom", decision 7). They hold for normal, build and
//! development dependencies alike, because a test that reaches across layers pins what it reaches.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// Our crates, and which of ours each may import.
const EDGES: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("ec", &[]),
    ("chunk", &["proto"]),
    ("index", &["proto"]),
    ("net", &["proto"]),
    ("nvme", &["proto"]),
    ("client", &["proto", "chunk"]),
    ("shard", &["proto", "chunk", "ec", "index", "nvme", "net"]),
    ("meta", &["proto", "nvme", "net"]),
    ("node", &["proto", "chunk", "ec", "index", "nvme", "net", "shard", "meta"]),
    ("server", &["proto", "chunk", "ec", "index", "nvme", "net", "shard", "meta", "node"]),
    ("gateway", &["proto", "client"]),
    ("tools", &["proto", "client", "node"]),
    ("bench", &["proto", "chunk", "ec", "index", "nvme", "net", "shard", "meta", "node", "client"]),
    ("chaos", &["proto", "chunk", "ec", "index", "nvme", "net", "shard", "meta", "node", "client"]),
    // No part of what is shipped: the protocols, written down once more, without the code that follows them.
    ("models", &[]),
    // No part of what is shipped: it hands bytes to the decoders of all the others, over the simulator's disks.
    ("fuzz", &["proto", "chunk", "ec", "index", "nvme", "net", "shard", "meta", "node", "client", "server", "chaos"]),
];

/// What drives sockets, disks or tasks; their siblings (`tokio-util`, `monoio-compat`, …) count as the same.
const RUNTIMES: &[&str] = &["monoio", "io-uring", "hyper", "tonic", "tokio", "rustls"];
/// Who may depend on those directly.
const RUNTIME_CRATES: &[&str] = &["nvme", "net", "server", "bench", "tools", "client", "gateway", "fuzz"];

/// Licences that let us ship under Apache-2.0.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "OpenSSL",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Every rule that the packages of `metadata` (the output of `cargo metadata`) break.
fn violations(metadata: &Value) -> Vec<String> {
    let members: BTreeSet<&str> = list(&metadata["workspace_members"]).filter_map(Value::as_str).collect();
    let mut found = Vec::new();
    for package in list(&metadata["packages"]) {
        let name = text(&package["name"]);
        let licence = package["license"].as_str();
        if !licence.is_some_and(is_allowed) {
            found.push(format!("{name}: licence {} is not allowed", licence.unwrap_or("(none)")));
        }
        if members.contains(text(&package["id"])) {
            if licence != Some("Apache-2.0") {
                found.push(format!("{name} is ours and must be Apache-2.0"));
            }
            found.extend(edge_violations(name, package));
        }
    }
    found
}

fn edge_violations(name: &str, package: &Value) -> Vec<String> {
    let Some((_, allowed)) = EDGES.iter().find(|(ours, _)| *ours == name) else {
        return vec![format!("{name} has no place in the layers: give it one in this test and in the design")];
    };
    let mut found = Vec::new();
    for dependency in list(&package["dependencies"]) {
        let (target, kind) = (text(&dependency["name"]), dependency["kind"].as_str().unwrap_or("normal"));
        let is_ours = EDGES.iter().any(|(ours, _)| *ours == target) && dependency["path"].is_string();
        if is_ours && !allowed.contains(&target) {
            found.push(format!("{name} must not import {target} ({kind} dependency)"));
        }
        let is_runtime = RUNTIMES.iter().any(|runtime| {
            target.strip_prefix(runtime).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
        });
        if is_runtime && !RUNTIME_CRATES.contains(&name) {
            found.push(format!("{name} must not depend on {target} ({kind} dependency): it lies above the ports"));
        }
    }
    found
}

/// Whether `manifest` takes the lints of the workspace.
fn inherits_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.any(|line| line == "[lints]") && lines.next().is_some_and(|line| line.replace(' ', "") == "workspace=true")
}

/// Whether an SPDX expression can be satisfied with the licences we allow. What cannot be read is not allowed.
fn is_allowed(expression: &str) -> bool {
    // Before SPDX, cargo wrote "MIT/Apache-2.0" for a choice.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = &tokens[..];
    matches!(choice(&mut rest), Some(true)) && rest.is_empty()
}

/// `and-expression {OR and-expression}`
fn choice(tokens: &mut &[&str]) -> Option<bool> {
    let mut allowed = combination(tokens)?;
    while take(tokens, "OR") {
        allowed |= combination(tokens)?;
    }
    Some(allowed)
}

/// `licence {AND licence}`: binds tighter than OR.
fn combination(tokens: &mut &[&str]) -> Option<bool> {
    let mut allowed = licence(tokens)?;
    while take(tokens, "AND") {
        allowed &= licence(tokens)?;
    }
    Some(allowed)
}

/// `( expression )`, or `id`, or `id WITH exception`
fn licence(tokens: &mut &[&str]) -> Option<bool> {
    if take(tokens, "(") {
        let allowed = choice(tokens)?;
        return take(tokens, ")").then_some(allowed);
    }
    let id = next(tokens)?;
    if ["AND", "OR", "WITH", ")"].contains(&id) {
        return None;
    }
    if take(tokens, "WITH") {
        let exception = next(tokens)?;
        return Some(LICENCES.contains(&format!("{id} WITH {exception}").as_str()));
    }
    Some(LICENCES.contains(&id))
}

fn take(tokens: &mut &[&str], expected: &str) -> bool {
    let is_next = tokens.first() == Some(&expected);
    if is_next {
        *tokens = &tokens[1..];
    }
    is_next
}

fn next<'a>(tokens: &mut &[&'a str]) -> Option<&'a str> {
    let (first, rest) = tokens.split_first()?;
    *tokens = rest;
    Some(first)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("cargo metadata has a list here").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("cargo metadata has a string here")
}

/// The real workspace.
fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--all-features"])
        .current_dir(root)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn the_workspace_keeps_its_layers_and_licences() {
    let metadata = metadata();
    let found = violations(&metadata);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    let members: BTreeSet<&str> = list(&metadata["workspace_members"]).map(text).collect();
    let ours: Vec<&Value> =
        list(&metadata["packages"]).filter(|package| members.contains(text(&package["id"]))).collect();
    assert!(ours.len() >= 14, "only {} crates of ours were seen", ours.len());
    for package in ours {
        let manifest = std::fs::read_to_string(text(&package["manifest_path"])).unwrap();
        assert!(inherits_lints(&manifest), "{} must have [lints] workspace = true", package["name"]);
    }
}

/// A workspace of one crate of ours with one dependency, and one foreign package.
fn planted(name: &str, licence: &str, dependency: &Value, foreign_licence: &Value) -> Vec<String> {
    violations(&json!({
        "workspace_members": ["ours"],
        "packages": [
            { "id": "ours", "name": name, "license": licence, "dependencies": [dependency] },
            { "id": "foreign", "name": "foreign", "license": foreign_licence, "dependencies": [{ "name": "tokio" }] },
        ],
    }))
}

#[test]
fn a_clean_workspace_passes() {
    let dependency = json!({ "name": "proto", "kind": null, "path": "/proto" });
    assert_eq!(planted("index", "Apache-2.0", &dependency, &json!("MIT")), Vec::<String>::new());
}

#[test]
fn a_planted_edge_is_found_whatever_its_kind() {
    for kind in [json!(null), json!("dev"), json!("build")] {
        let dependency = json!({ "name": "meta", "kind": kind, "path": "/meta" });
        let found = planted("shard", "Apache-2.0", &dependency, &json!("MIT"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("shard must not import meta"), "{found:?}");
    }
    // A foreign crate that happens to have the name of one of ours is not an edge.
    let dependency = json!({ "name": "meta", "kind": null, "path": null });
    assert!(planted("shard", "Apache-2.0", &dependency, &json!("MIT")).is_empty());
}

#[test]
fn a_crate_without_a_layer_is_found() {
    let dependency = json!({ "name": "proto", "kind": null, "path": "/proto" });
    assert_eq!(planted("misc", "Apache-2.0", &dependency, &json!("MIT")).len(), 1);
}

#[test]
fn a_planted_runtime_is_found() {
    for name in
        ["tokio", "tokio-util", "monoio", "monoio-compat", "io-uring", "hyper-util", "rustls-pki-types", "tonic"]
    {
        let dependency = json!({ "name": name, "kind": "dev", "path": null });
        assert_eq!(planted("node", "Apache-2.0", &dependency, &json!("MIT")).len(), 1, "{name}");
        assert!(planted("server", "Apache-2.0", &dependency, &json!("MIT")).is_empty(), "{name}");
    }
    let dependency = json!({ "name": "hyperloglog", "kind": null, "path": null });
    assert!(planted("node", "Apache-2.0", &dependency, &json!("MIT")).is_empty());
}

#[test]
fn a_planted_licence_is_found() {
    let dependency = json!({ "name": "proto", "kind": null, "path": "/proto" });
    for licence in [json!("GPL-3.0-only"), json!("MPL-2.0"), json!("MIT AND AGPL-3.0-only"), json!(null)] {
        assert_eq!(planted("index", "Apache-2.0", &dependency, &licence).len(), 1, "{licence}");
    }
    assert_eq!(planted("index", "MIT", &dependency, &json!("MIT")).len(), 1);
}

#[test]
fn licence_expressions_are_read_as_spdx_says() {
    for allowed in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-2.0-only OR MIT",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0-only",
        "MIT OR GPL-2.0-only AND GPL-3.0-only",
    ] {
        assert!(is_allowed(allowed), "{allowed}");
    }
    for refused in [
        "",
        "GPL-3.0-only",
        "MIT AND GPL-3.0-only",
        "(MIT OR GPL-2.0-only) AND GPL-3.0-only",
        "Apache-2.0 WITH Unknown-exception",
        "MIT OR",
        "(MIT",
        "MIT)",
        "MIT Apache-2.0",
        "OR MIT",
    ] {
        assert!(!is_allowed(refused), "{refused}");
    }
}

#[test]
fn missing_lints_are_noticed() {
    assert!(inherits_lints("[package]\nname = \"x\"\n\n[lints]\nworkspace = true\n"));
    assert!(!inherits_lints("[package]\nname = \"x\"\n"));
    assert!(!inherits_lints("[lints]\nrust.unsafe_code = \"allow\"\n"));
}
