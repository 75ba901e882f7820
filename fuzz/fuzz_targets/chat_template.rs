//! A chat template is rendered or refused, in bounded time and memory.
#![no_main]

use burn_apb::text::chat_template::{ChatMessage, ChatTemplate, RenderOptions};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|source: &str| {
    if let Ok(template) = ChatTemplate::parse(source) {
        let messages = [
            ChatMessage::new("system", "Be brief."),
            ChatMessage::new("user", "Why is the sky blue?"),
        ];
        let _ = template.render(&messages, &RenderOptions::default());
    }
});
