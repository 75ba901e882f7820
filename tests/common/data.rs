//! Files that tests read and that may be absent: real models and tokenizers, which `scripts/fetch-test-data` gets.

use std::path::{Path, PathBuf};

/// The path of `file` in `folder`, which stands in the repository or where the environment variable `variable` says.
///
/// Where it is absent: `None`, with a message that names the test; with `APB_REQUIRE_DATA=1`, as in CI, the test fails.
pub fn find(folder: &str, file: &str, variable: Option<&str>) -> Option<PathBuf> {
    let given = variable.and_then(std::env::var_os).map(PathBuf::from);
    let path = given
        .unwrap_or_else(|| repository().join(folder))
        .join(file);
    if path.exists() {
        return Some(path);
    }
    let mut missing = format!("no {}", path.display());
    if folder.starts_with("target/") {
        missing += "; run scripts/fetch-test-data";
    }
    if let Some(variable) = variable {
        missing += &format!(", or set {variable}");
    }
    assert!(
        std::env::var_os("APB_REQUIRE_DATA").is_none_or(|set| set != "1"),
        "APB_REQUIRE_DATA=1, and {missing}"
    );
    let test = std::thread::current();
    eprintln!("skipped: {}: {missing}", test.name().unwrap_or("a test"));
    None
}

/// The repository's root, for the tests of every package in it.
fn repository() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders = package.ancestors();
    folders
        .find(|folder| folder.join("scripts/fetch-test-data").is_file())
        .unwrap_or(package)
}
