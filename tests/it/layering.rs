//! The arrows between the crates: dependencies point down only.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result};
use hats_tests::worker::workspace;
use serde_json::Value;

/// Who may name whom. A crate that is not listed has to be drawn first.
const ARROWS: [(&str, &[&str]); 11] = [
    ("hats-arena", &["hats-fiber"]),
    ("hats-fiber", &[]),
    ("hats-cluster", &[]),
    ("hats-embedded-redis", &[]),
    ("hats-health", &[]),
    ("hats-script", &["hats-arena", "hats-fiber"]),
    ("hats-scheduler", &["hats-cluster", "hats-script"]),
    ("hats-endpoint", &["hats-cluster", "hats-script"]),
    (
        "hats-core",
        &[
            "hats-cluster",
            "hats-embedded-redis",
            "hats-endpoint",
            "hats-health",
            "hats-scheduler",
            "hats-script",
        ],
    ),
    ("hats-worker", &["hats-core"]),
    ("hats-tests", &["hats-core"]),
];

/// Libraries that stay inside the crates that exist because of them.
const HOMES: [(&str, &[&str]); 10] = [
    ("axum", &["hats-endpoint", "hats-health"]),
    ("corosensei", &["hats-fiber"]),
    ("rquickjs", &["hats-arena", "hats-script"]),
    ("rusqlite", &["hats-script"]),
    ("sqlx", &["hats-script"]),
    // The others in tests only.
    ("encore-miniredis", &["hats-embedded-redis", "hats-endpoint", "hats-script", "hats-scheduler"]),
    ("mlua", &["hats-embedded-redis"]),
    ("clap", &["hats-worker"]),
    ("sysinfo", &["hats-health"]),
    ("tsv_ts", &["hats-core"]),
];

#[test]
fn dependencies_point_down_only() -> Result<()> {
    let crates = crates()?;
    let mut wrong = Vec::new();
    for (name, dependencies) in &crates {
        let Some((_, allowed)) = ARROWS.iter().find(|(drawn, _)| drawn == name) else {
            wrong.push(format!("{name} is not drawn"));
            continue;
        };
        for (dependency, kind) in
            dependencies.iter().filter(|(dependency, _)| crates.contains_key(*dependency))
        {
            if !allowed.contains(&dependency.as_str()) && kind != "dev" {
                wrong.push(format!("{name} may not name {dependency}"));
            }
        }
        for (library, homes) in HOMES {
            if dependencies.contains_key(library) && !homes.contains(&name.as_str()) {
                wrong.push(format!("{name} may not name {library}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    Ok(())
}

#[test]
fn a_development_dependency_points_down_as_well() -> Result<()> {
    // A crate's tests may use what is below it, never what is above.
    let crates = crates()?;
    for (name, dependencies) in &crates {
        for dependency in dependencies.keys().filter(|dependency| crates.contains_key(*dependency)) {
            let above =
                ARROWS.iter().any(|(drawn, allowed)| drawn == dependency && allowed.contains(&name.as_str()));
            assert!(!above, "{name} uses {dependency}, which stands above it");
        }
    }
    Ok(())
}

/// Each crate of the workspace with its dependencies and their kind (`normal` where it has several).
fn crates() -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(workspace())
        .output()?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let packages = metadata["packages"].as_array().context("no packages")?;
    let mut crates = BTreeMap::new();
    for package in packages {
        let name = package["name"].as_str().context("no name")?.to_owned();
        let mut dependencies: BTreeMap<String, String> = BTreeMap::new();
        for dependency in package["dependencies"].as_array().context("no dependencies")? {
            let kind = dependency["kind"].as_str().unwrap_or("normal");
            let entry =
                dependencies.entry(dependency["name"].as_str().context("no name")?.to_owned()).or_default();
            if entry.is_empty() || kind == "normal" {
                kind.clone_into(entry);
            }
        }
        crates.insert(name, dependencies);
    }
    Ok(crates)
}
