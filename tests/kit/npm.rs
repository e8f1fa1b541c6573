//! Packages of npm that tests need: fetched once, kept below the target folder.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The folder of a package in one version, fetched if it is not there yet.
///
/// # Errors
/// When there is no npm, or it cannot fetch the package.
pub fn package(name: &str, version: &str) -> Result<PathBuf> {
    // .../<target>/<profile>/deps/<test>
    let own = env::current_exe()?;
    let target = own.ancestors().nth(3).context("a test outside a target directory")?;
    let packages = target.join("npm");
    let folder = packages.join(format!("{name}-{version}"));
    if !folder.is_dir() {
        fs::create_dir_all(&packages)?;
        let unpacked = tempfile::tempdir_in(&packages)?;
        fetch(&format!("{name}@{version}"), unpacked.path())?;
        // Another test may have been faster.
        if fs::rename(unpacked.path().join("package"), &folder).is_err() {
            ensure!(folder.is_dir(), "{} cannot be made", folder.display());
        }
    }
    Ok(folder)
}

fn fetch(package: &str, into: &Path) -> Result<()> {
    let mut npm = Command::new("npm");
    let output = npm.args(["pack", "--silent", package]).current_dir(into).output();
    let output = output.with_context(|| format!("npm is needed to fetch {package}"))?;
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "npm cannot fetch {package}: {said}");
    let archive =
        said.split_whitespace().find(|word| word.ends_with(".tgz")).context("npm has named no file")?;
    let status = Command::new("tar").args(["-xzf", archive]).current_dir(into).status()?;
    ensure!(status.success(), "tar cannot unpack {archive}");
    Ok(())
}
