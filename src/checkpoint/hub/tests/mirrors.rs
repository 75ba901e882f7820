//! Mirrors that redirect, leave headers out, break off or lie.

use std::fs;

use sha2::{Digest, Sha256};

use super::server::{Asked, COMMIT, LocalHub, git_id};
use super::*;
use crate::hex;

fn weights_of(found: &Resolved) -> Vec<u8> {
    fs::read(found.path.join("model.safetensors")).unwrap()
}

#[test]
fn every_redirect_is_followed() {
    for status in [301, 302, 303, 307, 308] {
        let cache = tempfile::tempdir().unwrap();
        let last = LocalHub::new(model());
        let first = LocalHub::new(Manner {
            redirect: Some((status, format!("{}*", last.endpoint))),
            ..model()
        });
        let found = hub(&first.endpoint, cache.path()).resolve(&spec(), &mut |_| {});
        assert_eq!(weights_of(&found.unwrap()), tensor("a"), "{status}");
    }
}

#[test]
fn a_mirror_may_redirect_everything_without_describing_it() {
    let cache = tempfile::tempdir().unwrap();
    let last = LocalHub::new(model());
    let bare = Manner {
        redirect: Some((308, format!("{}*", last.endpoint))),
        commit: None,
        etag: None,
        lists: false,
        ..model()
    };
    let found = resolved(bare, cache.path()).unwrap();
    assert_eq!(weights_of(&found), tensor("a"));
    assert_eq!(found.commit, COMMIT);
}

#[test]
fn a_relative_redirect_keeps_the_token_and_another_host_does_not_get_it() {
    let bearer = Some("Bearer hf_secret".to_string());
    let with_token = |local: &LocalHub, cache: &Path| {
        let hub = hub(&local.endpoint, cache).with_token(Some("hf_secret"));
        hub.resolve(&spec(), &mut |_| {})
    };
    let cache = tempfile::tempdir().unwrap();
    let other = LocalHub::new(model());
    let first = LocalHub::new(Manner {
        redirect: Some((302, format!("{}*", other.endpoint))),
        ..model()
    });
    with_token(&first, cache.path()).unwrap();
    assert!(first.asked().iter().all(|asked| asked.token == bearer));
    let elsewhere = other.asked();
    assert!(!elsewhere.is_empty() && elsewhere.iter().all(|asked| asked.token.is_none()));

    let cache = tempfile::tempdir().unwrap();
    let looping = LocalHub::new(Manner {
        redirect: Some((308, "*".into())),
        ..model()
    });
    let error = with_token(&looping, cache.path()).unwrap_err();
    assert!(matches!(error, HubError::Redirect { .. }), "{error}");
    let asked: Vec<Asked> = looping.asked();
    assert!(asked.len() > 5 && asked.iter().all(|asked| asked.token == bearer));

    for to in ["file:///etc/passwd", "ftp://host/x", "", "http://"] {
        let manner = Manner {
            redirect: Some((307, to.into())),
            ..model()
        };
        let error = resolved(manner, cache.path()).unwrap_err();
        assert!(matches!(error, HubError::Redirect { .. }), "{to}: {error}");
    }
}

#[test]
fn the_mirror_may_be_below_a_path() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(Manner {
        prefix: "/hf/v2".into(),
        ..model()
    });
    let hub = hub(&format!("{}/hf/v2/", local.endpoint), cache.path());
    hub.resolve(&spec(), &mut |_| {}).unwrap();
    assert!(local.asked().iter().all(|asked| !asked.path.contains("//")));
}

