//! Web addresses: redirects, the token's host, addresses in messages.

use ureq::http::Uri;

pub(super) fn is_web(uri: &Uri) -> bool {
    matches!(uri.scheme_str(), Some("http" | "https"))
        && uri.host().is_some_and(|host| !host.is_empty())
}

/// Whether a secret for `home` may go to `uri`: the same host and port, or the same host once it
/// asks for encryption; never back.
pub(super) fn same_host(home: &Uri, uri: &Uri) -> bool {
    let same = |a: &Uri, b: &Uri| match (a.host(), b.host()) {
        (Some(a), Some(b)) => a.eq_ignore_ascii_case(b),
        _ => false,
    };
    let port = |uri: &Uri| {
        let usual = if uri.scheme_str() == Some("https") {
            443
        } else {
            80
        };
        uri.port_u16().unwrap_or(usual)
    };
    if !same(home, uri) {
        return false;
    }
    match (home.scheme_str(), uri.scheme_str()) {
        (Some("http"), Some("https")) => {
            port(home) == port(uri) || (port(home), port(uri)) == (80, 443)
        }
        (home_scheme, scheme) => home_scheme == scheme && port(home) == port(uri),
    }
}

/// Where a redirect from `base` leads; `None` if not to a web address.
pub(super) fn join(base: &Uri, to: &str) -> Option<Uri> {
    let to = to.trim().split('#').next()?;
    if to.is_empty() {
        return None;
    }
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let absolute = if has_scheme(to) {
        to.to_string()
    } else if let Some(rest) = to.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if to.starts_with('/') {
        format!("{scheme}://{authority}{to}")
    } else if to.starts_with('?') {
        format!("{scheme}://{authority}{}{to}", base.path())
    } else {
        let folder = base
            .path()
            .rsplit_once('/')
            .map_or("", |(folder, _)| folder);
        let (path, query) = to.split_at(to.find('?').unwrap_or(to.len()));
        format!(
            "{scheme}://{authority}{}{query}",
            without_dots(&format!("{folder}/{path}"))
        )
    };
    let uri: Uri = absolute.parse().ok()?;
    is_web(&uri).then_some(uri)
}

fn has_scheme(address: &str) -> bool {
    let Some((scheme, _)) = address.split_once(':') else {
        return false;
    };
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// A path with its `.` and `..` taken out.
fn without_dots(path: &str) -> String {
    let (mut kept, mut folder): (Vec<&str>, bool) = (Vec::new(), false);
    for part in path.split('/').skip(1) {
        folder = matches!(part, "." | ".." | "");
        match part {
            "." => {}
            ".." => drop(kept.pop()),
            part => kept.push(part),
        }
    }
    let end = if folder && kept.last().is_some_and(|last| !last.is_empty()) {
        "/"
    } else {
        ""
    };
    format!("/{}{end}", kept.join("/"))
}

/// An address without name and password, and without its query, which may hold a signature.
pub(super) fn without_user(address: &str) -> String {
    let address = address.split('?').next().unwrap_or(address);
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (format!("{scheme}://"), rest),
        None => (String::new(), address),
    };
    let end = rest.find('/').unwrap_or(rest.len());
    let host = rest[..end].rsplit('@').next().unwrap_or(&rest[..end]);
    format!("{scheme}{host}{}", &rest[end..])
}

/// A text that is no address, without what may be a name and password or a signature in it.
pub(super) fn without_secrets(text: &str) -> String {
    let (user, rest) = match text.rsplit_once('@') {
        Some((_, rest)) => ("..@", rest),
        None => ("", text),
    };
    match rest.split_once('?') {
        Some((rest, _)) => format!("{user}{rest}?.."),
        None => format!("{user}{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_is_relative_to_where_it_stands() {
        let base: Uri = "http://hub:8/a/b/c?x=1".parse().unwrap();
        for (to, expected) in [
            ("https://cdn/x?sig=1", "https://cdn/x?sig=1"),
            ("//cdn/x", "http://cdn/x"),
            ("/x/y", "http://hub:8/x/y"),
            ("d", "http://hub:8/a/b/d"),
            ("./d?y", "http://hub:8/a/b/d?y"),
            ("../../../d", "http://hub:8/d"),
            ("?z=2", "http://hub:8/a/b/c?z=2"),
            ("/x#part", "http://hub:8/x"),
            ("d/e:f", "http://hub:8/a/b/d/e:f"),
            ("..", "http://hub:8/a/"),
        ] {
            assert_eq!(join(&base, to).unwrap().to_string(), expected, "{to}");
        }
        for bad in [
            "",
            "file:///etc/passwd",
            "ftp://x/y",
            "javascript:1",
            "http://",
            "http://a b/",
        ] {
            assert_eq!(join(&base, bad), None, "{bad}");
        }
    }

    #[test]
    fn the_token_stays_with_its_host() {
        let home: Uri = "http://hub/a".parse().unwrap();
        let secure: Uri = "https://hub/a".parse().unwrap();
        let goes = |home: &Uri, to: &str| same_host(home, &to.parse().unwrap());
        assert!(goes(&home, "http://hub/b") && goes(&home, "http://HUB:80/b"));
        assert!(goes(&home, "https://hub/b") && goes(&secure, "https://hub:443/b"));
        for other in [
            "http://hub:81/a",
            "http://other/a",
            "http://hub.evil/a",
            "https://hub:81/a",
        ] {
            assert!(!goes(&home, other), "{other}");
        }
        assert!(!goes(&secure, "http://hub/a"));
    }

    #[test]
    fn an_address_is_shown_without_secrets() {
        assert_eq!(without_user("https://me:pw@hub/a?sig=x"), "https://hub/a");
        assert_eq!(without_user("https://hub/a@b"), "https://hub/a@b");
        for (text, expected) in [
            ("huggingface.co", "huggingface.co"),
            ("ftp://me:pw@hub/a", "..@hub/a"),
            ("http://me:p/w@hub", "..@hub"),
            ("me:p?w@hub", "..@hub"),
            ("http://hub?sig=x", "http://hub?.."),
        ] {
            assert_eq!(without_secrets(text), expected);
        }
    }
}
