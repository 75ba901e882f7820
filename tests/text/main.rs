//! Tokenizers, chat templates and the split of a prompt, against real models' files.

mod chat_template;
#[path = "../common/data.rs"]
mod data;
#[cfg(feature = "gguf")]
mod gguf_vocabulary;
mod tokenizer_folders;
mod tokenizers;