#[test]
fn headers_that_are_missing_are_done_without_or_named() {
    // The list names the commit.
    let cache = tempfile::tempdir().unwrap();
    let found = resolved(
        Manner {
            commit: None,
            ..model()
        },
        cache.path(),
    )
    .unwrap();
    assert_eq!(
        (found.commit.as_str(), &found.warnings[..]),
        (COMMIT, &[][..])
    );

    // A file's headers name it, where the list does not or there is none.
    for lists in [true, false] {
        let cache = tempfile::tempdir().unwrap();
        let found = resolved(
            Manner {
                sha: None,
                lists,
                ..model()
            },
            cache.path(),
        )
        .unwrap();
        assert_eq!(found.commit, COMMIT);
        assert_eq!(weights_of(&found), tensor("a"));
    }
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(Manner {
        sha: None,
        commit: None,
        ..model()
    });
    let error = hub(&local.endpoint, cache.path()).resolve(&spec(), &mut |_| {});
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains(&local.endpoint) && error.contains("X-Repo-Commit"),
        "{error}"
    );
    assert!(
        !error.contains(&cache.path().display().to_string()),
        "{error}"
    );

    // Without an ETag there is no blob, and nothing to compare with.
    let cache = tempfile::tempdir().unwrap();
    let found = resolved(
        Manner {
            etag: None,
            ..model()
        },
        cache.path(),
    )
    .unwrap();
    assert_eq!(weights_of(&found), tensor("a"));
    assert_eq!(found.warnings.len(), 1);
    assert!(found.warnings[0].contains("ETag"), "{:?}", found.warnings);
    assert!(!found.path.join("config.json").is_symlink());

    // An ETag that is no hash names a blob, but cannot be compared. Without a length too, the end of the connection is the
    // end of the file.
    for lengths in [true, false] {
        let cache = tempfile::tempdir().unwrap();
        let named = Manner {
            etag: Some("\"tag-*\"".into()),
            lengths,
            ..model()
        };
        let found = resolved(named, cache.path()).unwrap();
        assert_eq!(weights_of(&found), tensor("a"));
        let warnings = &found.warnings;
        let about = |what: &str| warnings.iter().any(|warning| warning.contains(what));
        assert!(about("an ETag that is no hash"), "{warnings:?}");
        assert_eq!(about("Content-Length"), !lengths, "{warnings:?}");
        assert_eq!(warnings.len(), if lengths { 1 } else { 2 });
    }

    // A hash says that a file is whole.
    let cache = tempfile::tempdir().unwrap();
    let found = resolved(
        Manner {
            lengths: false,
            ..model()
        },
        cache.path(),
    )
    .unwrap();
    assert_eq!(weights_of(&found), tensor("a"));
    assert_eq!(found.warnings, Vec::<String>::new());
}

#[test]
fn a_download_that_broke_off_is_taken_up() {
    let weights = tensor("a");
    for ranges in [true, false] {
        let cache = tempfile::tempdir().unwrap();
        let local = LocalHub::new(Manner { ranges, ..model() });
        let blobs = cache.path().join("hub/models--org--name/blobs");
        fs::create_dir_all(&blobs).unwrap();
        let part = blobs.join(format!("{}.incomplete", git_id(&weights)));
        fs::write(&part, &weights[..20]).unwrap();
        let mut first = None;
        let found = hub(&local.endpoint, cache.path()).resolve(&spec(), &mut |p| {
            if p.item == "model.safetensors" {
                first.get_or_insert(p.done);
            }
        });
        assert_eq!(weights_of(&found.unwrap()), weights);
        assert_eq!(first, Some(if ranges { 20 } else { 0 }));
        assert!(!part.exists());
        let asked = local.asked();
        assert!(
            asked.iter().any(|asked| asked.from == Some(20)),
            "{asked:?}"
        );
    }
}

#[test]
fn what_was_left_by_another_file_is_thrown_away() {
    let weights = tensor("a");
    let cache = tempfile::tempdir().unwrap();
    let etag = hex::encode(&Sha256::digest(&weights));
    let size = weights.len().to_string();
    let blobs = cache.path().join("hub/models--org--name/blobs");
    fs::create_dir_all(&blobs).unwrap();
    let mut manner = model();
    manner
        .linked
        .insert("model.safetensors".into(), (etag.clone(), size));
    for left in [
        &b"xxxxxxxxxx"[..],
        &[b'x'; 4000],
        &vec![b'x'; weights.len()],
    ] {
        fs::write(blobs.join(format!("{etag}.incomplete")), left).unwrap();
        let found = resolved(manner.clone(), cache.path()).unwrap();
        assert_eq!(weights_of(&found), weights, "{} bytes", left.len());
        fs::remove_dir_all(found.path).unwrap();
        fs::remove_file(blobs.join(&etag)).unwrap();
    }
}

