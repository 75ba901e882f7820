//! The parts of a Markdown text that the tests read.

/// A fenced block.
pub struct Fence {
    /// What stands behind the opening backquotes.
    pub info: String,
    /// The line of the opening, from 1.
    pub line: usize,
    pub body: String,
}

/// The fenced blocks of a text.
///
/// # Panics
///
/// When the last block has no end.
pub fn fences(text: &str) -> Vec<Fence> {
    let mut found = Vec::new();
    let mut open: Option<Fence> = None;
    for (index, line) in text.lines().enumerate() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(info)) => {
                open = Some(Fence {
                    info: info.trim().into(),
                    line: index + 1,
                    body: String::new(),
                });
            }
            (Some(_), Some(_)) => found.extend(open.take()),
            (Some(fence), None) => {
                fence.body.push_str(line);
                fence.body.push('\n');
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a fence without an end");
    found
}

/// The commands of a shell block: its lines, continued ones joined, without blank lines and comments.
pub fn commands(body: &str) -> Vec<String> {
    let joined = body.replace("\\\n", " ");
    let lines = joined.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// Lines outside fenced blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// The targets of links and pictures within the repository.
pub fn links(text: &str) -> Vec<String> {
    let parts = prose(text).flat_map(|line| line.split("](").skip(1));
    parts
        .filter_map(|part| part.split_once(')').map(|(target, _)| target))
        .filter(|target| !target.contains("://") && !target.contains(' '))
        .map(str::to_owned)
        .collect()
}

/// The anchors that GitHub makes of a text's headings.
pub fn anchors(text: &str) -> Vec<String> {
    prose(text)
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let heading = line.trim_start_matches('#').trim().to_lowercase();
            heading
                .chars()
                .filter(|c| c.is_alphanumeric() || *c == '-' || *c == ' ')
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        })
        .collect()
}

#[test]
fn parts_are_found() {
    let text = "# A title, first\n[a](b.md#c) and [d](https://e.f)\n```sh no-run: g\napb h \\\n  --i\n\n# j\n```\n";
    let found = fences(text);
    assert_eq!(
        (found[0].info.as_str(), found[0].line, found.len()),
        ("sh no-run: g", 3, 1)
    );
    assert_eq!(commands(&found[0].body), ["apb h    --i"]);
    assert_eq!(links(text), ["b.md#c"]);
    assert_eq!(anchors(text), ["a-title-first"]);
}
