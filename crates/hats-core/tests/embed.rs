//! `examples/embed.rs` does what it says.

#![cfg(feature = "embedded-redis")]
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::path::Path;
use std::process::Command;

#[test]
fn an_embedded_worker_runs_and_ends_by_itself() {
    // .../<target>/<profile>/deps/<test>
    let own = std::env::current_exe().unwrap();
    let profile = own.ancestors().nth(2).unwrap();
    build(profile);
    let output = Command::new(profile.join("examples/embed")).env_remove("RUST_LOG").output().unwrap();

    let text = String::from_utf8_lossy(&output.stdout);
    let whole = format!("{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{whole}");
    for expect in ["hello from inside, greeting 1", "hello from inside, greeting 3", "goodbye"] {
        assert!(text.contains(expect), "no {expect:?} in\n{whole}");
    }
    assert!(!text.contains("greeting 4"), "{whole}");
    assert!(text.trim_end().ends_with("the script has ended its worker"), "{whole}");
}

fn build(profile: &Path) {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--package", "hats-core", "--features", "embedded-redis"]);
    command.args(["--example", "embed", "--target-dir"]).arg(profile.parent().unwrap());
    if profile.file_name() == Some("release".as_ref()) {
        command.arg("--release");
    }
    // What cargo tells this test about its own package would make it build other crates anew.
    let told = std::env::vars_os().filter(|(name, _)| {
        let name = name.to_string_lossy();
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_"].iter().any(|start| name.starts_with(start))
    });
    for (name, _) in told {
        command.env_remove(name);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap();
    assert!(command.current_dir(root).status().unwrap().success());
}
