//! Tokenizers, chat templates and the split of a prompt, against real models' files.

mod chat_template;
mod tokenizers;
