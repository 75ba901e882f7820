//! Requests to a hub: redirects, the token, time limits, and the headers of an answer.

use std::fmt;
use std::io::{self, Read};
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::{HeaderMap, Uri, header};
use ureq::{Agent, Body, Timeout};

use super::address::{is_web, join, same_host, without_secrets, without_user};
use super::error::HubError;
use super::names::{git_id_of, is_blob, sha256_of, shown, with_lower_hash};
use super::settings::Token;
use crate::checkpoint::local::is_commit;

/// How many redirects are followed for one file.
const MAX_REDIRECTS: usize = 10;

/// The headers in which a hub describes a file; its mirrors often leave them out.
pub(super) const COMMIT: &str = "X-Repo-Commit";
const LINKED_ETAG: &str = "X-Linked-Etag";
const LINKED_SIZE: &str = "X-Linked-Size";
const ERROR_CODE: &str = "X-Error-Code";

/// The characters of a path's component that are encoded.
const COMPONENT: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// How long a hub may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// For each step until the head of an answer is there; the redirects that lead to it share this time.
    pub(super) answer: Duration,
    /// For the next bytes of a body.
    pub(super) stall: Duration,
    /// For a body as a whole, because one that goes on for ever is no answer.
    pub(super) body: Duration,
}

/// One hub, or mirror of one.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    authorization: Option<String>,
    limits: Limits,
}

impl fmt::Debug for Client {
    /// Without the token, and the password that the address may hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoint", &self.endpoint())
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// A file as the hub describes it.
#[derive(Clone)]
pub(super) struct Blob {
    /// Its name in the cache.
    pub(super) etag: Option<String>,
    /// Its length in bytes.
    pub(super) size: Option<u64>,
    /// The header that gives the length.
    pub(super) size_header: &'static str,
    /// Whether the end of a body can be told from a connection that broke off.
    pub(super) framed: bool,
}

impl Blob {
    pub(super) fn sha256(&self) -> Option<&str> {
        self.etag.as_deref().and_then(sha256_of)
    }

    pub(super) fn git_id(&self) -> Option<&str> {
        self.etag.as_deref().and_then(git_id_of)
    }

    /// Whether the bytes can be compared with a hash.
    pub(super) fn hashed(&self) -> bool {
        self.sha256().is_some() || self.git_id().is_some()
    }
}

/// An answer, of which the headers have arrived.
pub(super) struct Reply {
    pub(super) status: u16,
    /// The commit the file belongs to.
    pub(super) commit: Option<String>,
    /// The file.
    pub(super) blob: Blob,
    /// Where the body starts in the file.
    pub(super) start: u64,
    /// The reason of a refusal, by the hub's own code.
    pub(super) code: Option<String>,
    /// Seconds to wait before the next try, as the hub asks for.
    pub(super) retry_after: Option<Duration>,
    body: Body,
}

impl Client {
    /// A client of the hub at `endpoint`.
    pub(super) fn new(
        endpoint: &str,
        token: Option<&Token>,
        limits: Limits,
    ) -> Result<Self, HubError> {
        let endpoint = endpoint.trim_end_matches('/');
        let wrong = || HubError::Endpoint {
            found: shown(&without_secrets(endpoint)),
        };
        let uri: Uri = endpoint.parse().map_err(|_| wrong())?;
        if !is_web(&uri) || uri.query().is_some() {
            return Err(wrong());
        }
        let authorization = token.map(|token| token.header().ok_or(HubError::Token));
        let agent = Agent::config_builder()
            .user_agent(concat!("burn-apb/", env!("CARGO_PKG_VERSION")))
            // A compressed answer would have another length than the file.
            .accept_encoding("identity")
            .http_status_as_error(false)
            // Followed here, because the hub describes a file in the answer that redirects.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_recv_body(Some(limits.body))
            .timeout_per_read(Some(limits.stall))
            .build()
            .into();
        Ok(Self {
            agent,
            endpoint: endpoint.to_string(),
            authorization: authorization.transpose()?,
            limits,
        })
    }

    /// The hub's address, without the password that it may hold.
    pub(super) fn endpoint(&self) -> String {
        without_user(&self.endpoint)
    }

    /// The address of the list of a model's files.
    pub(super) fn list_url(&self, id: &str, revision: &str) -> String {
        let revision = utf8_percent_encode(revision, &COMPONENT);
        format!("{}/api/models/{id}/revision/{revision}", self.endpoint)
    }

