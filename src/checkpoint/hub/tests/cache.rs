//! The cache: shared with Python, and compared with the hub where that can be reached.

use std::fs;

use super::server::{COMMIT, LocalHub, NEXT, git_id};
use super::*;

/// What Python's `snapshot_download` leaves behind.
fn cached_by_python(cache: &Path, links: bool) {
    let folder = cache.join("hub/models--org--name");
    let snapshot = folder.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::write(folder.join("refs/main"), COMMIT).unwrap();
    let weights = tensor("a");
    for (name, bytes) in [
        ("config.json", TEXT.as_bytes()),
        ("tokenizer.json", TEXT.as_bytes()),
        ("model.safetensors", &weights),
    ] {
        if links {
            let blob = folder.join("blobs").join(format!("blob-{name}"));
            fs::write(blob, bytes).unwrap();
            #[cfg(unix)]
            std::os::unix::fs::symlink(format!("../../blobs/blob-{name}"), snapshot.join(name))
                .unwrap();
        } else {
            fs::write(snapshot.join(name), bytes).unwrap();
        }
    }
}

#[test]
fn what_python_fetched_is_found() {
    for links in [cfg!(unix), false] {
        let cache = tempfile::tempdir().unwrap();
        cached_by_python(cache.path(), links);
        let offline = hub(NOBODY, cache.path()).with_offline(true);
        let found = offline.resolve(&spec(), &mut |_| {}).unwrap();
        assert_eq!(found.commit, COMMIT);
        assert_eq!(Checkpoint::open(&found.path).unwrap().tensors().len(), 1);
        let pinned = Spec::parse(&format!("org/name@{COMMIT}")).unwrap();
        assert_eq!(
            offline.resolve(&pinned, &mut |_| {}).unwrap().path,
            found.path
        );
    }
}

