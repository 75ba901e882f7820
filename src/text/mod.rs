//! Text to tokens and back: tokenizers, chat templates, prompts, streaming, and the choice of the next
//! token from logits. Nothing here uses another part of this crate.
//!
//! | file | what it holds |
//! |---|---|
//! | [`tokenizer`] | [`Tokenizer`](tokenizer::Tokenizer): text to token ids and back, from any of the files that models come with |
//! | [`chat_template`] | [`ChatTemplate`](chat_template::ChatTemplate): messages to the text of a prompt |
//! | [`prompt`] | [`PromptTemplate`](prompt::PromptTemplate): document and question to the tokens of a prompt in its four parts |
//! | [`conversation`] | [`Turn`](conversation::Turn): earlier questions and answers before the next question |
//! | [`generation_config`] | [`GenerationConfig`](generation_config::GenerationConfig): the defaults of a model |
//! | [`sampler`] | [`Sampler`](sampler::Sampler): a row of logits to the next token, by [`LogitsProcessor`](sampler::LogitsProcessor)s and a draw |
//! | [`stop`] | [`StopToken`](stop::StopToken) and [`StopTexts`](stop::StopTexts): where an answer ends |
//! | [`text_stream`] | [`TextStream`](text_stream::TextStream): tokens to pieces of text as they come |
//! | `sentences` | where the sentences of a text begin |
//! | `json` | JSON as Python reads it, for the files above |

pub mod chat_template;
pub mod conversation;
pub mod generation_config;
pub(crate) mod json;
pub mod prompt;
pub mod sampler;
pub(crate) mod sentences;
pub mod stop;
pub mod text_stream;
pub mod tokenizer;
