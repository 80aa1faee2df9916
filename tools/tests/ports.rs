//! The lint that keeps clocks, randomness, threads, files and sockets behind the ports: that it bans all of them, that
//! every crate above the ports is under it, and that only modules of the real world are let off.
//!
//! Clippy itself proves that no banned call is there (`make verify`); this proves what clippy was told.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Crates that are of the real world, or bind the ports to it: under clippy-real-world.toml.
const REAL_WORLD: [&str; 7] = ["bench", "chaos", "client", "fuzz", "net", "nvme", "tools"];
/// Crates above the ports, and those without any: under clippy.toml.
const ABOVE: [&str; 9] = ["chunk", "docs/models", "ec", "index", "meta", "node", "proto", "server", "shard"];
/// Where the banned may be allowed, as a file or the beginning of its name.
const ALLOWED: &[&str] = &[
    "bench/src/",
    "chaos/src/bin/",
    "chaos/src/faultfs/",
    "chaos/src/nemesis/",
    "chaos/tests/",
    "client/src/transport.rs",
    "client/tests/",
    "fuzz/src/main.rs",
    "fuzz/src/targets/client.rs",
    "index/benches/",
    "meta/src/state/measure.rs",
    "net/src/runtime.rs",
    "node/src/offline/mod.rs",
    "nvme/tests/ownership.rs",
    "server/src/bin/dfsd/",
    "server/tests/",
    "tools/src/gc.rs",
];
/// What must be banned, at the least.
const BANNED: &[&str] = &[
    "std::time::Instant::now",
    "std::time::Instant::elapsed",
    "std::time::SystemTime::now",
    "std::time::SystemTime::elapsed",
    "std::thread::sleep",
    "std::thread::spawn",
    "std::thread::scope",
    "std::thread::Builder::spawn",
    "std::thread::Builder::spawn_scoped",
    "std::thread::park",
    "std::thread::park_timeout",
    "std::thread::available_parallelism",
    "monoio::spawn",
    "tokio::spawn",
    "tokio::task::spawn_local",
    "std::hash::RandomState",
    "std::hash::RandomState::new",
    "std::hash::DefaultHasher::new",
    "std::process::id",
    "aws_lc_rs::rand::fill",
    "aws_lc_rs::rand::SystemRandom::new",
    "getrandom::fill",
    "rustix::rand::getrandom",
    "std::env::var",
    "std::env::var_os",
    "std::process::Command::new",
    "std::fs::read",
    "std::fs::write",
    "std::fs::File::open",
    "std::fs::File::create",
    "std::fs::OpenOptions::open",
    "std::net::TcpListener::bind",
    "std::net::TcpStream::connect",
    "std::collections::HashMap",
    "std::collections::HashSet",
    "futures_util::select",
];
/// Words of randomness that no path above the ports may have, whatever brings them in.
const ENTROPY: [&str; 8] =
    ["aws_lc_rs::rand", "SystemRandom", "getrandom", "OsRng", "thread_rng", "fastrand", "RandomState", "/dev/urandom"];
/// Words that the simulator may not have: its crate is of the real world, where processes are killed, but it is not.
const WORLD: [&str; 8] =
    ["Instant::now", "SystemTime::now", "std::thread", "std::fs", "std::net", "std::env", "std::process", "HashMap"];
