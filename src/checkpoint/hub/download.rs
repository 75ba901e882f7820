//! One file of a model: fetched into the cache, resumed where it broke off, checked when it is there.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use sha1_smol::Sha1;
use sha2::{Digest, Sha256};

use super::content::fault;
use super::error::HubError;
use super::http::{Blob, COMMIT, Client, Reply};
use super::manifest::for_each_part;
use super::names::{git_id_of, sha256_of, shown};
use super::spec::Spec;
use super::store::{Lock, Store, open_own};
use crate::checkpoint::index::{INDEX_FILE, MAX_INDEX_LEN};
use crate::checkpoint::lfs::{MAX_POINTER_LEN, Pointer};
use crate::checkpoint::progress::Progress;
use crate::checkpoint::source::{MAX_CONFIG_LEN, MAX_TOKENIZER_LEN};
use crate::hex;
use crate::quoted::QuotePath;
use crate::size::size;

/// How often a request that failed is made again before it is given up.
pub(super) const RETRIES: u32 = 3;

/// The wait before the second try; it doubles with each one.
const BACK_OFF: Duration = Duration::from_millis(300);

/// The longest wait that a hub may ask for.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Bytes that have to arrive for a download that broke off to have its full number of tries again.
const HEADWAY: u64 = 1 << 20;

/// The bytes of a body that have to arrive in [`PACE_TIME`], or in the time that it may stand still if that is longer.
const PACE: u64 = 64 << 10;
const PACE_TIME: Duration = Duration::from_secs(60);

/// The longest file of weights, in bytes.
const MAX_WEIGHTS_LEN: u64 = 1 << 40;

/// Files of a tokenizer, which may be longer than other texts.
const TOKENIZER_FILES: [&str; 7] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
];

/// The longest file of this name that is fetched, in bytes: what is longer would not be read either.
pub(super) fn longest(name: &str) -> u64 {
    match name {
        INDEX_FILE => MAX_INDEX_LEN,
        name if name.ends_with(".safetensors") || name.ends_with(".gguf") => MAX_WEIGHTS_LEN,
        name if TOKENIZER_FILES.contains(&name) => MAX_TOKENIZER_LEN,
        _ => MAX_CONFIG_LEN,
    }
}

/// A model that is being fetched in one version.
pub(super) struct Fetching<'a> {
    pub(super) client: &'a Client,
    pub(super) store: &'a Store,
    pub(super) spec: &'a Spec,
    pub(super) commit: &'a str,
    pub(super) stall: Duration,
    /// Warnings for the user.
    pub(super) warnings: &'a mut Vec<String>,
}

