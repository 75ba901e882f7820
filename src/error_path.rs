//! The file or folder that an error is about.

use std::error::Error;
use std::path::Path;

use crate::ModelError;
use crate::apb::compressor::CompressorError;
#[cfg(feature = "pytorch")]
use crate::apb::heads::ConvertHeadsError;
use crate::apb::heads::HeadsError;
use crate::apb::{AnswerError, SavedError, SessionError};
#[cfg(any(feature = "gguf", feature = "hub"))]
use crate::checkpoint::FolderError;
#[cfg(feature = "hub")]
use crate::checkpoint::hub::HubError;
use crate::checkpoint::{ConfigError, FileError, LocalError, Mismatch, SourceError, WeightsError};
#[cfg(feature = "gguf")]
use crate::checkpoint::{ConvertError, QuantizeError};
use crate::eval::AgreementError;
use crate::text::chat_template::ChatTemplateError;
use crate::text::generation_config::{GenerationConfigError, UnusableValue};
use crate::text::prompt::PromptError;
use crate::text::tokenizer::TokenizerError;
#[cfg(feature = "train")]
use crate::training::data::DataError;
#[cfg(feature = "train")]
use crate::training::{CollectError, TrainError};

/// The file or folder that an error of this crate is about: its own, or that of the first of its sources that has one.
///
/// ```
/// use std::path::Path;
/// use burn_apb::checkpoint::ModelSource;
///
/// let error = ModelSource::open("nowhere").unwrap_err();
/// assert_eq!(burn_apb::error_path(&error), Some(Path::new("nowhere")));
/// ```
pub fn error_path<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Path> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(path) = own_path(error) {
            return Some(path);
        }
        next = error.source();
    }
    None
}

/// An error that may be about a file or folder.
trait AboutPath {
    fn path(&self) -> Option<&Path>;
}

impl AboutPath for FileError {
    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

impl AboutPath for Mismatch {
    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

impl AboutPath for UnusableValue {
    fn path(&self) -> Option<&Path> {
        self.file.as_deref()
    }
}

/// Of each error: the variants that hold a path, with its field; after the semicolon those that hold another such error.
macro_rules! about_paths {
    ($($(#[$of:meta])* $error:ident {
        $($(#[$if:meta])* $variant:ident { $field:ident })*;
        $($(#[$if_inner:meta])* $inner:ident)*
    })*) => {
        $($(#[$of])*
        impl AboutPath for $error {
            // A variant that comes later may be without a path.
            #[allow(unreachable_patterns)]
            fn path(&self) -> Option<&Path> {
                match self {
                    $($(#[$if])* Self::$variant { $field, .. } => Some($field),)*
                    $($(#[$if_inner])* Self::$inner(error) => error.path(),)*
                    _ => None,
                }
            }
        })*

        fn own_path<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Path> {
            if let Some(error) = error.downcast_ref::<FileError>() {
                return error.path();
            }
            $($(#[$of])*
            if let Some(error) = error.downcast_ref::<$error>() {
                return error.path();
            })*
            None
        }
    };
}

about_paths! {
    #[cfg(any(feature = "gguf", feature = "hub"))]
    FolderError { InTheWay { path }; Io }
    LocalError { Cache { path } BrokenLinks { path } Pointers { path }; }
    WeightsError {
        NotFound { path } Open { path } NotAFile { path } NoWeights { path } UnknownFormat { path } Header { path }
        Index { path } ShardMissing { index } ShardDisagrees { index } NoSuchTensor { path } StoredType { path }
        NotFinite { path } Quantized { path } Read { path }
        #[cfg(feature = "gguf")] Gguf { path }
        #[cfg(feature = "gguf")] GgufPartMissing { path }
        #[cfg(feature = "gguf")] SeveralGguf { path }
        #[cfg(not(feature = "gguf"))] NoGguf { path };
        Local Mismatch
    }
    ConfigError { Read { path }; }
    SourceError {
        NotAModel { path } NotAFolder { path } NoTokenizer { path } TooLarge { path } NotUtf8 { path } Io { path }
        Tokenizer { path };
        Local Config Weights
    }
    TokenizerError { File { path }; }
    ChatTemplateError { File { path }; }
    GenerationConfigError { File { path }; Unusable }
    PromptError { ; Template Tokenizer }
    ModelError { ; Source Config Weights Tokenizer ChatTemplate GenerationConfig Prompt }
    #[cfg(feature = "gguf")]
    ConvertError { NotGguf { path }; Weights Folder }
    #[cfg(feature = "gguf")]
    QuantizeError {
        Generation { path } ChatTemplate { path } InTheWay { path } Gguf { path } NotFinite { path } TooLarge { path };
        Source Weights File
    }
    #[cfg(feature = "hub")]
    HubError {
        Locked { path } NotCached { path } Io { path } Unreadable { path };
        Folder #[cfg(feature = "gguf")] Convert Weights
    }
    HeadsError {
        NotFound { path } NoHeadsFile { path } Pytorch { path } NotSafetensors { path } Format { path }
        Unexpected { path } Fault { path } StoredType { path } Width { path } LabelScale { path } OtherModel { path }
        OtherShape { path };
        Model Weights
        #[cfg(feature = "pytorch")] Convert
        #[cfg(feature = "pytorch")] Temporary
    }
    #[cfg(feature = "pytorch")]
    ConvertHeadsError {
        NotFound { path } NoWeights { path } UnknownFormat { path } Pickle { path } Pytorch { path } Claim { path }
        Shards { path } Fault { path } LabelScale { path } StoredType { path } OutIsFolder { path };
        Weights Write
    }
    CompressorError { ; Heads }
    SavedError {
        Exists { path } NotASession { path } Format { path } Missing { path } Mixed { path } OtherModel { path }
        OtherPlan { path } Damaged { path };
        Write Read
    }
    SessionError { ; Compressor }
    AnswerError { ; Model Session Text Compressor Saved }
    AgreementError { ; Session }
    #[cfg(feature = "train")]
    DataError { Read { path } NotAFile { path } Refused { path } Empty { path } Changed { path }; }
    #[cfg(feature = "train")]
    CollectError { Refused { path }; Data }
    #[cfg(feature = "train")]
    TrainError { Scale { path } OtherModel { folder } UnknownModel { path } Path { path }; File }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn the_path_is_found_through_errors_that_hold_it() {
        let path = || Path::new("a/b").to_path_buf();
        let file = || FileError {
            path: path(),
            source: io::ErrorKind::NotFound.into(),
        };
        let heads = HeadsError::NotFound { path: path() };
        let index = WeightsError::ShardMissing {
            index: path(),
            shards: Vec::new(),
        };
        let value = UnusableValue {
            file: Some(path()),
            name: "top_k",
            expected: "more".into(),
            found: "0".into(),
        };
        let session = SessionError::from(CompressorError::from(heads));
        let errors: [Box<dyn Error>; 5] = [
            Box::new(file()),
            Box::new(AnswerError::from(session)),
            Box::new(ModelError::from(SourceError::from(index))),
            Box::new(ModelError::from(GenerationConfigError::from(value))),
            Box::new(SavedError::from(file())),
        ];
        for error in &errors {
            assert_eq!(error_path(&**error), Some(Path::new("a/b")), "{error}");
        }
        let nowhere: [Box<dyn Error>; 2] = [
            Box::new(io::Error::from(io::ErrorKind::NotFound)),
            Box::new(SessionError::NoDocument),
        ];
        for error in &nowhere {
            assert_eq!(error_path(&**error), None, "{error}");
        }
    }
}
