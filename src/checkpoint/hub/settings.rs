//! Where the hub, its cache and its token are, by the variables of Python's `huggingface_hub`.
//!
//! Precedence and spelling follow its `constants.py`. One thing differs: a variable that is set to
//! nothing counts as not set, because an empty path would put the cache into the current folder.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::address::without_secrets;
use crate::checkpoint::small::read_limited;

/// The hub where none is named.
/// Longest token file that is read, in bytes.
const MAX_TOKEN_LEN: u64 = 4096;

const HUGGING_FACE: &str = "https://huggingface.co";

/// How long the hub may take to answer a question.
const ANSWER: Duration = Duration::from_secs(30);

/// How long a download may stand still.
const STALL: Duration = Duration::from_secs(60);

/// The longest of these limits: a day. Times much longer cannot be added to a clock.
pub(super) const LONGEST: Duration = Duration::from_secs(86_400);

/// A secret: it is never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(String);

impl Token {
    /// A token without the blanks and line ends around it; `None` if nothing is left.
    pub(super) fn clean(text: &str) -> Option<Self> {
        let text = text.replace(['\r', '\n'], "");
        let text = text.trim();
        (!text.is_empty()).then(|| Self(text.to_string()))
    }

    /// The value of the header `Authorization`; `None` if no header may hold the token.
    pub(super) fn header(&self) -> Option<String> {
        let fits = self.0.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| format!("Bearer {}", self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

/// The settings of a hub.
#[derive(Clone, PartialEq)]
pub(super) struct Settings {
    /// `HF_ENDPOINT`, without a slash at its end.
    pub(super) endpoint: String,
    /// The folder of the cache; `None` where there is no home either.
    pub(super) cache: Option<PathBuf>,
    pub(super) token: Option<Token>,
    /// Whether no request may be sent to the hub.
    pub(super) offline: bool,
    /// Whether the cache's snapshots are links.
    pub(super) symlinks: bool,
    /// How long the hub may take to answer: `HF_HUB_ETAG_TIMEOUT`.
    pub(super) answer: Duration,
    /// How long a download may stand still: `HF_HUB_DOWNLOAD_TIMEOUT`.
    pub(super) stall: Duration,
}

impl fmt::Debug for Settings {
    /// Without the password that the address may hold.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("endpoint", &without_secrets(&self.endpoint))
            .field("cache", &self.cache)
            .field("token", &self.token)
            .field("offline", &self.offline)
            .field("symlinks", &self.symlinks)
            .field("answer", &self.answer)
            .field("stall", &self.stall)
            .finish()
    }
}

impl Settings {
    /// The environment of this process.
    pub(super) fn from_env() -> Self {
        Self::read(&|name| std::env::var_os(name), std::env::home_dir())
    }

    /// The environment that `var` gives, with `home` for `~`.
    fn read(var: &dyn Fn(&str) -> Option<OsString>, home: Option<PathBuf>) -> Self {
        let home = home.filter(|home| !home.as_os_str().is_empty());
        let set = |name: &str| var(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let expand = |path: PathBuf| expand(path, home.as_deref(), &text);
        let is_true = |name: &str| text(name).is_some_and(|value| is_true(&value));

        let caches = set("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| home.as_ref().map(|home| home.join(".cache")));
        let hf_home = set("HF_HOME")
            .map(PathBuf::from)
            .or_else(|| caches.map(|caches| caches.join("huggingface")))
            .map(&expand);
        let cache = set("HF_HUB_CACHE")
            .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
            .map(|path| expand(path.into()))
            .or_else(|| hf_home.as_ref().map(|home| home.join("hub")));
        let token_path = set("HF_TOKEN_PATH")
            .map(|path| expand(path.into()))
            .or_else(|| hf_home.map(|home| home.join("token")));

        let token = if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            None
        } else {
            text("HF_TOKEN")
                .or_else(|| text("HUGGING_FACE_HUB_TOKEN"))
                .and_then(|token| Token::clean(&token))
                .or_else(|| {
                    let token = read_limited(&token_path?, MAX_TOKEN_LEN).ok()?;
                    Token::clean(std::str::from_utf8(&token).ok()?)
                })
        };
        let seconds = |name: &str| {
            let seconds = text(name)?.trim().parse().ok()?;
            (seconds > 0).then(|| Duration::from_secs(seconds).min(LONGEST))
        };
        Self {
            endpoint: text("HF_ENDPOINT")
                .map(|endpoint| endpoint.trim().trim_end_matches('/').to_string())
                .filter(|endpoint| !endpoint.is_empty())
                .unwrap_or_else(|| HUGGING_FACE.into()),
            cache,
            token,
            // The first that is set decides, even if it is false.
            offline: text("HF_HUB_OFFLINE")
                .or_else(|| text("TRANSFORMERS_OFFLINE"))
                .is_some_and(|value| self::is_true(&value)),
            symlinks: !is_true("HF_HUB_DISABLE_SYMLINKS"),
            answer: seconds("HF_HUB_ETAG_TIMEOUT").unwrap_or(ANSWER),
            stall: seconds("HF_HUB_DOWNLOAD_TIMEOUT").unwrap_or(STALL),
        }
    }
}

/// Whether a variable's value means yes.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"]
        .iter()
        .any(|yes| value.eq_ignore_ascii_case(yes))
}

/// Replaces `~` at the start and then `$NAME` and `${NAME}`, as Python's `expanduser` and
/// `expandvars` do; unknown names and `~user` stay.
fn expand(path: PathBuf, home: Option<&Path>, var: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let Some(text) = path.to_str() else {
        return path;
    };
    let text = match (text.strip_prefix('~'), home.and_then(Path::to_str)) {
        (Some(rest), Some(home)) if rest.is_empty() || rest.starts_with('/') => {
            format!("{}{rest}", home.trim_end_matches('/'))
        }
        _ => text.to_string(),
    };
    let (mut out, mut rest) = (String::new(), text.as_str());
    while let Some(at) = rest.find('$') {
        let after = &rest[at + 1..];
        let word = |c: char| c.is_alphanumeric() || c == '_';
        let (name, length) = match after
            .strip_prefix('{')
            .and_then(|name| name.split_once('}'))
        {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let end = after.find(|c| !word(c)).unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        out.push_str(&rest[..at]);
        match var(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&rest[at..at + 1 + length]),
        }
        rest = &after[length..];
    }
    out.push_str(rest);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> Settings {
        let var = |name: &str| {
            let found = vars.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Settings::read(&var, Some("/home/me".into()))
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        // Expected values by huggingface_hub 2.4's constants.py with HOME=/home/me.
        let cases: &[(&[(&str, &str)], &str)] = &[
            (&[], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "~/x")], "/home/me/x/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")], "/h/hub"),
            (&[("HF_HOME", "~")], "/home/me/hub"),
            (&[("HF_HOME", "$BASE/hf"), ("BASE", "/b")], "/b/hf/hub"),
            (
                &[("HF_HOME", "/a/${BASE}x/$NONE"), ("BASE", "b")],
                "/a/bx/$NONE/hub",
            ),
            (
                &[("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/old")],
                "/old",
            ),
            (&[("HUGGINGFACE_HUB_CACHE", "~/old")], "/home/me/old"),
            (
                &[
                    ("HF_HUB_CACHE", "~/new"),
                    ("HUGGINGFACE_HUB_CACHE", "/old"),
                    ("HF_HOME", "/h"),
                ],
                "/home/me/new",
            ),
        ];
        for (vars, expected) in cases {
            assert_eq!(settings(vars).cache, Some(expected.into()), "{vars:?}");
        }
        let empty = settings(&[("HF_HUB_CACHE", ""), ("HF_HOME", "")]);
        assert_eq!(empty.cache, settings(&[]).cache);
        assert_eq!(Settings::read(&|_| None, None).cache, None);
    }

    #[test]
    fn odd_dollars_stay() {
        for odd in [
            "/a/$", "/a/${", "/a/${x", "/a/$$", "/a/${}", "~other/a", "/a/~",
        ] {
            assert_eq!(settings(&[("HF_HUB_CACHE", odd)]).cache, Some(odd.into()));
        }
    }

    #[test]
    fn the_token_is_the_one_python_sends() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("token"), " hf_home\r\n").unwrap();
        std::fs::write(folder.path().join("other"), "hf_other\n").unwrap();
        std::fs::write(folder.path().join("blank"), "\n").unwrap();
        let token = |vars: &[(&str, &str)]| {
            let mut all = vec![("HF_HOME", home)];
            all.extend(vars);
            settings(&all).token.and_then(|token| token.header())
        };
        let bearer = |name: &str| Some(format!("Bearer {name}"));
        assert_eq!(token(&[]), bearer("hf_home"));
        assert_eq!(token(&[("HF_TOKEN", " hf_new\n")]), bearer("hf_new"));
        let old = ("HUGGING_FACE_HUB_TOKEN", "hf_old");
        assert_eq!(token(&[old]), bearer("hf_old"));
        assert_eq!(token(&[old, ("HF_TOKEN", "hf_new")]), bearer("hf_new"));
        assert_eq!(token(&[old, ("HF_TOKEN", "  ")]), bearer("hf_home"));
        assert_eq!(
            token(&[("HF_TOKEN_PATH", "$HF_HOME/other")]),
            bearer("hf_other")
        );
        assert_eq!(token(&[("HF_TOKEN_PATH", "$HF_HOME/blank")]), None);
        assert_eq!(token(&[("HF_TOKEN_PATH", "/none")]), None);
        assert_eq!(
            token(&[("HF_HUB_CACHE", "/elsewhere/hub")]),
            bearer("hf_home")
        );
        assert_eq!(token(&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "yes")]), None);
        assert_eq!(
            format!("{:?}", Token::clean("hf_secret")),
            "Some(Token(..))"
        );
    }

    #[test]
    fn offline_is_what_python_takes_for_true() {
        for (vars, expected) in [
            (&[][..], false),
            (&[("HF_HUB_OFFLINE", "1")], true),
            (&[("HF_HUB_OFFLINE", "yes")], true),
            (&[("HF_HUB_OFFLINE", "On")], true),
            (&[("HF_HUB_OFFLINE", "TRUE")], true),
            (&[("HF_HUB_OFFLINE", "0")], false),
            (&[("HF_HUB_OFFLINE", "y")], false),
            (&[("HF_HUB_OFFLINE", " 1")], false),
            (&[("TRANSFORMERS_OFFLINE", "1")], true),
            (
                &[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")],
                false,
            ),
            (
                &[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "1")],
                true,
            ),
        ] {
            assert_eq!(settings(vars).offline, expected, "{vars:?}");
        }
    }

    #[test]
    fn limits_are_a_day_at_most() {
        let limits = |seconds: &str| {
            let names = ["HF_HUB_ETAG_TIMEOUT", "HF_HUB_DOWNLOAD_TIMEOUT"];
            let found = settings(&names.map(|name| (name, seconds)));
            (found.answer, found.stall)
        };
        let day = Duration::from_secs(86_400);
        let minute = Duration::from_secs(60);
        assert_eq!(limits("60"), (minute, minute));
        assert_eq!(limits("86401"), (day, day));
        assert_eq!(limits(&u64::MAX.to_string()), (day, day));
        for none in ["0", "-1", "soon", ""] {
            assert_eq!(limits(none), (ANSWER, STALL), "{none}");
        }
    }

    #[test]
    fn an_address_is_printed_without_its_password() {
        let found = settings(&[("HF_ENDPOINT", "https://me:pw@mirror")]);
        assert_eq!(found.endpoint, "https://me:pw@mirror");
        assert!(!format!("{found:?}").contains("pw"));
    }

    #[test]
    fn the_endpoint_has_no_slash_at_its_end() {
        let endpoint = |value: &str| settings(&[("HF_ENDPOINT", value)]).endpoint;
        assert_eq!(endpoint("https://mirror/"), "https://mirror");
        assert_eq!(
            endpoint("http://mirror:8080/hf/v2//"),
            "http://mirror:8080/hf/v2"
        );
        assert_eq!(endpoint(""), "https://huggingface.co");
    }
}