#[test]
fn what_is_fetched_lies_as_python_looks_for_it() {
    let cache = tempfile::tempdir().unwrap();
    let folder = resolved(model(), cache.path()).unwrap().path;
    let repo = cache.path().join("hub/models--org--name");
    assert_eq!(folder, repo.join("snapshots").join(COMMIT));
    // Python reads the file without trimming it.
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let blob = format!("blobs/{}", git_id(TEXT.as_bytes()));
    assert_eq!(fs::read_to_string(repo.join(&blob)).unwrap(), TEXT);
    #[cfg(unix)]
    assert_eq!(
        fs::read_link(folder.join("config.json")).unwrap(),
        Path::new("../..").join(&blob)
    );
    let left: Vec<String> = all_files(&repo)
        .into_iter()
        .filter(|name| name.ends_with(".incomplete") || name.contains("refs/.tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn files_are_copied_where_links_cannot_be_made() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(model());
    let copies = hub(&local.endpoint, cache.path()).with_symlinks(false);
    let folder = copies.resolve(&spec(), &mut |_| {}).unwrap().path;
    assert!(!folder.join("config.json").is_symlink());
    assert_eq!(Checkpoint::open(&folder).unwrap().tensors().len(), 1);
}

#[test]
fn a_branch_that_moved_is_noticed() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(model());
    let hub = hub(&local.endpoint, cache.path());
    let old = hub.resolve(&spec(), &mut |_| {}).unwrap();
    local.change(|manner| {
        (manner.sha, manner.commit) = (Some(NEXT.into()), Some(NEXT.into()));
        manner.files.insert("model.safetensors".into(), tensor("b"));
    });

    // A whole hash is asked of nobody; another name of the old state is, and finds the new one.
    local.asked();
    let pinned = Spec::parse(&format!("org/name@{COMMIT}")).unwrap();
    let found = hub.resolve(&pinned, &mut |_| {}).unwrap();
    assert_eq!((found.path, found.warnings), (old.path.clone(), Vec::new()));
    assert_eq!(local.asked(), []);

    // Without the hub, the old one serves, and the warning names it.
    for blind in [
        hub.clone().with_endpoint(NOBODY),
        hub.clone().with_offline(true),
    ] {
        let found = blind.resolve(&spec(), &mut |_| {}).unwrap();
        assert_eq!(found.path, old.path);
        assert_eq!(found.warnings.len(), 1);
        assert!(
            found.warnings[0].contains("0123456") && found.warnings[0].contains("not be checked"),
            "{:?}",
            found.warnings
        );
    }

    let new = hub.resolve(&spec(), &mut |_| {}).unwrap();
    assert_eq!(new.commit, NEXT);
    assert!(new.warnings[0].contains("moved"), "{:?}", new.warnings);
    assert_eq!(
        fs::read(new.path.join("model.safetensors")).unwrap(),
        tensor("b")
    );
    assert_eq!(
        fs::read(old.path.join("model.safetensors")).unwrap(),
        tensor("a")
    );
    let again = hub
        .with_offline(true)
        .resolve(&spec(), &mut |_| {})
        .unwrap();
    assert_eq!(again.path, new.path);
}

#[test]
fn a_hub_that_refuses_does_not_take_the_cache_away() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(model());
    let hub = hub(&local.endpoint, cache.path());
    let folder = hub.resolve(&spec(), &mut |_| {}).unwrap().path;
    for status in [401, 403, 404, 429, 500, 503] {
        local.change(|manner| manner.status = Some(status));
        let found = hub.resolve(&spec(), &mut |_| {}).unwrap();
        assert_eq!(found.path, folder);
        assert!(
            found.warnings[0].contains(&status.to_string()),
            "{:?}",
            found.warnings
        );
    }
    // The next state breaks off: the last whole one serves.
    local.change(|manner| {
        manner.status = None;
        manner.sha = Some(NEXT.into());
        manner.commit = Some(NEXT.into());
        manner.files.insert("tokenizer.json".into(), vec![b'x'; 50]);
        manner
            .linked
            .insert("tokenizer.json".into(), ("long".into(), "60".into()));
    });
    let found = hub.resolve(&spec(), &mut |_| {}).unwrap();
    assert_eq!(found.path, folder);
    assert!(
        found.warnings[0].contains("60 bytes"),
        "{:?}",
        found.warnings
    );
}

#[test]
fn a_snapshot_with_a_broken_link_is_mended() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(model());
    let hub = hub(&local.endpoint, cache.path());
    let folder = hub.resolve(&spec(), &mut |_| {}).unwrap().path;
    fs::remove_file(folder.join("model.safetensors").canonicalize().unwrap()).unwrap();
    let offline = hub.clone().with_offline(true);
    assert!(matches!(
        offline.resolve(&spec(), &mut |_| {}),
        Err(HubError::NotCached { .. })
    ));
    hub.resolve(&spec(), &mut |_| {}).unwrap();
    assert_eq!(
        fs::read(folder.join("model.safetensors")).unwrap(),
        tensor("a")
    );
}

#[test]
fn two_at_once_fetch_each_file_once() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(model());
    let hub = hub(&local.endpoint, cache.path());
    let folders: Vec<_> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| hub.resolve(&spec(), &mut |_| {}).unwrap().path))
            .collect();
        running.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(folders.iter().all(|folder| *folder == folders[0]));
    assert_eq!(Checkpoint::open(&folders[0]).unwrap().tensors().len(), 1);
    // Configuration and tokenizer hold the same text.
    let files = all_files(&cache.path().join("hub/models--org--name/blobs"));
    assert_eq!(files.len(), 2, "{files:?}");
}

