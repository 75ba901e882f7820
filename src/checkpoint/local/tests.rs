use std::fs;

use super::*;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const OTHER: &str = "89abcdef0123456789abcdef0123456789abcdef";
const POINTER: &str =
    "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 538090408\n";

/// Fills a folder; the names may have folders in front.
fn fill(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

/// A cache with one model, of which two commits are there and the first is complete.
fn cache() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let model = root.path().join("models--org--my-name");
    let file = |commit: &str, name: &str| format!("snapshots/{commit}/{name}");
    fill(
        &model,
        &[
            ("refs/main", COMMIT),
            ("blobs/abc", "{}"),
            (&file(COMMIT, "config.json"), "{}"),
            (&file(COMMIT, "model.safetensors"), "weights"),
            (&file(OTHER, "config.json"), "{}"),
        ],
    );
    root
}

fn error(path: &Path) -> String {
    describe_folder(path).unwrap_err().to_string()
}

#[test]
fn a_models_folder_is_taken_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(describe_folder(folder.path()), Ok(None));
    fill(folder.path(), &[("config.json", "{}"), ("refs/main", "x")]);
    assert_eq!(describe_folder(folder.path()), Ok(None));
    assert_eq!(describe_folder(&folder.path().join("none")), Ok(None));
    assert_eq!(
        describe_folder(&folder.path().join("config.json")),
        Ok(None)
    );
}

#[test]
fn a_models_cache_stands_for_the_snapshot_of_main() {
    let root = cache();
    let model = root.path().join("models--org--my-name");
    let snapshot = model.join("snapshots").join(COMMIT);
    for given in [
        model.clone(),
        model.join("snapshots"),
        model.join("blobs"),
        model.join("refs"),
        model.join("snapshots/."),
    ] {
        let found = describe_folder(&given).unwrap().unwrap();
        assert_eq!(
            found.path.canonicalize().unwrap(),
            snapshot.canonicalize().unwrap()
        );
        assert_eq!(found.commit, COMMIT);
        assert!(found.note.contains("org/my-name") && found.note.contains("0123456"));
    }
    assert_eq!(describe_folder(&snapshot), Ok(None));
}

#[test]
fn a_cache_without_a_whole_snapshot_of_main_names_what_to_give() {
    let root = cache();
    let model = root.path().join("models--org--my-name");
    fs::write(model.join("refs/main"), format!("{OTHER}\n")).unwrap();
    let text = error(&model);
    for part in [
        "89abcde",
        "lacks model.safetensors",
        COMMIT,
        "apb fetch org/my-name",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    for hostile in ["../../..", "/etc", ""] {
        fs::write(model.join("refs/main"), hostile).unwrap();
        let text = error(&model);
        assert!(
            text.contains("without a commit") && text.contains(COMMIT),
            "{text}"
        );
    }
    fs::remove_dir_all(model.join("snapshots").join(COMMIT)).unwrap();
    fs::remove_file(model.join("refs/main")).unwrap();
    assert!(error(&model.join("snapshots")).contains("apb fetch org/my-name"));
}

#[test]
fn the_cache_of_all_models_lists_them() {
    let root = cache();
    let home = tempfile::tempdir().unwrap();
    fs::rename(root.path(), home.path().join("hub")).unwrap();
    fs::create_dir_all(home.path().join("hub/datasets--org--data/snapshots")).unwrap();
    for given in [home.path().to_path_buf(), home.path().join("hub")] {
        let text = error(&given);
        assert!(text.contains("1 model: org/my-name"), "{text}");
    }
    let text = error(&home.path().join("hub/datasets--org--data"));
    assert!(text.contains("a data set"), "{text}");
}

#[cfg(unix)]
#[test]
fn broken_links_are_named_with_their_targets() {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir().unwrap();
    symlink("../../blobs/abc", folder.path().join("config.json")).unwrap();
    symlink("../../blobs/def", folder.path().join("model.safetensors")).unwrap();
    let text = error(folder.path());
    assert!(text.contains("config.json -> ../../blobs/abc"), "{text}");
    assert!(
        text.contains("model.safetensors -> ../../blobs/def"),
        "{text}"
    );

    // Only weights are broken: the texts can be read, the weights cannot.
    fs::remove_file(folder.path().join("config.json")).unwrap();
    fill(folder.path(), &[("config.json", "{}")]);
    assert_eq!(describe_folder(folder.path()), Ok(None));
    let refused = refuse_weight_placeholders(folder.path());
    assert!(matches!(refused, Err(LocalError::BrokenLinks { .. })));

    // What the model does not need may be broken.
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    fill(folder.path(), &[("model.safetensors", "weights")]);
    symlink("nowhere", folder.path().join("README.md")).unwrap();
    assert_eq!(describe_folder(folder.path()), Ok(None));
    assert_eq!(refuse_weight_placeholders(folder.path()), Ok(()));

    let link = folder.path().join("link");
    symlink("/nowhere/at/all", &link).unwrap();
    assert!(error(&link).contains("link -> /nowhere/at/all"));
}

#[test]
fn pointers_are_named_with_the_sizes_of_their_files() {
    for name in TEXTS {
        let folder = tempfile::tempdir().unwrap();
        fill(folder.path(), &[("config.json", "{}"), (name, POINTER)]);
        let text = error(folder.path());
        assert!(
            text.contains(&format!("{name} (538090408 bytes)")),
            "{text}"
        );
        assert!(
            text.contains("git lfs pull") && text.contains("apb fetch"),
            "{text}"
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let index = r#"{"weight_map":{"a":"m-1.safetensors"}}"#;
    fill(
        folder.path(),
        &[
            ("config.json", "{}"),
            (INDEX_FILE, index),
            ("m-1.safetensors", POINTER),
            ("image.png", POINTER),
        ],
    );
    assert_eq!(describe_folder(folder.path()), Ok(None));
    let text = refuse_weight_placeholders(folder.path())
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("m-1.safetensors (") && text.contains("image.png ("),
        "{text}"
    );
    assert_eq!(missing(folder.path()), ["m-1.safetensors"]);

    // Weights that are not used may be pointers.
    fill(
        folder.path(),
        &[
            ("m-1.safetensors", "weights"),
            ("other.safetensors", POINTER),
        ],
    );
    assert_eq!(refuse_weight_placeholders(folder.path()), Ok(()));

    let file = folder.path().join("m.gguf");
    fs::write(&file, POINTER).unwrap();
    assert!(error(&file).contains("m.gguf (538090408 bytes)"));
    assert!(refuse_weight_placeholders(&file).is_err());
}

#[test]
fn what_a_folder_lacks_is_said() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(missing(folder.path()), ["config.json", "model.safetensors"]);
    let index = r#"{"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}}"#;
    fill(
        folder.path(),
        &[
            ("config.json", "{}"),
            (INDEX_FILE, index),
            ("m-2.safetensors", "x"),
        ],
    );
    assert_eq!(missing(folder.path()), ["m-1.safetensors"]);
    fill(folder.path(), &[("m-1.safetensors", "x")]);
    assert!(missing(folder.path()).is_empty());
}
