//! A hub on this machine, honest or not.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const NEXT: &str = "89abcdef0123456789abcdef0123456789abcdef";

/// What the hub does. The default is an honest one without files.
#[derive(Clone)]
pub struct Manner {
    pub files: BTreeMap<String, Vec<u8>>,
    /// The commit that every revision is at, as the list of files says.
    pub sha: Option<String>,
    /// Whether there is a list of files.
    pub lists: bool,
    /// `X-Repo-Commit`.
    pub commit: Option<String>,
    /// `ETag`; in it, `*` becomes the file's name and `#` its git id.
    pub etag: Option<String>,
    /// `X-Linked-Etag` and `X-Linked-Size` by file.
    pub linked: BTreeMap<String, (String, String)>,
    /// Whether parts of a file are given.
    pub ranges: bool,
    /// Whether the length is said.
    pub lengths: bool,
    /// The list as it is sent, whatever the files are.
    pub page: Option<String>,
    /// Where the body of a file ends early.
    pub cut: Option<usize>,
    /// The status of every answer.
    pub status: Option<u16>,
    /// How many answers have that status; later ones are good.
    pub failures: Option<usize>,
    /// Every file is elsewhere: status and address, in which `*` becomes the path.
    pub redirect: Option<(u16, String)>,
    /// Waits before every byte of the list.
    pub slow: Option<Duration>,
    /// Waits before every answer.
    pub late: Option<Duration>,
    /// Says nothing.
    pub silent: bool,
    /// The path that everything is under.
    pub prefix: String,
    pub headers: String,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            files: BTreeMap::new(),
            sha: Some(COMMIT.into()),
            lists: true,
            commit: Some(COMMIT.into()),
            etag: Some("\"#\"".into()),
            linked: BTreeMap::new(),
            ranges: true,
            lengths: true,
            page: None,
            cut: None,
            status: None,
            failures: None,
            redirect: None,
            slow: None,
            late: None,
            silent: false,
            prefix: String::new(),
            headers: String::new(),
        }
    }
}

/// What git calls a file with this content.
pub fn git_id(content: &[u8]) -> String {
    let header = format!("blob {}\0", content.len());
    let hash = sha1_smol::Sha1::from([header.as_bytes(), content].concat());
    hash.digest().to_string()
}

/// A request, as far as the tests ask about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub path: String,
    pub from: Option<usize>,
    pub token: Option<String>,
}

pub struct LocalHub {
    pub endpoint: String,
    manner: Arc<Mutex<Manner>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl LocalHub {
    pub fn new(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (asked, manner) = (Arc::default(), Arc::new(Mutex::new(manner)));
        let (log, behave) = (Arc::clone(&asked), Arc::clone(&manner));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (log, behave) = (Arc::clone(&log), Arc::clone(&behave));
                thread::spawn(move || answer(stream, &behave, &log));
            }
        });
        Self {
            endpoint,
            manner,
            asked,
        }
    }

    pub fn change(&self, change: impl FnOnce(&mut Manner)) {
        change(&mut self.manner.lock().unwrap());
    }

    /// What was asked since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

fn answer(mut stream: TcpStream, manner: &Mutex<Manner>, log: &Mutex<Vec<Asked>>) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let request = lines.next()?.ok()?;
    let path = request.split(' ').nth(1)?.to_string();
    let (mut from, mut token) = (None, None);
    for line in lines
        .map_while(Result::ok)
        .take_while(|line| !line.is_empty())
    {
        let (name, value) = line.split_once(':')?;
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                from = value
                    .trim()
                    .strip_prefix("bytes=")?
                    .split('-')
                    .next()?
                    .parse()
                    .ok()
            }
            "authorization" => token = Some(value.trim().to_string()),
            _ => {}
        }
    }
    let asked = Asked {
        path: path.clone(),
        from,
        token,
    };
    log.lock().unwrap().push(asked);
    let manner = {
        let mut manner = manner.lock().unwrap();
        let now = manner.clone();
        if let Some(left) = manner.failures.as_mut() {
            *left = left.saturating_sub(1);
        }
        now
    };
    thread::sleep(manner.late.unwrap_or_default());
    if manner.silent {
        thread::sleep(Duration::from_secs(60));
        return None;
    }
    let mut send = |status: &str, headers: &str, body: &[u8]| {
        let length = match manner.lengths {
            true => format!("Content-Length: {}\r\n", body.len()),
            false => String::new(),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\n{length}{headers}{}\r\n",
            manner.headers
        );
        let cut = manner.cut.filter(|_| !path.contains("/api/"));
        let sent = &body[..cut.unwrap_or(body.len()).min(body.len())];
        stream.write_all(head.as_bytes()).ok()?;
        match manner.slow.filter(|_| path.contains("/api/")) {
            Some(pause) => sent.chunks(1).try_for_each(|byte| {
                thread::sleep(pause);
                stream.write_all(byte).ok()
            }),
            None => stream.write_all(sent).ok(),
        }
    };
    let Some(path) = path.strip_prefix(&manner.prefix) else {
        return send("404 Not Found", "", b"");
    };
    if let Some(status) = manner.status.filter(|_| manner.failures != Some(0)) {
        return send(&format!("{status} No"), "", b"");
    }
    if path.starts_with("/api/") {
        if !manner.lists {
            return send("404 Not Found", "", b"");
        }
        if let Some(page) = &manner.page {
            return send("200 OK", "", page.as_bytes());
        }
        let names: Vec<_> = manner
            .files
            .keys()
            .map(|name| serde_json::json!({ "rfilename": name }))
            .collect();
        let mut list = serde_json::json!({ "siblings": names });
        if let Some(sha) = &manner.sha {
            list["sha"] = serde_json::json!(sha);
        }
        return send("200 OK", "", list.to_string().as_bytes());
    }
    let name = path.split('/').skip(5).collect::<Vec<_>>().join("/");
    let Some(body) = manner.files.get(&name) else {
        return send("404 Not Found", "X-Error-Code: EntryNotFound\r\n", b"");
    };
    let mut headers = String::new();
    let mut header = |name: &str, value: &Option<String>| {
        if let Some(value) = value {
            headers.push_str(&format!("{name}: {value}\r\n"));
        }
    };
    header("X-Repo-Commit", &manner.commit);
    let etag = manner.etag.as_ref().map(|etag| {
        etag.replace('*', &name.replace('/', "-"))
            .replace('#', &git_id(body))
    });
    header("ETag", &etag);
    let linked = manner.linked.get(&name).cloned().unzip();
    header("X-Linked-Etag", &linked.0);
    header("X-Linked-Size", &linked.1);
    if let Some((status, to)) = &manner.redirect {
        header("Location", &Some(to.replace('*', path)));
        return send(&format!("{status} Moved"), &headers, b"");
    }
    match from.filter(|_| manner.ranges) {
        Some(from) if from >= body.len() => send("416 Range Not Satisfiable", &headers, b""),
        Some(from) => {
            let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
            header("Content-Range", &Some(range));
            send("206 Partial Content", &headers, &body[from..])
        }
        None => send("200 OK", &headers, body),
    }
}