#[test]
fn bodies_that_are_cut_are_completed_part_by_part() {
    let cache = tempfile::tempdir().unwrap();
    let mut long = TEXT.as_bytes().to_vec();
    long.resize(400, b' ');
    let mut manner = model();
    manner.files.insert("tokenizer.json".into(), long.clone());
    let local = LocalHub::new(manner);
    let hub = hub(&local.endpoint, cache.path());
    local.change(|manner| manner.cut = Some(150));
    let found = hub.resolve(&spec(), &mut |_| {}).unwrap();
    assert_eq!(fs::read(found.path.join("tokenizer.json")).unwrap(), long);

    // A hub that cannot go on from the middle is given up, and the mirror named.
    let cache = tempfile::tempdir().unwrap();
    local.change(|manner| manner.ranges = false);
    let hub = self::hub(&local.endpoint, cache.path());
    let error = hub.resolve(&spec(), &mut |_| {}).unwrap_err().to_string();
    assert!(
        error.contains(&local.endpoint) && error.contains("tokenizer.json"),
        "{error}"
    );
    assert!(
        !error.contains(&cache.path().display().to_string()),
        "{error}"
    );
    assert!(
        !cache
            .path()
            .join("hub/models--org--name/refs/main")
            .exists()
    );
}

#[test]
fn other_bytes_than_promised_are_not_kept() {
    let weights = tensor("a");
    let size = weights.len().to_string();
    let longer = (weights.len() + 10).to_string();
    let shorter = (weights.len() - 10).to_string();
    let right = hex::encode(&Sha256::digest(&weights));
    let wrong = hex::encode(&Sha256::digest(b"something else"));
    for (etag, size, good) in [
        (&right, &size, true),
        (&wrong, &size, false),
        (&right, &longer, false),
        (&right, &shorter, false),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let mut manner = model();
        let linked = (format!("\"{etag}\""), size.clone());
        manner.linked.insert("model.safetensors".into(), linked);
        let result = resolved(manner, cache.path());
        assert_eq!(result.is_ok(), good, "{etag} {size}");
        if let Err(error) = result {
            assert!(
                matches!(error, HubError::Damaged { .. } | HubError::Cut { .. }),
                "{error}"
            );
            let blobs = cache.path().join("hub/models--org--name/blobs");
            assert!(!blobs.join(etag).exists());
        }
    }
    // The ETag of a small file is its git id.
    let cache = tempfile::tempdir().unwrap();
    let other = git_id(b"something else");
    let manner = Manner {
        etag: Some(format!("\"{other}\"")),
        ..model()
    };
    let error = resolved(manner, cache.path()).unwrap_err();
    assert!(matches!(error, HubError::Damaged { .. }), "{error}");
    assert!(
        error.to_string().contains(&git_id(TEXT.as_bytes())),
        "{error}"
    );
    let blobs = cache.path().join("hub/models--org--name/blobs");
    assert!(!blobs.join(&other).exists());

    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    let mut manner = model();
    manner
        .files
        .insert("model.safetensors".into(), pointer.to_vec());
    let cache = tempfile::tempdir().unwrap();
    let error = resolved(manner, cache.path()).unwrap_err().to_string();
    assert!(error.contains("Git LFS pointer"), "{error}");
}

/// No hash tells these from the file, nor a length where a part is missing.
#[test]
fn what_is_not_the_file_by_its_content_is_not_kept() {
    let weights = tensor("a");
    let page = b"<!DOCTYPE html><html>log in</html>";
    for etag in [Some("\"tag-*\"".to_string()), None] {
        for (name, content) in [
            ("config.json", &page[..]),
            ("config.json", br#"{"error": "log in"}"#),
            ("tokenizer.json", &TEXT.as_bytes()[..TEXT.len() - 1]),
            ("model.safetensors", &weights[..weights.len() - 1]),
            ("additional_chat_templates/a.jinja", page),
        ] {
            let cache = tempfile::tempdir().unwrap();
            let mut manner = model();
            (manner.etag, manner.lengths) = (etag.clone(), false);
            manner.files.insert(name.into(), content.to_vec());
            let local = LocalHub::new(manner);
            let hub = hub(&local.endpoint, cache.path());
            let error = hub.resolve(&spec(), &mut |_| {}).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, HubError::Damaged { .. }), "{text}");
            assert!(
                text.contains(name) && text.contains("nothing was kept"),
                "{text}"
            );
            local.change(|manner| manner.files = model().files);
            let found = hub.resolve(&spec(), &mut |_| {}).unwrap();
            assert_eq!(weights_of(&found), weights);
        }
    }
}