    /// The address of a file.
    pub(super) fn file_url(&self, id: &str, revision: &str, name: &str) -> String {
        let revision = utf8_percent_encode(revision, &COMPONENT);
        let name: Vec<String> = name
            .split('/')
            .map(|part| utf8_percent_encode(part, &COMPONENT).to_string())
            .collect();
        format!(
            "{}/{id}/resolve/{revision}/{}",
            self.endpoint,
            name.join("/")
        )
    }

    /// Requests `url`, from byte `from` on, and follows redirects; `item` is what errors name.
    ///
    /// Relative redirects are resolved as in RFC 3986. The token goes to the hub's own host only.
    pub(super) fn get(&self, url: &str, from: u64, item: &str) -> Result<Reply, HubError> {
        let mut uri: Uri = url
            .parse()
            .map_err(|_| self.redirect(item, "a redirect to", url))?;
        let home = uri.clone();
        let mut described = Described::default();
        let started = Instant::now();
        for _ in 0..=MAX_REDIRECTS {
            let left = self.limits.answer.saturating_sub(started.elapsed());
            if left.is_zero() {
                return Err(self.stalled(item, started.elapsed()));
            }
            let request = self.agent.get(&uri).config();
            let mut request = request
                .timeout_resolve(Some(left))
                .timeout_connect(Some(left))
                .timeout_send_request(Some(left))
                .timeout_recv_response(Some(left))
                .build();
            if let Some(authorization) = &self.authorization
                && same_host(&home, &uri)
            {
                request = request.header(header::AUTHORIZATION, authorization);
            }
            if from > 0 {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            let response = request
                .call()
                .map_err(|error| self.failed(&uri, item, error, started))?;
            let (parts, body) = response.into_parts();
            let (status, headers) = (parts.status.as_u16(), parts.headers);
            if is_redirect(status) {
                let next = self.follow(&uri, &headers, item)?;
                described.take(&headers, !same_host(&uri, &next));
                uri = next;
                continue;
            }
            return self.reply(status, &headers, described, body, item);
        }
        Err(HubError::Redirect {
            endpoint: self.endpoint(),
            item: item.to_string(),
            found: format!("more than {MAX_REDIRECTS} redirects"),
        })
    }

    /// Where a redirect from `from` leads: to a web address, and to an encrypted one where `from` is one.
    pub(super) fn follow(
        &self,
        from: &Uri,
        headers: &HeaderMap,
        item: &str,
    ) -> Result<Uri, HubError> {
        let to = text(headers, "Location").unwrap_or_default();
        let next = join(from, to).ok_or_else(|| self.redirect(item, "a redirect to", to))?;
        let encrypted = |uri: &Uri| uri.scheme_str() == Some("https");
        if encrypted(from) && !encrypted(&next) {
            return Err(self.redirect(item, "a redirect without encryption to", to));
        }
        Ok(next)
    }

    /// What the headers of an answer say that is no redirect; `described` holds what those of the redirects before it say.
    pub(super) fn reply(
        &self,
        status: u16,
        headers: &HeaderMap,
        mut described: Described,
        body: Body,
        item: &str,
    ) -> Result<Reply, HubError> {
        described.take(headers, false);
        let wrong = |header, expected: &str, found: &str| {
            self.wrong_header(item, header, expected, format!("`{}`", shown(found)))
        };
        const RANGE: &str = "`bytes FROM-TO/SIZE`";
        // The description of a refusal itself is not used.
        let described = if (200..300).contains(&status) {
            described
        } else {
            Described::default()
        };
        if let Some(found) = described.commit.as_ref().filter(|text| !is_commit(text)) {
            return Err(wrong(COMMIT, "a commit's hash", found));
        }
        let blob = described.blob();
        if let Some((header, found)) = blob.as_ref().filter(|(_, etag)| !is_blob(etag)) {
            return Err(wrong(header, "a plain name", found));
        }
        let encoding = text(headers, "Content-Encoding").unwrap_or("identity");
        if status < 300 && !encoding.eq_ignore_ascii_case("identity") {
            return Err(wrong("Content-Encoding", "the file as it is", encoding));
        }
        let chunked = text(headers, "Transfer-Encoding").is_some_and(|found| {
            let last = found.rsplit(',').next().unwrap_or(found);
            last.trim().eq_ignore_ascii_case("chunked")
        });
        let number = |name| text(headers, name)?.trim().parse::<u64>().ok();
        let (start, total) = match (status, text(headers, "Content-Range")) {
            (206, Some(range)) => {
                let parsed = content_range(range);
                parsed.ok_or_else(|| wrong("Content-Range", RANGE, range))?
            }
            // Most likely the part that was requested, but nothing confirms it.
            (206, None) => return Err(wrong("Content-Range", RANGE, "none beside HTTP 206")),
            _ => (0, number("Content-Length")),
        };
        let (size, size_header) = match described.size {
            Some(size) => (Some(size), LINKED_SIZE),
            None if status == 206 => (total, "Content-Range"),
            None => (total, "Content-Length"),
        };
        Ok(Reply {
            status,
            commit: described.commit.map(|commit| commit.to_ascii_lowercase()),
            blob: Blob {
                etag: blob.map(|(_, etag)| etag),
                size,
                size_header,
                framed: chunked || number("Content-Length").is_some(),
            },
            start,
            code: text(headers, ERROR_CODE).map(shown),
            retry_after: number("Retry-After").map(Duration::from_secs),
            body,
        })
    }

    /// The error for a header of the answer to a request for `item`.
    pub(super) fn wrong_header(
        &self,
        item: &str,
        header: &'static str,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> HubError {
        HubError::Header {
            endpoint: self.endpoint(),
            item: item.to_string(),
            header,
            expected: expected.into(),
            found: found.into(),
        }
    }

    /// The error for a redirect to the address `to`.
    fn redirect(&self, item: &str, found: &str, to: &str) -> HubError {
        HubError::Redirect {
            endpoint: self.endpoint(),
            item: item.to_string(),
            found: format!("{found} `{}`", shown(&without_user(to))),
        }
    }

    /// The error for an answer that takes longer than it may.
    pub(super) fn stalled(&self, item: &str, waited: Duration) -> HubError {
        HubError::Stalled {
            endpoint: self.endpoint(),
            item: item.to_string(),
            waited,
        }
    }

    fn failed(&self, uri: &Uri, item: &str, error: ureq::Error, started: Instant) -> HubError {
        let host = uri.authority().map_or("", |authority| authority.as_str());
        let mut endpoint = self.endpoint();
        if !self.endpoint.contains(host) {
            endpoint += &format!(" (which redirects to {})", shown(&without_user(host)));
        }
        match error {
            ureq::Error::Timeout(_) => HubError::Stalled {
                endpoint,
                item: item.to_string(),
                waited: started.elapsed(),
            },
            error => HubError::Offline {
                endpoint,
                message: shown(&error.to_string()),
            },
        }
    }

    /// The error for a failure while a body is read.
    pub(super) fn broke_off(&self, item: &str, error: &io::Error) -> HubError {
        let inner = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<ureq::Error>());
        let Limits { stall, body, .. } = self.limits;
        match inner {
            Some(ureq::Error::Timeout(Timeout::RecvBody)) => self.stalled(item, body),
            Some(ureq::Error::Timeout(_)) => self.stalled(item, stall),
            _ if error.kind() == io::ErrorKind::TimedOut => self.stalled(item, stall),
            _ => HubError::Offline {
                endpoint: self.endpoint(),
                message: format!("{item} broke off: {}", shown(&error.to_string())),
            },
        }
    }
}

impl Reply {
    /// The body, to be read once.
    pub(super) fn into_reader(self) -> impl Read {
        self.body.into_reader()
    }
}

/// The description of a file in the headers of the answers that lead to it. Where a hub redirects to
/// another host for the bytes, the hub's own description counts.
#[derive(Default)]
pub(super) struct Described {
    commit: Option<String>,
    linked: Option<String>,
    etag: Option<String>,
    size: Option<u64>,
    settled: bool,
}

impl Described {
    /// Takes over what the headers of an answer say; `leaves_host`: it redirects to another host.
    fn take(&mut self, headers: &HeaderMap, leaves_host: bool) {
        if self.settled {
            return;
        }
        let own = |name| {
            text(headers, name)
                .map(str::trim)
                .filter(|value| !value.is_empty())
        };
        let keep = |old: &mut Option<String>, new: Option<&str>| {
            if let Some(new) = new {
                *old = Some(new.to_string());
            }
        };
        keep(&mut self.commit, own(COMMIT));
        keep(&mut self.linked, own(LINKED_ETAG));
        self.etag = own("ETag").map(str::to_string);
        self.size = own(LINKED_SIZE)
            .and_then(|size| size.parse().ok())
            .or(self.size);
        self.settled = leaves_host && (self.commit.is_some() || self.linked.is_some());
    }

