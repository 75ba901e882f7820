//! Messages of a conversation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One message of a conversation: a JSON object as OpenAI's interface has them.
///
/// All keys reach the template, in the order given: `role`, `content` (text, a list of parts, or
/// none), `reasoning_content`, `tool_calls`, `tool_call_id`, `name`, and any other.
///
/// ```
/// use burn_apb::text::chat_template::ChatMessage;
///
/// let call = serde_json::json!({"type": "function", "function": {"name": "now", "arguments": {}}});
/// let message = ChatMessage::new("assistant", "Let me see.").with("tool_calls", vec![call]);
/// let parsed: ChatMessage = serde_json::from_str(r#"{"role": "user", "content": "Hello"}"#)?;
/// assert_eq!(parsed, ChatMessage::new("user", "Hello"));
/// assert_eq!(message.role(), "assistant");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChatMessage {
    fields: Map<String, Value>,
}

impl ChatMessage {
    /// A message of `role` (`system`, `user`, `assistant`, `tool` or another that the template has).
    /// `content` is text, or a list of parts such as `{"type": "text", "text": ".."}`.
    pub fn new(role: impl Into<String>, content: impl Into<Value>) -> Self {
        Self { fields: Map::new() }
            .with("role", role.into())
            .with("content", content)
    }

    /// The same with another key: `tool_calls`, `tool_call_id`, `name`, `reasoning_content` ...
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.fields.insert(key.into(), value.into());
        self
    }

    /// The role; empty where there is none.
    pub fn role(&self) -> &str {
        self.get("role").and_then(Value::as_str).unwrap_or_default()
    }

    /// The content: the text, or the texts of the parts.
    pub fn text(&self) -> String {
        match self.get("content") {
            Some(Value::String(text)) => text.clone(),
            Some(Value::Array(parts)) => parts
                .iter()
                .filter_map(|part| part.get("text").unwrap_or(part).as_str())
                .collect(),
            _ => String::new(),
        }
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.fields.get(key)
    }

    /// All keys with their values.
    pub fn fields(&self) -> &Map<String, Value> {
        &self.fields
    }

    /// The message as transformers hands it to a template: without keys that are null, and with
    /// reasoning under each of the names that templates use.
    pub(super) fn normalized(&self) -> Vec<(&str, &Value)> {
        let given = |key: &str| self.get(key).filter(|value| !value.is_null());
        let reasoning = ["reasoning_content", "thinking", "reasoning"]
            .into_iter()
            .find_map(given);
        let mut fields: Vec<(&str, &Value)> = self
            .fields
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        if let Some(reasoning) = reasoning {
            let at =
                |fields: &[(&str, &Value)], key| fields.iter().position(|field| field.0 == key);
            // `{"thinking": reasoning, **message, "reasoning_content": reasoning}`
            let thinking = match at(&fields, "thinking") {
                Some(at) => fields.remove(at),
                None => ("thinking", reasoning),
            };
            fields.insert(0, thinking);
            if at(&fields, "reasoning_content").is_none() {
                fields.push(("reasoning_content", reasoning));
            }
        }
        fields
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn reasoning_has_all_its_names_and_nothing_is_null() {
        let message: ChatMessage = serde_json::from_value(
            json!({"role": "assistant", "content": null, "reasoning": "r", "x": 1}),
        )
        .unwrap();
        let fields: Vec<String> = message
            .normalized()
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(
            fields.join(" "),
            r#"thinking="r" role="assistant" reasoning="r" x=1 reasoning_content="r""#
        );
        assert!(serde_json::from_str::<ChatMessage>("[]").is_err());
        let parts = ChatMessage::new(
            "user",
            json!([{"type": "text", "text": "a"}, {"type": "image"}, "b"]),
        );
        assert_eq!(parts.text(), "ab");
    }
}