#[test]
fn a_lock_that_nobody_gives_back_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(model());
    let locks = cache.path().join("hub/.locks/models--org--name");
    fs::create_dir_all(&locks).unwrap();
    let lock = fs::File::create(locks.join(format!("{}.lock", git_id(TEXT.as_bytes())))).unwrap();
    lock.lock().unwrap();
    let limits = (Duration::from_secs(20), Duration::from_millis(300));
    let hub = hub(&local.endpoint, cache.path()).with_timeouts(limits.0, limits.1);
    let error = hub.resolve(&spec(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::Locked { .. }), "{error}");
    drop(lock);
    hub.resolve(&spec(), &mut |_| {}).unwrap();
}

#[test]
fn a_commit_without_a_tokenizer_is_asked_for_once() {
    let cache = tempfile::tempdir().unwrap();
    let mut bare = model();
    bare.files.remove("tokenizer.json");
    let local = LocalHub::new(bare);
    let hub = hub(&local.endpoint, cache.path());
    let pinned = Spec::parse(&format!("org/name@{COMMIT}")).unwrap();
    let first = hub.resolve(&pinned, &mut |_| {}).unwrap();
    assert!(!local.asked().is_empty());
    assert_eq!(hub.resolve(&pinned, &mut |_| {}).unwrap(), first);
    assert_eq!(local.asked(), []);
}

/// A link that someone else put into the place of a file of the cache's own is not written through.
#[cfg(unix)]
#[test]
fn links_in_a_shared_cache_are_not_written_through() {
    use std::os::unix::fs::symlink;

    let cache = tempfile::tempdir().unwrap();
    let victim = cache.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let repo = cache.path().join("hub/models--org--name");
    let locks = cache.path().join("hub/.locks/models--org--name");
    let absent = repo.join(".no_exist").join(COMMIT);
    for folder in [&repo.join("blobs"), &repo.join("refs"), &locks, &absent] {
        fs::create_dir_all(folder).unwrap();
    }
    let id = git_id(TEXT.as_bytes());
    let nothing = cache.path().join("nothing");
    symlink(&victim, repo.join(format!("blobs/{id}.incomplete"))).unwrap();
    symlink(&victim, locks.join(format!("{id}.lock"))).unwrap();
    symlink(&victim, repo.join("refs/main")).unwrap();
    symlink(&nothing, absent.join("tokenizer.json")).unwrap();

    let mut bare = model();
    bare.files.remove("tokenizer.json");
    let found = resolved(bare, cache.path()).unwrap();
    assert_eq!(
        fs::read_to_string(found.path.join("config.json")).unwrap(),
        TEXT
    );
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert!(!nothing.exists());
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    assert!(!repo.join("refs/main").is_symlink());
}

#[test]
fn a_reference_that_is_no_commit_is_none() {
    let cache = tempfile::tempdir().unwrap();
    cached_by_python(cache.path(), false);
    let main = cache.path().join("hub/models--org--name/refs/main");
    let offline = hub(NOBODY, cache.path()).with_offline(true);
    assert!(offline.resolve(&spec(), &mut |_| {}).is_ok());
    fs::write(&main, format!("{COMMIT}{}", " ".repeat(1000))).unwrap();
    assert!(offline.resolve(&spec(), &mut |_| {}).is_err());
    fs::remove_file(&main).unwrap();
    fs::create_dir(&main).unwrap();
    assert!(offline.resolve(&spec(), &mut |_| {}).is_err());
}

/// A blob of another length belongs to another file, to which snapshots of other commits may link; or it is damaged, where
/// its name is the hash of what comes.
#[test]
fn a_blob_of_another_length_is_replaced_by_what_its_name_says_alone() {
    let cache = tempfile::tempdir().unwrap();
    let blobs = cache.path().join("hub/models--org--name/blobs");
    fs::create_dir_all(&blobs).unwrap();
    for etag in ["tag-config.json".to_string(), git_id(b"another")] {
        let blob = blobs.join(&etag);
        fs::write(&blob, "of another file").unwrap();
        let mut manner = model();
        manner.etag = Some(format!("\"{etag}\""));
        let error = resolved(manner, cache.path()).unwrap_err();
        let text = error.to_string();
        match etag.starts_with("tag") {
            true => assert!(
                matches!(error, HubError::Header { .. })
                    && text.contains("`ETag`")
                    && text.contains("15 bytes")
                    && text.contains(&etag),
                "{text}"
            ),
            false => assert!(matches!(error, HubError::Damaged { .. }), "{text}"),
        }
        assert_eq!(fs::read_to_string(&blob).unwrap(), "of another file");
    }

    let damaged = blobs.join(git_id(&tensor("a")));
    fs::write(&damaged, "cut").unwrap();
    resolved(model(), cache.path()).unwrap();
    assert_eq!(fs::read(&damaged).unwrap(), tensor("a"));
}

