//! Renders chat templates: reads one JSON object a line, and answers each with one line.
//!
//! In: `source`, `messages`, and where wanted `special_tokens` (by name), `tools`, `documents`,
//! `variables`, `add_generation_prompt`, `now` (seconds since 1970) and `utc_offset` (seconds).
//! Out: `{"text": ..}` or `{"error": ..}`. `scripts/compare-templates` runs it.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{BufRead, Write};
use std::time::{Duration, UNIX_EPOCH};

use burn_apb::text::chat_template::{
    ChatMessage, ChatTemplate, ChatTemplateError, RenderOptions, TemplateValue,
};

#[derive(serde::Deserialize)]
struct Request {
    source: String,
    messages: Vec<ChatMessage>,
    #[serde(default)]
    special_tokens: BTreeMap<String, String>,
    tools: Option<Vec<serde_json::Value>>,
    documents: Option<Vec<serde_json::Value>>,
    #[serde(default)]
    add_generation_prompt: bool,
    now: Option<u64>,
    utc_offset: Option<i32>,
}

fn render(line: &str, request: Request) -> Result<String, ChatTemplateError> {
    let mut template = ChatTemplate::parse(&request.source)?;
    for (name, token) in request.special_tokens {
        template = template.with_special_token(name, token);
    }
    // Not by way of `serde_json`, which would round integers of more than 64 bits.
    let mut fields = line
        .parse::<TemplateValue>()?
        .into_entries()
        .unwrap_or_default();
    let variables = fields
        .remove("variables")
        .and_then(TemplateValue::into_entries);
    let options = RenderOptions {
        add_generation_prompt: request.add_generation_prompt,
        tools: request.tools,
        documents: request.documents,
        variables: variables.unwrap_or_default(),
        now: request
            .now
            .map(|seconds| UNIX_EPOCH + Duration::from_secs(seconds)),
        utc_offset: request.utc_offset,
    };
    template.render(&request.messages, &options)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let answer = match render(&line, serde_json::from_str(&line)?) {
            Ok(text) => serde_json::json!({ "text": text }),
            Err(error) => serde_json::json!({ "error": error.to_string() }),
        };
        writeln!(out, "{answer}")?;
    }
    Ok(())
}
