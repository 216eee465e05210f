//! Who may know whom: the arrows between the crates, and the outside crates that some of them must do without.
//!
//! Tooling (`xtask`, fuzz targets) and dependencies of tests stand outside this rule.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

/// Each crate of the house, and those of ours that it may depend on.
const ARROWS: [(&str, &[&str]); 5] = [
    ("fanfare", &["fanfare-bench", "fanfare-hub", "fanfare-jobs", "fanfare-proto"]),
    ("fanfare-bench", &["fanfare-proto"]),
    ("fanfare-hub", &["fanfare-proto"]),
    ("fanfare-jobs", &[]),
    ("fanfare-proto", &[]),
];

/// Outside crates that would bring sockets, a clock or randomness where none may be.
const FORBIDDEN: [(&str, &[&str]); 2] =
    [("fanfare-proto", &["tokio", "mio", "rand"]), ("fanfare-hub", &["mio", "hyper", "redis", "rustls"])];

#[test]
fn the_house_has_the_crates_that_the_rule_speaks_of() {
    let ours: Vec<_> = dependencies().into_keys().filter(|name| name.starts_with("fanfare")).collect();
    assert_eq!(ours, ARROWS.map(|(name, _)| name), "a new crate needs a line here and in ARCHITECTURE.md");
}

#[test]
fn crates_depend_only_along_the_arrows() {
    let dependencies = dependencies();
    for (name, allowed) in ARROWS {
        let ours = dependencies[name].iter().filter(|other| dependencies.contains_key(*other));
        let new: Vec<_> = ours.filter(|other| !allowed.contains(&other.as_str())).collect();
        assert!(new.is_empty(), "{name} must not know {new:?}");
    }
}

#[test]
fn pure_crates_stay_pure() {
    let dependencies = dependencies();
    for (name, forbidden) in FORBIDDEN {
        let found: Vec<_> = dependencies[name].iter().filter(|other| forbidden.contains(&other.as_str())).collect();
        assert!(found.is_empty(), "{name} must do without {found:?}");
    }
}

/// What each package of the workspace depends on, tests aside.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let packages = metadata()["packages"].take();
    let packages = packages.as_array().expect("cargo lists packages").iter();
    packages.map(|package| (name(package), dependencies_of(package))).collect()
}

fn dependencies_of(package: &Value) -> Vec<String> {
    let all = package["dependencies"].as_array().expect("cargo lists dependencies");
    all.iter().filter(|dependency| dependency["kind"] != "dev").map(name).collect()
}

fn name(of: &Value) -> String {
    of["name"].as_str().expect("cargo names everything").to_owned()
}

fn metadata() -> Value {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--format-version", "1", "--no-deps", "--offline"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = cargo.output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
}
