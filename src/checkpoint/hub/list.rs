//! The commit of a revision, and the list of its files.

use std::collections::BTreeSet;
use std::io::Read;

use serde::Deserialize;

use super::download::{RETRIES, check_status, is_passing, wait};
use super::error::HubError;
use super::http::{COMMIT, Client};
use super::names::{is_file, shown};
use super::spec::Spec;
use super::store::is_full_commit;
use crate::checkpoint::local::is_commit;
use crate::checkpoint::source::MAX_CONFIG_LEN;
use crate::size::size;

/// The longest list of files that is read, in bytes. 100,000 files take about 8 MiB.
const MAX_LIST_LEN: u64 = 16 << 20;

/// The file that every model has.
pub(super) const CONFIG: &str = "config.json";

/// A commit and its files.
pub(super) struct Listing {
    pub(super) commit: String,
    /// The names of its files; `None` where the hub gives no list.
    pub(super) names: Option<BTreeSet<String>>,
}

/// What the text of a list says.
pub(super) struct Parsed {
    pub(super) commit: Option<String>,
    /// The names that may become paths.
    pub(super) names: Option<BTreeSet<String>>,
}

#[derive(Deserialize)]
struct RawListing {
    sha: Option<String>,
    siblings: Option<Vec<RawFile>>,
}

#[derive(Deserialize)]
struct RawFile {
    rfilename: String,
}

/// Requests the commit of a revision and the list of its files.
pub(super) fn list(client: &Client, spec: &Spec) -> Result<Listing, HubError> {
    let id = spec.to_string();
    const ITEM: &str = "the list of files";
    let url = client.list_url(&spec.id, &spec.revision);
    let reply = client.get(&url, 0, ITEM)?;
    // A mirror may have the files and no lists; the hub itself answers with a code.
    if reply.status == 404 && reply.code.is_none() {
        return Ok(Listing {
            commit: described_commit(client, spec)?,
            names: None,
        });
    }
    check_status(&reply, client, &id)?;
    let mut bytes = Vec::new();
    reply
        .into_reader()
        .take(MAX_LIST_LEN + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| client.broke_off(ITEM, &error))?;
    let parsed = parse(client, &id, &bytes)?;
    let commit = match parsed.commit {
        Some(commit) => commit,
        None => described_commit(client, spec)?,
    };
    if is_full_commit(&spec.revision) && spec.revision != commit {
        let message = format!("another version, `{commit}`");
        return Err(answered(client, &id, message));
    }
    Ok(Listing {
        commit,
        names: parsed.names,
    })
}

/// Reads the text of a list; `id` is what errors name.
pub(super) fn parse(client: &Client, id: &str, bytes: &[u8]) -> Result<Parsed, HubError> {
    if bytes.len() as u64 > MAX_LIST_LEN {
        let message = format!("a list of files of more than {}", size(MAX_LIST_LEN));
        return Err(answered(client, id, message));
    }
    let raw: RawListing = serde_json::from_slice(bytes).map_err(|error| {
        let start = String::from_utf8_lossy(&bytes[..bytes.len().min(40)]);
        let (error, start) = (shown(&error.to_string()), shown(&start));
        let message =
            format!("something else than a list of files ({error}), which begins with `{start}`");
        answered(client, id, message)
    })?;
    if let Some(sha) = raw.sha.as_ref().filter(|sha| !is_commit(sha)) {
        let message = format!("a version that is no commit, `{}`", shown(sha));
        return Err(answered(client, id, message));
    }
    let names = raw.siblings.map(|files| {
        let names = files.into_iter().map(|file| file.rfilename);
        names.filter(|name| is_file(name)).collect()
    });
    Ok(Parsed {
        commit: raw.sha.map(|sha| sha.to_ascii_lowercase()),
        names,
    })
}

/// The error for an answer about the model `id` that is of no use.
pub(super) fn answered(client: &Client, id: &str, message: String) -> HubError {
    HubError::Answer {
        endpoint: client.endpoint(),
        id: id.to_string(),
        message,
        status: None,
        retry_after: None,
    }
}

/// The commit of a revision by the headers of a file.
fn described_commit(client: &Client, spec: &Spec) -> Result<String, HubError> {
    if is_full_commit(&spec.revision) {
        return Ok(spec.revision.clone());
    }
    let url = client.file_url(&spec.id, &spec.revision, CONFIG);
    let reply = client.get(&url, 0, CONFIG)?;
    check_status(&reply, client, &spec.to_string())?;
    reply.commit.ok_or_else(|| {
        let expected = format!("the commit of `{}`", spec.revision);
        let found = "no such header, and no list of files that names it";
        client.wrong_header(CONFIG, COMMIT, expected, found)
    })
}

/// Requests a model's configuration.
pub(super) fn read_config(client: &Client, spec: &Spec) -> Result<String, HubError> {
    let id = spec.to_string();
    let reply = client.get(
        &client.file_url(&spec.id, &spec.revision, CONFIG),
        0,
        CONFIG,
    )?;
    check_status(&reply, client, &id)?;
    let mut bytes = Vec::new();
    reply
        .into_reader()
        .take(MAX_CONFIG_LEN + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| client.broke_off(CONFIG, &error))?;
    let wrong = |found: &str| answered(client, &id, format!("a {CONFIG} {found}"));
    if bytes.len() as u64 > MAX_CONFIG_LEN {
        return Err(wrong(&format!("of more than {}", size(MAX_CONFIG_LEN))));
    }
    String::from_utf8(bytes).map_err(|_| wrong("that is not UTF-8"))
}

/// Repeats a request, up to [`RETRIES`] times, while it fails for a passing reason.
pub(super) fn with_retries<T>(ask: impl Fn() -> Result<T, HubError>) -> Result<T, HubError> {
    let mut tried = 0;
    loop {
        match ask() {
            Err(error) if tried < RETRIES && is_passing(&error) => {
                tried += 1;
                wait(tried, &error);
            }
            result => return result,
        }
    }
}