#[test]
fn files_longer_than_their_kind_are_refused() {
    let size = "999999999999";
    for name in ["config.json", "tokenizer.json"] {
        let cache = tempfile::tempdir().unwrap();
        let mut manner = model();
        let linked = ("\"a-tag\"".to_string(), size.to_string());
        manner.linked.insert(name.into(), linked);
        let error = resolved(manner, cache.path()).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, HubError::Header { .. }), "{text}");
        for part in [name, size, "X-Linked-Size", "MiB"] {
            assert!(text.contains(part), "{text}");
        }
    }
}

#[test]
fn more_files_than_a_model_has_are_refused() {
    let cache = tempfile::tempdir().unwrap();
    let mut templates = model();
    for at in 0..65 {
        let name = format!("additional_chat_templates/{at}.jinja");
        templates.files.insert(name, b"x".to_vec());
    }
    let error = resolved(templates, cache.path()).unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error}");
    assert!(error.to_string().contains("65 chat templates"), "{error}");

    let names: Vec<String> = (0..10_001)
        .map(|at| format!(r#""{at}":"m-{at}.safetensors""#))
        .collect();
    let index = format!(r#"{{"weight_map":{{{}}}}}"#, names.join(","));
    let shards = files(&[
        ("config.json", TEXT.as_bytes()),
        ("model.safetensors.index.json", index.as_bytes()),
    ]);
    let error = resolved(shards, cache.path()).unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error}");
    assert!(error.to_string().contains("10001 shards"), "{error}");
}

/// Each answer comes in time, and the last one never.
#[test]
fn redirects_share_the_time_of_one_answer() {
    let cache = tempfile::tempdir().unwrap();
    let looping = LocalHub::new(Manner {
        redirect: Some((308, "*".into())),
        late: Some(Duration::from_millis(150)),
        ..model()
    });
    let limit = Duration::from_millis(500);
    let hub = hub(&looping.endpoint, cache.path()).with_timeouts(limit, limit);
    let error = hub.resolve(&spec(), &mut |_| {}).unwrap_err();
    assert!(matches!(error, HubError::Stalled { .. }), "{error}");
    assert!(looping.asked().len() < 8);
}

#[test]
fn a_list_without_end_is_refused() {
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(Manner {
        page: Some(" ".repeat((16 << 20) + 1)),
        ..model()
    });
    let error = hub(&local.endpoint, cache.path())
        .resolve(&spec(), &mut |_| {})
        .unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error}");
    assert!(error.to_string().contains("more than 16 MiB"), "{error}");
}