/// Such a file would be found in the cache again and again: the error names what to remove.
#[test]
fn what_is_in_the_cache_under_another_name_than_its_own_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let mut manner = model();
    manner.etag = Some("\"tag-*\"".into());
    let local = LocalHub::new(manner);
    let hub = hub(&local.endpoint, cache.path());
    let folder = hub.resolve(&spec(), &mut |_| {}).unwrap().path;
    let weights = tensor("a");
    for (name, content) in [
        ("config.json", &b"<html>log in</html>"[..]),
        ("tokenizer.json", b"{\"error\": \"log in\"}"),
        ("model.safetensors", &weights[..30]),
    ] {
        let blob = folder.join(name).canonicalize().unwrap();
        fs::write(&blob, content).unwrap();
        for hub in [hub.clone(), hub.clone().with_offline(true)] {
            let error = hub.resolve(&spec(), &mut |_| {}).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, HubError::Unreadable { .. }), "{text}");
            let named = text.contains(&blob.display().to_string());
            assert!(named && text.contains("remove this file"), "{text}");
        }
        fs::remove_file(&blob).unwrap();
        hub.resolve(&spec(), &mut |_| {}).unwrap();
    }
}

#[test]
fn hashes_are_kept_in_lower_case() {
    let cache = tempfile::tempdir().unwrap();
    let weights = tensor("a");
    let mut manner = model();
    let (sha, commit) = (COMMIT.to_uppercase(), COMMIT.to_uppercase());
    (manner.sha, manner.commit) = (Some(sha), Some(commit));
    let etag = git_id(&weights).to_uppercase();
    let linked = (format!("\"{etag}\""), weights.len().to_string());
    manner.linked.insert("model.safetensors".into(), linked);
    let found = resolved(manner, cache.path()).unwrap();
    assert_eq!(found.commit, COMMIT);
    let repo = cache.path().join("hub/models--org--name");
    assert!(found.path.ends_with(COMMIT));
    let files = all_files(&repo);
    let upper = |path: &String| path.contains(&etag) || path.contains(&COMMIT.to_uppercase());
    assert!(!files.iter().any(upper), "{files:?}");
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
}

/// What is copied to a named folder comes from the model's own cache.
#[cfg(unix)]
#[test]
fn links_that_lead_out_of_the_cache_are_not_copied() {
    use std::os::unix::fs::symlink;

    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(model());
    let hub = hub(&local.endpoint, cache.path());
    let folder = hub.resolve(&spec(), &mut |_| {}).unwrap().path;
    let outside = cache.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "precious").unwrap();

    symlink(&outside, folder.join("templates")).unwrap();
    let to = cache.path().join("first");
    fetch_with("org/name", Some(&to), FetchFrom::Any, &hub, &mut |_| {}).unwrap();
    assert!(to.join("config.json").is_file() && !to.join("templates").exists());

    symlink(outside.join("secret"), folder.join("notes.txt")).unwrap();
    let to = cache.path().join("second");
    let error = fetch_with("org/name", Some(&to), FetchFrom::Any, &hub, &mut |_| {}).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("notes.txt") && text.contains("secret"),
        "{text}"
    );
    assert!(!to.exists());
}