/// The parts of the simulator's crate that are of the real world.
const CHAOS_REAL_WORLD: [&str; 3] = ["chaos/src/bin/", "chaos/src/faultfs", "chaos/src/nemesis"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The paths that a configuration bans.
fn bans(configuration: &str) -> BTreeSet<&str> {
    let code = configuration.lines().filter(|line| !line.trim_start().starts_with('#'));
    code.filter_map(|line| line.split_once("path = \"")?.1.split('"').next()).collect()
}

/// Every Rust file below `directory`, with its name from the root on.
fn sources(directory: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut left = vec![root().join(directory)];
    while let Some(directory) = left.pop() {
        let Ok(entries) = fs::read_dir(&directory) else { continue };
        for path in entries.map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().display().to_string();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// The lines of a source before its tests that have one of `words` and are no comment.
fn lines_with<'a>(source: &'a str, words: &[&str]) -> Vec<&'a str> {
    let product = source.split("#[cfg(test)]\nmod tests").next().unwrap();
    let code = product.lines().map(str::trim).filter(|line| !line.starts_with("//"));
    code.filter(|line| words.iter().any(|word| line.contains(word))).collect()
}

/// Whether a source lets itself off the lint.
fn is_let_off(source: &str) -> bool {
    source.contains("clippy::disallowed_") || source.contains("clippy::style") || source.contains("clippy::all")
}

#[test]
fn the_lint_bans_clocks_randomness_threads_files_and_sockets() {
    let (strict, real) = (read("clippy.toml"), read("clippy-real-world.toml"));
    let strict = bans(&strict);
    let missing: Vec<&&str> = BANNED.iter().filter(|path| !strict.contains(**path)).collect();
    assert!(missing.is_empty(), "clippy.toml does not ban {missing:?}");
    let real = bans(&real);
    let more: Vec<&&str> = real.difference(&strict).collect();
    assert!(more.is_empty(), "clippy-real-world.toml bans what clippy.toml does not: {more:?}");
    let manifest = read("Cargo.toml");
    for lint in ["disallowed_methods", "disallowed_types", "disallowed_macros"] {
        assert!(manifest.contains(&format!("{lint} = \"deny\"")), "{lint}");
    }
}

#[test]
fn every_crate_is_under_the_configuration_that_it_should_be() {
    let manifest = read("Cargo.toml");
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let members: BTreeSet<&str> =
        members.split(',').map(|member| member.trim().trim_matches('"')).filter(|member| !member.is_empty()).collect();
    let named: BTreeSet<&str> = REAL_WORLD.into_iter().chain(ABOVE).collect();
    assert_eq!(members, named, "a new crate is of the real world or above the ports: say which");
    for name in ABOVE {
        // Clippy takes the first file on the way up.
        for file in ["clippy.toml", ".clippy.toml"] {
            assert!(!root().join(name).join(file).exists(), "{name} has a {file} of its own");
        }
    }
    for name in REAL_WORLD {
        let link = fs::read_link(root().join(name).join("clippy.toml"));
        assert_eq!(link.unwrap(), Path::new("../clippy-real-world.toml"), "{name}");
    }
}

#[test]
fn only_modules_of_the_real_world_are_let_off() {
    let is_allowed = |name: &str| ALLOWED.iter().any(|allowed| name.starts_with(allowed));
    for name in REAL_WORLD.into_iter().chain(ABOVE) {
        for (file, source) in sources(name) {
            let is_this = file == "tools/tests/ports.rs";
            assert!(is_this || !is_let_off(&source) || is_allowed(&file), "{file} lets itself off the lint");
        }
    }
}

#[test]
fn no_randomness_but_that_of_the_port() {
    for name in ABOVE {
        for (file, source) in sources(&format!("{name}/src")) {
            let found = lines_with(&source, &ENTROPY);
            assert!(found.is_empty(), "{file} draws randomness: {found:?}");
        }
    }
}

#[test]
fn the_simulator_is_not_of_the_real_world() {
    for (file, source) in sources("chaos/src") {
        if !CHAOS_REAL_WORLD.iter().any(|of_it| file.starts_with(of_it)) {
            let found = lines_with(&source, &[&ENTROPY[..], &WORLD].concat());
            assert!(found.is_empty(), "{file} is not of the simulated world: {found:?}");
        }
    }
}

#[test]
fn what_is_planted_is_found() {
    let configuration = "# { path = \"a::commented\" },\nx = [\n    { path = \"a::b\", reason = \"c\" },\n]";
    assert_eq!(bans(configuration), BTreeSet::from(["a::b"]));
    for line in ["#[expect(clippy::disallowed_methods)]", "#![allow(clippy::style, dead_code)]"] {
        assert!(is_let_off(line), "{line}");
    }
    let source = "// getrandom\nuse aws_lc_rs::rand;\nfn f() {}\n#[cfg(test)]\nmod tests {\n    use getrandom;\n}\n";
    assert_eq!(lines_with(source, &ENTROPY), ["use aws_lc_rs::rand;"]);
}
