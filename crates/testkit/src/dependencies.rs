//! Who may depend on whom: checked in every crate's manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Crates of ours and the ones that they may build on directly, without those below these.
const LAYERS: [(&str, &[&str]); 12] = [
    ("unify", &[]),
    ("types", &["unify"]),
    ("state", &["types"]),
    ("testkit", &["types"]),
    ("expr", &["state"]),
    ("storage", &["state"]),
    ("operators", &["expr", "state"]),
    ("planner", &["operators"]),
    ("runtime", &["operators", "storage"]),
    ("connectors", &["runtime"]),
    ("engine", &["planner", "runtime", "connectors"]),
    ("server", &["engine"]),
];

/// Crates of others (by prefix) that only some of ours may use.
const RESTRICTED: [(&str, &[&str]); 6] = [
    ("timely", &["runtime"]),
    ("pgwire", &["server"]),
    ("datafusion", &["expr", "planner", "engine", "testkit"]),
    ("sqlparser", &[]),
    ("object_store", &["storage", "connectors"]),
    // `unify` has no code: it only settles features.
    ("tokio", &["storage", "connectors", "engine", "server", "unify"]),
];

/// The names under `[dependencies]` of a manifest.
fn normal_dependencies(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|l| l.trim() != "[dependencies]").skip(1);
    let lines = lines.take_while(|l| !l.starts_with('['));
    let name = |l: &str| l.split(['=', '.', ' ']).next().map(str::to_owned);
    lines.filter(|l| !l.trim().is_empty() && !l.starts_with('#')).filter_map(name).collect()
}

/// All that a crate of ours may depend on.
fn allowed(of: &str) -> BTreeSet<&'static str> {
    let direct = LAYERS.iter().find(|(name, _)| *name == of).map_or(&[][..], |(_, below)| *below);
    direct.iter().flat_map(|below| allowed(below).into_iter().chain([*below])).collect()
}

#[test]
fn crates_depend_only_on_what_lies_below_them() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the folder of all crates");
    let mut seen = BTreeMap::new();
    for entry in std::fs::read_dir(crates).expect("the folder can be read") {
        let folder = entry.expect("an entry").path();
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).expect("a manifest");
        seen.insert(name, normal_dependencies(&manifest));
    }
    assert_eq!(seen.len(), LAYERS.len(), "every crate has a layer: {:?}", seen.keys());
    for (name, dependencies) in &seen {
        let allowed = allowed(name);
        for dependency in dependencies {
            if let Some(ours) = dependency.strip_prefix("millstream-") {
                assert!(allowed.contains(ours), "{name} must not depend on {ours}");
            }
            for (prefix, users) in RESTRICTED {
                let is_it = dependency == prefix || dependency.starts_with(&format!("{prefix}-"));
                assert!(!is_it || users.contains(&name.as_str()), "{name} must not depend on {dependency}");
            }
        }
    }
}