#[test]
fn what_a_hub_says_is_cut_in_errors() {
    let long = format!("\\u001b[2J{}", "x".repeat(100_000));
    for page in [
        format!(r#"{{"sha":"{long}"}}"#),
        format!(r#"{{"sha":1,"siblings":"{long}"}}"#),
        format!(r#"{{"siblings":"{long}"}}"#),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let manner = Manner {
            page: Some(page),
            ..model()
        };
        let error = resolved(manner, cache.path()).unwrap_err().to_string();
        assert!(error.len() < 1000, "{} bytes", error.len());
        assert!(!error.contains(char::is_control), "{error:?}");
    }
}

#[test]
fn names_from_a_hub_never_leave_the_cache() {
    let index = |shard: &str| {
        format!(
            r#"{{"weight_map":{{"a":"{}"}}}}"#,
            shard.replace('\\', "\\\\")
        )
        .into_bytes()
    };
    let root = tempfile::tempdir().unwrap();
    let absolute = root.path().join("absolute").display().to_string();
    let names = [
        "../../x",
        "../../../../x",
        "..",
        ".",
        absolute.as_str(),
        "a/b",
        "a\\..\\b",
        "x/../../../y",
        "NUL",
        "x.incomplete",
        "x.lock",
    ];
    let mut hostile = Vec::new();
    for name in names {
        let name = name.to_string();
        let quoted = format!("\"{name}\"");
        hostile.push(Manner {
            etag: Some(quoted.clone()),
            ..model()
        });
        hostile.push(Manner {
            commit: Some(name.clone()),
            ..model()
        });
        hostile.push(Manner {
            sha: Some(name.clone()),
            ..model()
        });
        hostile.push(Manner {
            sha: None,
            commit: Some(name.clone()),
            ..model()
        });
        let mut linked = model();
        linked
            .linked
            .insert("config.json".into(), (quoted, "2".into()));
        hostile.push(linked);
        let mut shards = model();
        shards.files.remove("model.safetensors");
        let shard = format!("{name}.safetensors");
        shards
            .files
            .insert("model.safetensors.index.json".into(), index(&shard));
        shards.files.insert(shard, tensor("a"));
        hostile.push(shards);
        let mut template = model();
        template.files.insert(
            format!("additional_chat_templates/{name}/../../../y.jinja"),
            b"x".to_vec(),
        );
        hostile.push(template);
    }
    for (at, manner) in hostile.into_iter().enumerate() {
        let cache = root.path().join(format!("{at}"));
        let _ = resolved(manner, &cache);
        let cache = root.path().join(format!("{at}/hub"));
        let inside: Vec<_> = all_files(&cache);
        let all = all_files(root.path());
        let outside: Vec<_> = all
            .iter()
            .filter(|path| !path.contains("/hub/") && !path.contains("\\hub\\"))
            .collect();
        assert!(outside.is_empty(), "{at}: {outside:?}");
        let allowed = ["blobs", "snapshots", "refs", ".locks", ".no_exist"];
        for path in inside {
            assert!(
                allowed.iter().any(|folder| path.contains(folder)),
                "{at}: {path}"
            );
        }
    }
}

#[test]
fn hostile_headers_are_named() {
    for (header, manner) in [
        (
            "ETag",
            Manner {
                etag: Some("\"../../x\"".into()),
                ..model()
            },
        ),
        (
            "X-Repo-Commit",
            Manner {
                commit: Some("/abs/x".into()),
                ..model()
            },
        ),
        (
            "X-Repo-Commit",
            Manner {
                commit: Some("f".repeat(40)),
                ..model()
            },
        ),
        (
            "Content-Encoding",
            Manner {
                headers: "Content-Encoding: br\r\n".into(),
                lists: false,
                ..model()
            },
        ),
    ] {
        let cache = tempfile::tempdir().unwrap();
        let local = LocalHub::new(manner);
        let error = hub(&local.endpoint, cache.path())
            .resolve(&spec(), &mut |_| {})
            .unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, HubError::Header { .. }), "{text}");
        assert!(
            text.contains(header) && text.contains(&local.endpoint),
            "{text}"
        );
    }
}

#[test]
fn a_hub_that_is_busy_is_asked_again() {
    for status in [429, 500, 502, 503, 504] {
        let cache = tempfile::tempdir().unwrap();
        let busy = Manner {
            status: Some(status),
            failures: Some(2),
            ..model()
        };
        let found = resolved(busy, cache.path()).unwrap();
        assert_eq!(weights_of(&found), tensor("a"));
    }
    let cache = tempfile::tempdir().unwrap();
    let local = LocalHub::new(Manner {
        status: Some(429),
        headers: "Retry-After: 3600\r\n".into(),
        ..model()
    });
    let error = hub(&local.endpoint, cache.path())
        .resolve(&spec(), &mut |_| {})
        .unwrap_err();
    assert!(error.to_string().contains("3600"), "{error}");
    assert_eq!(local.asked().len(), 1);
}

#[test]
fn a_page_in_place_of_the_list_is_shown() {
    let cache = tempfile::tempdir().unwrap();
    let page = "<html>\u{1b}[31mlog in</html>".to_string();
    let local = LocalHub::new(Manner {
        page: Some(page),
        ..model()
    });
    let error = hub(&local.endpoint, cache.path())
        .resolve(&spec(), &mut |_| {})
        .unwrap_err();
    assert!(matches!(error, HubError::Answer { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(&local.endpoint) && text.contains("`<html>"),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'));
}

#[test]
fn an_address_or_token_that_cannot_be_used_is_named() {
    let cache = tempfile::tempdir().unwrap();
    let error = hub("huggingface.co", cache.path())
        .resolve(&spec(), &mut |_| {})
        .unwrap_err();
    assert!(error.to_string().contains("HF_ENDPOINT"), "{error}");
    let hub = hub(NOBODY, cache.path()).with_token(Some("hf secret ä"));
    let error = hub.resolve(&spec(), &mut |_| {}).unwrap_err().to_string();
    assert!(
        error.contains("HF_TOKEN") && !error.contains("secret"),
        "{error}"
    );
    assert!(!format!("{hub:?}").contains("secret"));
}
