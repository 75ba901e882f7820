//! One answer of a hub, by itself: for the fuzz target `hub_answers`.

use std::time::Duration;

use ureq::Body;
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Uri};

use super::address::same_host;
use super::download::check_status;
use super::error::HubError;
use super::http::{Client, Described, Limits, is_redirect};
use super::list::{CONFIG, parse};

/// What was asked for: the configuration of this model, of this hub.
const HUB: &str = "https://hub.example";
const ID: &str = "org/name";

/// What the client takes from an answer, or its error as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What the head says.
    pub head: Result<Head, String>,
    /// What the body says as a list of files: the commit, and the names that may become paths.
    pub list: Result<(Option<String>, Vec<String>), String>,
}

/// The head of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// A file, or a part of one.
    File {
        /// Its commit.
        commit: Option<String>,
        /// The name of its blob in the cache.
        etag: Option<String>,
        /// Its length in bytes.
        size: Option<u64>,
        /// Where the body begins in it.
        start: u64,
    },
    /// The file is elsewhere.
    Redirect {
        /// The address.
        to: String,
        /// Whether the hub's token goes there.
        token: bool,
    },
}

/// Reads an answer, by the functions that the client reads one with: a line with its status, lines `Name: value`, an
/// empty line, and the body. `None` if it is none; a line that cannot be a header is left out.
pub fn fuzz_answer(bytes: &[u8]) -> Option<Answer> {
    let (status, mut body) = line(bytes)?;
    let status = std::str::from_utf8(status).ok()?.trim().parse().ok()?;
    let mut headers = HeaderMap::new();
    loop {
        let (header, rest) = line(body)?;
        body = rest;
        if header.is_empty() {
            break;
        }
        let end = header.iter().position(|&byte| byte == b':')?;
        let (name, value) = (&header[..end], header[end + 1..].trim_ascii());
        if let Ok(name) = HeaderName::from_bytes(name)
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            headers.try_append(name, value).ok()?;
        }
    }
    let second = Duration::from_secs(1);
    let limits = Limits {
        answer: second,
        stall: second,
        body: second,
    };
    let client = Client::new(HUB, None, limits).ok()?;
    let from = client.file_url(ID, "main", CONFIG).parse().ok()?;
    let head = head(&client, &from, status, &headers);
    let list = parse(&client, ID, body);
    Some(Answer {
        head: head.map_err(|error| error.to_string()),
        list: list
            .map(|list| (list.commit, Vec::from_iter(list.names.unwrap_or_default())))
            .map_err(|error| error.to_string()),
    })
}

fn head(client: &Client, from: &Uri, status: u16, headers: &HeaderMap) -> Result<Head, HubError> {
    if is_redirect(status) {
        let to = client.follow(from, headers, CONFIG)?;
        return Ok(Head::Redirect {
            token: same_host(from, &to),
            to: to.to_string(),
        });
    }
    let body = Body::builder().data("");
    let reply = client.reply(status, headers, Described::default(), body, CONFIG)?;
    check_status(&reply, client, ID)?;
    Ok(Head::File {
        commit: reply.commit,
        etag: reply.blob.etag,
        size: reply.blob.size,
        start: reply.start,
    })
}

/// The first line, without its end, and what stands behind it.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|&byte| byte == b'\n')?;
    let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
    Some((line.strip_suffix(b"\r").unwrap_or(line), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn answer(text: &str) -> Answer {
        fuzz_answer(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_file_is_described_by_its_head() {
        let upper = COMMIT.to_uppercase();
        let found = answer(&format!(
            "206\nX-Repo-Commit: {upper}\r\nETag: W/\"{upper}\"\nno header: x\nContent-Range: bytes 5-9/10\n\nx"
        ));
        let expected = Head::File {
            commit: Some(COMMIT.into()),
            etag: Some(COMMIT.into()),
            size: Some(10),
            start: 5,
        };
        assert_eq!(found.head, Ok(expected));
        assert!(found.list.unwrap_err().contains("begins with `x`"));
        for refused in [
            "200\nETag: \"NUL\"\n\n",
            "200\nETag: \"a.lock\"\n\n",
            "200\nX-Repo-Commit: main\n\n",
            "404\n\n",
        ] {
            assert!(answer(refused).head.is_err(), "{refused}");
        }
    }

    #[test]
    fn a_redirect_is_followed_and_the_token_stays_home() {
        let head = |to: &str| answer(&format!("302\nLocation: {to}\n\n")).head;
        for (to, address, token) in [
            ("/x", "https://hub.example/x", true),
            ("https://cdn.example/x?y", "https://cdn.example/x?y", false),
        ] {
            let to_there = Head::Redirect {
                to: address.into(),
                token,
            };
            assert_eq!(head(to), Ok(to_there));
        }
        assert!(head("http://hub.example/x").is_err() && head("").is_err());
    }

    #[test]
    fn a_list_is_read_from_the_body() {
        let names = r#"[{"rfilename":"config.json"},{"rfilename":"../x"}]"#;
        let found = answer(&format!(
            "200\n\n{{\"sha\":\"{COMMIT}\",\"siblings\":{names}}}"
        ));
        let expected = (Some(COMMIT.to_string()), vec!["config.json".to_string()]);
        assert_eq!(found.list, Ok(expected));
    }

    #[test]
    fn what_has_no_head_is_no_answer() {
        for text in [
            "",
            "200",
            "200\n",
            "x\n\n",
            "200\nA: b",
            "200\nA\n\n",
            "99999\n\n",
        ] {
            assert_eq!(fuzz_answer(text.as_bytes()), None, "{text:?}");
        }
    }
}
