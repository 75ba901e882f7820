//! One file of a model: fetched into the cache, resumed where it broke off, checked when it is there.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::error::HubError;
use super::http::{Blob, COMMIT, Client, Reply};
use super::manifest::for_each_part;
use super::names::shown;
use super::spec::Spec;
use super::store::{Lock, Store};
use crate::checkpoint::lfs::{MAX_POINTER_LEN, Pointer};
use crate::checkpoint::progress::Progress;
use crate::hex;

/// How often a request that failed is made again before it is given up.
pub(super) const RETRIES: u32 = 3;

/// The wait before the second try; it doubles with each one.
const BACK_OFF: Duration = Duration::from_millis(300);

/// The longest wait that a hub may ask for.
const MAX_WAIT: Duration = Duration::from_secs(20);

/// Bytes that have to arrive for a download that broke off to have its full number of tries again.
const HEADWAY: u64 = 1 << 20;

/// The longest file that is accepted without a length.
const MAX_UNSIZED: u64 = 1 << 40;

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
        if let Some(etag) = &described.etag {
            let present = fs::metadata(self.store.blob(etag));
            let whole = present.is_ok_and(|m| described.size.is_none_or(|size| size == m.len()));
            if whole {
                return self.store.link(etag, self.commit, name, false);
            }
        }
        let path = self.store.snapshot(self.commit).join(name);
        if path.exists() {
            return Ok(path);
        }
        let mut part = Part::open(self.store, &key, &lock, described.size)?;
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
        if described.size.is_none() && described.sha256().is_none() && !described.framed {
            self.warn("gives no Content-Length: a file that was cut would not be noticed");
        }
        let finished = part.finish();
        let Some(etag) = &described.etag else {
            self.warn("gives no ETag: what it sent could not be compared with a hash");
            return self.store.place(&finished, self.commit, name);
        };
        let blob = self.store.blob(etag);
        fs::rename(&finished, &blob).map_err(HubError::at(&blob))?;
        self.store.link(etag, self.commit, name, true)
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
        let limit = described.size.unwrap_or(MAX_UNSIZED);
        let total = described.size.unwrap_or(0);
        let broke_off = |error: io::Error| self.client.broke_off(name, &error);
        for_each_part(&mut reply.into_reader(), broke_off, |bytes| {
            if part.length + bytes.len() as u64 > limit {
                part.restart()?;
                return Err(self.damaged(name, format!("{limit} bytes"), "more".into()));
            }
            part.write(bytes)?;
            progress(Progress::new(name, part.length, total));
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
    /// What an earlier call left, or an empty file. What is longer than `size` is thrown away.
    fn open(store: &Store, key: &str, lock: &Lock, size: Option<u64>) -> Result<Self, HubError> {
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
        let file = File::options()
            .create(true)
            .truncate(temporary)
            .read(true)
            .write(true)
            .open(&path)
            .map_err(failed)?;
        let mut part = Self {
            path: path.clone(),
            file,
            hash: Sha256::new(),
            length: 0,
            temporary,
        };
        let Self {
            file, hash, length, ..
        } = &mut part;
        for_each_part(file, failed, |bytes| {
            hash.update(bytes);
            *length += bytes.len() as u64;
            Ok(())
        })?;
        if size.is_some_and(|size| part.length > size) {
            part.restart()?;
        }
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
        self.file
            .write_all(bytes)
            .map_err(HubError::at(&self.path))?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
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
