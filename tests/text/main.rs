//! Tokenizers, chat templates and the split of a prompt, against real models' files.

mod chat_template;
#[cfg(feature = "gguf")]
mod gguf_vocabulary;
mod tokenizer_folders;
mod tokenizers;