    /// The name of the file's blob, with the header it came in.
    fn blob(&self) -> Option<(&'static str, String)> {
        let linked = self.linked.as_ref().map(|etag| (LINKED_ETAG, etag));
        let (header, etag) = linked.or(self.etag.as_ref().map(|etag| ("ETag", etag)))?;
        Some((header, with_lower_hash(&plain_etag(etag)))).filter(|(_, etag)| !etag.is_empty())
    }
}

/// Whether the status says that the answer is elsewhere.
pub(super) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// An ETag without the marks around it.
fn plain_etag(etag: &str) -> String {
    let etag = etag.trim();
    etag.strip_prefix("W/")
        .unwrap_or(etag)
        .trim_matches('"')
        .to_string()
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Start and whole length in a `Content-Range`.
fn content_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (part, total) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
    let start = part.split_once('-')?.0.trim().parse().ok()?;
    match total.trim() {
        "*" => Some((start, None)),
        total => Some((start, Some(total.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_names_start_and_length() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 0-9/*"), Some((0, None)));
        for bad in ["", "bytes", "bytes */10", "bytes x-y/z", "lines 1-2/3"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_etag_loses_its_marks() {
        assert_eq!(plain_etag("W/\"abc\""), "abc");
        assert_eq!(plain_etag("\"abc\""), "abc");
        assert_eq!(plain_etag(" Wabc "), "Wabc");
    }

    fn client(endpoint: &str) -> Result<Client, HubError> {
        let second = Duration::from_secs(1);
        let limits = Limits {
            answer: second,
            stall: second,
            body: second,
        };
        Client::new(endpoint, Token::clean("hf_secret").as_ref(), limits)
    }

    #[test]
    fn only_web_addresses_are_hubs() {
        for bad in [
            "huggingface.co",
            "ftp://hub",
            "ftp://me:pw@hub",
            "http://",
            "http://hub?x",
            "",
            "a b",
        ] {
            let error = client(bad).unwrap_err();
            assert!(matches!(error, HubError::Endpoint { .. }), "{bad}: {error}");
            assert!(!error.to_string().contains("pw"), "{error}");
        }
        let client = client("http://hub/hf/").unwrap();
        assert_eq!(
            client.list_url("org/name", "refs/pr/1"),
            "http://hub/hf/api/models/org/name/revision/refs%2Fpr%2F1"
        );
        assert_eq!(
            client.file_url("org/name", "main", "a/b c%.json"),
            "http://hub/hf/org/name/resolve/main/a/b%20c%25.json"
        );
    }

    #[test]
    fn a_client_is_shown_without_secrets() {
        let shown = format!("{:?}", client("https://me:pw@hub").unwrap());
        assert!(shown.contains("https://hub"), "{shown}");
        assert!(
            !shown.contains("pw") && !shown.contains("secret"),
            "{shown}"
        );
    }

    #[test]
    fn a_redirect_does_not_leave_encryption() {
        let client = client("https://hub").unwrap();
        let follow = |from: &str, to: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LOCATION, to.parse().unwrap());
            client.follow(&from.parse().unwrap(), &headers, "a file")
        };
        for (from, to, expected) in [
            ("https://hub/a", "/b", "https://hub/b"),
            ("https://hub/a", "https://cdn/b", "https://cdn/b"),
            ("http://hub/a", "http://cdn/b", "http://cdn/b"),
            ("http://hub/a", "https://cdn/b", "https://cdn/b"),
        ] {
            assert_eq!(follow(from, to).unwrap().to_string(), expected);
        }
        let error = follow("https://hub/a", "http://me:pw@hub/b").unwrap_err();
        assert!(matches!(error, HubError::Redirect { .. }), "{error}");
        let error = error.to_string();
        assert!(
            error.contains("without encryption to `http://hub/b`"),
            "{error}"
        );
    }
}
