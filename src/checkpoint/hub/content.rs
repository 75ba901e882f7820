//! Whether bytes can be the file that their name says: what a login page or half a file is not.
//!
//! A hash says more. Some mirrors give none, and what is in the cache already is not hashed again.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::download::longest;
use super::error::HubError;
use super::names::shown;
use crate::checkpoint::index::INDEX_FILE;
use crate::checkpoint::mapped::MappedFile;
use crate::checkpoint::safetensors::Header;
use crate::checkpoint::small::read_limited;
use crate::text::json;

/// Bytes of a file's beginning that an error shows.
const BEGINNING: usize = 40;

/// How web pages begin, in any case.
const PAGES: [&str; 2] = ["<!doctype html", "<html"];

/// What a file would have to be, and what it is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) expected: String,
    pub(super) found: String,
}

/// The members that tell configurations, tokenizers and indices from other objects, such as the error of a server.
#[derive(Deserialize)]
struct Members {
    model_type: Option<IgnoredAny>,
    model: Option<IgnoredAny>,
    weight_map: Option<IgnoredAny>,
}

/// Why the bytes at `path` cannot be the file `name`, if they cannot.
///
/// # Errors
///
/// The file cannot be read, or is longer than its kind may be.
pub(super) fn fault(name: &str, path: &Path) -> Result<Option<Fault>, HubError> {
    if name.ends_with(".safetensors") {
        let header = Header::parse(MappedFile::open(path)?.bytes());
        return Ok(header.err().map(|error| Fault {
            expected: "a file of safetensors".into(),
            found: format!("something else ({error})"),
        }));
    }
    let bytes = read_limited(path, longest(name)).map_err(HubError::at(path))?;
    let beginning = String::from_utf8_lossy(&bytes[..bytes.len().min(BEGINNING)]);
    let begins = format!("which begins with `{}`", shown(&beginning));
    if !name.ends_with(".json") {
        let start = bytes.trim_ascii_start();
        let is_page = PAGES.iter().any(|page| {
            let start = start.get(..page.len());
            start.is_some_and(|start| start.eq_ignore_ascii_case(page.as_bytes()))
        });
        return Ok(is_page.then(|| Fault {
            expected: "the file".into(),
            found: format!("a web page, {begins}"),
        }));
    }
    let members = std::str::from_utf8(&bytes).map_err(|error| error.to_string());
    let members = members.and_then(|text| {
        serde_json::from_str::<Members>(&json::strict(text)).map_err(|error| error.to_string())
    });
    let (member, has) = match (name, &members) {
        (_, Err(_)) => (None, false),
        ("config.json", Ok(members)) => (Some("model_type"), members.model_type.is_some()),
        ("tokenizer.json", Ok(members)) => (Some("model"), members.model.is_some()),
        (INDEX_FILE, Ok(members)) => (Some("weight_map"), members.weight_map.is_some()),
        _ => (None, true),
    };
    if has {
        return Ok(None);
    }
    Ok(Some(Fault {
        expected: match member {
            Some(member) => format!("JSON with `{member}`"),
            None => "a JSON object".into(),
        },
        found: match members {
            Ok(_) => format!("other JSON, {begins}"),
            Err(error) => format!("something else ({}), {begins}", shown(&error)),
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_its_name_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let found = |name: &str, content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            let fault = fault(name, &path).unwrap();
            fault.map(|fault| format!("{} / {}", fault.expected, fault.found))
        };
        let page = b"\n<!DOCTYPE HTML><title>Log in</title>";
        for (name, content) in [
            ("config.json", &br#"{"model_type": "llama", "a": NaN}"#[..]),
            ("tokenizer.json", b"\xef\xbb\xbf{\"model\": {}}"),
            (INDEX_FILE, br#"{"weight_map": {}}"#),
            ("vocab.json", br#"{"model": 1, "<html>": 2}"#),
            ("merges.txt", b"#version\n< html"),
            ("chat_template.jinja", b""),
        ] {
            assert_eq!(found(name, content), None, "{name}");
            let refused = found(name, page).unwrap();
            assert!(refused.contains("`\\n<!DOCTYPE HTML>"), "{refused}");
            if name.ends_with(".json") {
                let cut = found(name, &content[..content.len() - 1]).unwrap();
                assert!(cut.contains("EOF while parsing"), "{cut}");
            }
        }
        for (name, member) in [
            ("config.json", "JSON with `model_type` / other JSON"),
            ("tokenizer.json", "JSON with `model` / other JSON"),
            (INDEX_FILE, "JSON with `weight_map` / other JSON"),
        ] {
            let refused = found(name, br#"{"error": "log in", "model": null}"#).unwrap();
            assert!(refused.starts_with(member), "{refused}");
        }
        let refused = found("vocab.json", b"[\"a\"]").unwrap();
        assert!(
            refused.starts_with("a JSON object / something else"),
            "{refused}"
        );

        let header = br#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
        let weights = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 8]].concat();
        assert_eq!(found("model.safetensors", &weights), None);
        for wrong in [&weights[..20], &weights[..weights.len() - 1], page] {
            let refused = found("model.safetensors", wrong).unwrap();
            assert!(
                refused.contains("safetensors / something else"),
                "{refused}"
            );
        }
    }
}