impl Fetching<'_> {
    /// The path of a file in the snapshot; fetched if it is not there.
    pub(super) fn file(
        &mut self,
        name: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<PathBuf, HubError> {
        let path = self.store.snapshot(self.commit).join(name);
        if path.exists() {
            return Ok(path);
        }
        let (mut best, mut tries, mut damaged) = (0, 0, false);
        loop {
            let mut arrived = 0;
            let result = self.attempt(name, &mut |p| {
                arrived = arrived.max(p.done);
                progress(p);
            });
            let error = match result {
                Ok(path) => return Ok(path),
                Err(error) => error,
            };
            let headway = arrived >= best + HEADWAY;
            if headway {
                (best, tries) = (arrived, 0);
            }
            tries += 1;
            // Another try gives the same bytes, most likely; one is made.
            let again = match error {
                HubError::Damaged { .. } => !std::mem::replace(&mut damaged, true),
                HubError::Stalled { .. } => headway,
                _ => is_passing(&error) && tries <= RETRIES,
            };
            if !again {
                return Err(error);
            }
            tracing::info!("{error}; try {tries} of {RETRIES}");
            wait(tries, &error);
        }
    }

    fn attempt(
        &mut self,
        name: &str,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<PathBuf, HubError> {
        let reply = self.ask(name, 0)?;
        let described = reply.blob.clone();
        let most = longest(name);
        if let Some(found) = described.size.filter(|&found| found > most) {
            let (expected, found) = (format!("at most {}", size(most)), format!("{found} bytes"));
            let header = described.size_header;
            return Err(self.client.wrong_header(name, header, expected, found));
        }
        // Without an ETag, commit and name identify the bytes.
        let key = described
            .etag
            .clone()
            .unwrap_or_else(|| hex::encode(&Sha256::digest(format!("{} {name}", self.commit))));
        let mut reply = Some(reply);
        let total = described.size.unwrap_or(0);
        let lock = self.store.lock(&key, self.stall, &mut |done| {
            // The connection would time out meanwhile.
            reply = None;
            progress(Progress::new(name, done, total));
        })?;
        if let Some(etag) = &described.etag
            && self.has_blob(name, etag, described.size)?
        {
            return self.store.link(etag, self.commit, name, false);
        }
        let path = self.store.snapshot(self.commit).join(name);
        if path.exists() {
            return Ok(path);
        }
        let mut part = Part::open(self.store, &key, &lock, described.size.unwrap_or(most))?;
        if part.length == 0 || described.size != Some(part.length) {
            let reply = match reply.filter(|_| part.length == 0) {
                Some(reply) => reply,
                None => self.resume(name, &mut part, &described)?,
            };
            if reply.start == 0 {
                part.restart()?;
            }
            if reply.start != part.length {
                let expected = format!("a part from byte {} on", part.length);
                let found = format!("one from byte {}", reply.start);
                let header = "Content-Range";
                return Err(self.client.wrong_header(name, header, expected, found));
            }
            progress(Progress::new(name, part.length, total));
            self.receive(name, reply, &mut part, &described, progress)?;
        }
        self.check(name, &mut part, &described)?;
        let hashed = described.hashed();
        if described.size.is_none() && !hashed && !described.framed {
            self.warn("gives no Content-Length: a file that was cut would not be noticed");
        }
        let Some(etag) = &described.etag else {
            self.warn("gives no ETag: what it sent could not be compared with a hash");
            return self.store.place(&part.finish(), self.commit, name);
        };
        if !hashed {
            self.warn("gives an ETag that is no hash: what it sent could not be compared with one");
        }
        // Where the file system has no locks, another process may have been faster.
        if self.has_blob(name, etag, described.size)? {
            part.temporary = true;
            return self.store.link(etag, self.commit, name, false);
        }
        let (finished, blob) = (part.finish(), self.store.blob(etag));
        fs::rename(&finished, &blob).map_err(HubError::at(&blob))?;
        self.store.link(etag, self.commit, name, true)
    }

    /// Whether the cache has the blob of a file. One of another length is damaged where its name is a hash: what replaces it is
    /// compared with that name first. Else it is another file's, to which snapshots may link, and is never replaced.
    fn has_blob(&self, name: &str, etag: &str, size: Option<u64>) -> Result<bool, HubError> {
        let blob = self.store.blob(etag);
        let Ok(present) = fs::metadata(&blob) else {
            return Ok(false);
        };
        if present.is_file() && size.is_none_or(|size| size == present.len()) {
            return Ok(true);
        }
        if sha256_of(etag).or(git_id_of(etag)).is_some() {
            return Ok(false);
        }
        let expected = match size {
            Some(size) => format!("the hash of a file of {size} bytes"),
            None => "the hash of a file".to_string(),
        };
        let found = format!(
            "`{etag}`, of which the cache has {} bytes: {} (remove it if it is damaged)",
            present.len(),
            blob.quoted()
        );
        Err(self.client.wrong_header(name, "ETag", expected, found))
    }

    /// Requests a file and checks the headers of the answer.
    fn ask(&self, name: &str, from: u64) -> Result<Reply, HubError> {
        let url = self.client.file_url(&self.spec.id, self.commit, name);
        let reply = self.client.get(&url, from, name)?;
        if from > 0 && reply.status == 416 {
            return Ok(reply);
        }
        check_status(&reply, self.client, &format!("{} ({name})", self.spec))?;
        if let Some(found) = reply.commit.as_ref().filter(|found| *found != self.commit) {
            let expected = format!("`{}`, which was asked for", self.commit);
            let found = format!("`{}`", shown(found));
            return Err(self.client.wrong_header(name, COMMIT, expected, found));
        }
        Ok(reply)
    }

    /// An answer with the rest of a file, or with all of it if the hub cannot give a part.
    fn resume(&self, name: &str, part: &mut Part, described: &Blob) -> Result<Reply, HubError> {
        if part.length > 0 {
            let reply = self.ask(name, part.length)?;
            // Both are of one commit unless their ETags differ.
            let etag = &reply.blob.etag;
            let same = etag.is_none() || *etag == described.etag;
            let usable = match reply.status {
                206 => reply.start == part.length,
                status => status == 200,
            };
            if same && usable {
                return Ok(reply);
            }
        }
        part.restart()?;
        self.ask(name, 0)
    }

    /// Writes a body behind what is there already.
    fn receive(
        &self,
        name: &str,
        reply: Reply,
        part: &mut Part,
        described: &Blob,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), HubError> {
        let limit = described.size.unwrap_or(longest(name));
        let total = described.size.unwrap_or(0);
        let mut pace = Pace::new(self.stall, Instant::now());
        let broke_off = |error: io::Error| self.client.broke_off(name, &error);
        for_each_part(&mut reply.into_reader(), broke_off, |bytes| {
            if part.length + bytes.len() as u64 > limit {
                part.restart()?;
                return Err(self.damaged(name, format!("{limit} bytes"), "more".into()));
            }
            part.write(bytes)?;
            progress(Progress::new(name, part.length, total));
            if !pace.holds(bytes.len(), Instant::now()) {
                let item = format!("{name}, of which fewer than {} came", size(PACE));
                return Err(self.client.stalled(&item, pace.time));
            }
            Ok(())
        })
    }

    /// Whether what has arrived is the file.
    fn check(&self, name: &str, part: &mut Part, described: &Blob) -> Result<(), HubError> {
        if let Some(size) = described.size.filter(|&size| size > part.length) {
            // Kept: the rest is requested at the next try.
            return Err(HubError::Cut {
                endpoint: self.client.endpoint(),
                item: name.to_string(),
                expected: size,
                found: part.length,
            });
        }
        if part.length < MAX_POINTER_LEN && Pointer::read(&part.path).is_ok_and(|p| p.is_some()) {
            part.restart()?;
            let found = "a Git LFS pointer in its place".to_string();
            return Err(self.damaged(name, "the file".into(), found));
        }
        if let Some(expected) = described.sha256() {
            let found = hex::encode(&part.hash.clone().finalize());
            if found != expected {
                part.restart()?;
                return Err(self.damaged(name, format!("SHA-256 {expected}"), found));
            }
        }
        if let Some(expected) = described.git_id() {
            let found = part.git_id()?;
            if found != expected {
                part.restart()?;
                return Err(self.damaged(name, format!("the git id {expected}"), found));
            }
        }
        // What no hash tells, such as a login page, would be used for ever.
        if !described.hashed()
            && let Some(fault) = fault(name, &part.path)?
        {
            part.restart()?;
            return Err(self.damaged(name, fault.expected, fault.found));
        }
        Ok(())
    }

    /// Adds a warning about the hub, once.
    fn warn(&mut self, text: &str) {
        let warning = format!("{} {text}", self.client.endpoint());
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }

    fn damaged(&self, name: &str, expected: String, found: String) -> HubError {
        HubError::Damaged {
            endpoint: self.client.endpoint(),
            item: name.to_string(),
            expected,
            found,
        }
    }
}

/// The error for a status that is not success.
pub(super) fn check_status(reply: &Reply, client: &Client, id: &str) -> Result<(), HubError> {
    let id = id.to_string();
    match reply.status {
        200 | 206 => Ok(()),
        status @ (401 | 403) => Err(HubError::Unauthorized { id, status }),
        404 => Err(HubError::NotFound {
            id,
            code: reply.code.clone(),
        }),
        status => Err(HubError::Answer {
            endpoint: client.endpoint(),
            id,
            message: match reply.retry_after {
                Some(wait) => format!("HTTP {status} and asks to wait {} s", wait.as_secs()),
                None => format!("HTTP {status}"),
            },
            status: Some(status),
            retry_after: reply.retry_after,
        }),
    }
}

/// Whether the same request may succeed a little later.
pub(super) fn is_passing(error: &HubError) -> bool {
    match error {
        HubError::Offline { .. } | HubError::Cut { .. } => true,
        HubError::Answer {
            status: Some(status),
            retry_after,
            ..
        } => {
            matches!(status, 408 | 429 | 500 | 502 | 503 | 504)
                && retry_after.is_none_or(|wait| wait <= MAX_WAIT)
        }
        _ => false,
    }
}

/// Waits before try number `tries + 1`.
pub(super) fn wait(tries: u32, error: &HubError) {
    let asked = match error {
        HubError::Answer { retry_after, .. } => retry_after.unwrap_or_default(),
        _ => Duration::ZERO,
    };
    let back_off = BACK_OFF * 2u32.pow(tries.saturating_sub(1).min(6));
    thread::sleep(back_off.max(asked).min(MAX_WAIT));
}

/// The pace of a body. Limits on silence do not end one that sends a byte again and again.
struct Pace {
    time: Duration,
    since: Instant,
    arrived: u64,
}

impl Pace {
    /// The pace of a body that may stand still for `stall` and begins `now`.
    fn new(stall: Duration, now: Instant) -> Self {
        Self {
            time: stall.max(PACE_TIME),
            since: now,
            arrived: 0,
        }
    }

    /// Counts bytes that have arrived; false if they are too few for the time that has passed.
    fn holds(&mut self, bytes: usize, now: Instant) -> bool {
        self.arrived += bytes as u64;
        if now.duration_since(self.since) < self.time {
            return true;
        }
        let enough = self.arrived >= PACE;
        (self.since, self.arrived) = (now, 0);
        enough
    }
}

/// Empties an unfinished file that has filled the disk: what is kept of it would keep the disk full.
fn give_back(file: &File, error: &io::Error) {
    if error.kind() == io::ErrorKind::StorageFull {
        let _ = file.set_len(0);
    }
}

/// A file that is arriving, with the hash of what is there.
struct Part {
    path: PathBuf,
    file: File,
    hash: Sha256,
    length: u64,
    /// Removed with this value, because no later call would use it.
    temporary: bool,
}

impl Part {
    /// What an earlier call left, or an empty file. What is longer than `most` is thrown away.
    fn open(store: &Store, key: &str, lock: &Lock, most: u64) -> Result<Self, HubError> {
        let temporary = !lock.is_exclusive();
        let path = store.blob(&if temporary {
            format!("{key}.{}.incomplete", std::process::id())
        } else {
            format!("{key}.incomplete")
        });
        let failed = HubError::at(&path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = open_own(&path, temporary).map_err(failed)?;
        let mut part = Self {
            path: path.clone(),
            file,
            hash: Sha256::new(),
            length: 0,
            temporary,
        };
        if part.file.metadata().map_err(failed)?.len() > most {
            part.restart()?;
        }
        let Self {
            file, hash, length, ..
        } = &mut part;
        for_each_part(file, failed, |bytes| {
            hash.update(bytes);
            *length += bytes.len() as u64;
            Ok(())
        })?;
        Ok(part)
    }

    /// Throws away what is there.
    fn restart(&mut self) -> Result<(), HubError> {
        (self.hash, self.length) = (Sha256::new(), 0);
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)).map(drop))
            .map_err(HubError::at(&self.path))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), HubError> {
        self.file.write_all(bytes).map_err(|error| {
            give_back(&self.file, &error);
            HubError::at(&self.path)(error)
        })?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// The git id of what is there, which is read again: the length stands in front of what is hashed.
    fn git_id(&mut self) -> Result<String, HubError> {
        let failed = HubError::at(&self.path);
        self.file.rewind().map_err(failed)?;
        let mut hash = Sha1::new();
        hash.update(format!("blob {}\0", self.length).as_bytes());
        for_each_part(&mut self.file, failed, |bytes| {
            hash.update(bytes);
            Ok(())
        })?;
        Ok(hash.digest().to_string())
    }

    /// The finished file's path, for it to be renamed.
    fn finish(mut self) -> PathBuf {
        self.temporary = false;
        self.path.clone()
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.temporary {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_long_as_its_kind_may_be() {
        for (name, expected) in [
            ("model-00001-of-00002.safetensors", 1 << 40),
            ("model.gguf", 1 << 40),
            (INDEX_FILE, MAX_INDEX_LEN),
            ("tokenizer.json", MAX_TOKENIZER_LEN),
            ("merges.txt", MAX_TOKENIZER_LEN),
            ("config.json", MAX_CONFIG_LEN),
            ("additional_chat_templates/rag.jinja", MAX_CONFIG_LEN),
        ] {
            assert_eq!(longest(name), expected, "{name}");
        }
    }

    #[test]
    fn a_body_has_to_come_at_a_pace() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(Duration::from_secs(5), start);
        // A byte again and again.
        assert!((0..60).all(|second| pace.holds(1, at(second))));
        assert!(!pace.holds(1, at(60)));
        // Enough in each minute, however it is spread.
        let mut pace = Pace::new(Duration::from_secs(5), start);
        assert!((1..10).all(|minute| pace.holds(PACE as usize, at(60 * minute))));
        // Who lets a body stand still for longer waits for longer.
        let mut pace = Pace::new(Duration::from_secs(600), start);
        assert!(pace.holds(1, at(599)) && !pace.holds(1, at(600)));
    }

    #[test]
    fn a_full_disk_gets_its_room_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("part");
        fs::write(&path, "12345").unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        let left = || fs::metadata(&path).unwrap().len();
        give_back(&file, &io::ErrorKind::PermissionDenied.into());
        assert_eq!(left(), 5);
        give_back(&file, &io::ErrorKind::StorageFull.into());
        assert_eq!(left(), 0);
    }
}
