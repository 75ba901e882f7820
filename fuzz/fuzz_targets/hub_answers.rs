//! What a hub answers is used or refused: what is used names files of the cache, and sends the token home only.
#![no_main]

use std::path::{Component, Path};

use burn_apb::checkpoint::hub::{Head, fuzz_answer};
use libfuzzer_sys::fuzz_target;

/// The longest text of an error: the hub's own words in it are cut.
const LONGEST: usize = 4000;

/// One name on every system that the cache may lie on.
fn assert_one_file(name: &str) {
    let parts: Vec<Component> = Path::new(name).components().collect();
    assert!(
        matches!(parts.as_slice(), [Component::Normal(_)]),
        "{name:?}"
    );
    assert!(name.len() <= 200, "{name:?}");
    assert!(!name.contains(['/', '\\', ':']), "{name:?}");
    assert!(!name.contains(char::is_control), "{name:?}");
    // Windows takes these for another name, or for a device.
    assert!(!name.ends_with(['.', ' ']), "{name:?}");
    let stem = name.split('.').next().unwrap_or(name);
    let stem = stem.trim_end().to_lowercase();
    let numbered = stem.strip_prefix("com").or(stem.strip_prefix("lpt"));
    let port =
        numbered.is_some_and(|rest| rest.len() == 1 && matches!(rest.as_bytes(), [b'1'..=b'9']));
    let device = matches!(stem.as_str(), "con" | "prn" | "aux" | "nul");
    assert!(!port && !device, "{name:?}");
}

/// A hash of hexadecimal digits.
fn assert_commit(commit: &str) {
    let hex = commit.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(hex && (7..=64).contains(&commit.len()), "{commit:?}");
}

/// Nothing that a terminal would obey, and not the whole of what the hub said.
fn assert_readable(error: &str) {
    assert!(error.len() <= LONGEST, "{} bytes", error.len());
    assert!(!error.contains(char::is_control), "{error:?}");
}

fuzz_target!(|bytes: &[u8]| {
    let Some(answer) = fuzz_answer(bytes) else {
        return;
    };
    match answer.head {
        Ok(Head::File { commit, etag, .. }) => {
            commit.iter().for_each(|commit| assert_commit(commit));
            if let Some(etag) = etag {
                assert_one_file(&etag);
                // The cache's own names beside that of a blob.
                assert!(!etag.starts_with('.'), "{etag:?}");
                assert!(!etag.ends_with(".incomplete"), "{etag:?}");
                assert!(!etag.ends_with(".lock"), "{etag:?}");
            }
        }
        Ok(Head::Redirect { to, token }) => {
            // What was asked for is encrypted, and so is all that follows.
            let rest = to.strip_prefix("https://").expect("an encrypted address");
            let authority = rest.split(['/', '?']).next().unwrap_or(rest);
            let place = authority.rsplit('@').next().unwrap_or(authority);
            let (host, port) = place.split_once(':').unwrap_or((place, ""));
            let usual = port.parse::<u16>().map_or(true, |port| port == 443);
            let home = usual && host.eq_ignore_ascii_case("hub.example");
            assert_eq!(token, home, "{to}");
        }
        Err(error) => assert_readable(&error),
    }
    match answer.list {
        Ok((commit, names)) => {
            commit.iter().for_each(|commit| assert_commit(commit));
            for name in names {
                assert!(name.len() <= 800, "{name:?}");
                name.split('/').for_each(assert_one_file);
            }
        }
        Err(error) => assert_readable(&error),
    }
});
