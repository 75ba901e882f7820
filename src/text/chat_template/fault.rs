//! Why a running template stops. Python has an exception class for each kind, and filters catch some.

/// The exception classes that matter to Jinja2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `TypeError`.
    Type,
    /// `ValueError`.
    Value,
    /// `KeyError` and `IndexError`.
    Lookup,
    /// `OverflowError` and `ZeroDivisionError`.
    Arithmetic,
    /// An undefined value was used.
    Undefined,
    /// The sandbox forbids it.
    Security,
    /// `TemplateRuntimeError`, and all others.
    Runtime,
    /// The template called `raise_exception`.
    Raised,
    /// The [`Budget`](super::limits::Budget) is used up; with the name of what was limited.
    Limit(&'static str),
}

/// An exception, with the line of the template that it came from.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub kind: Kind,
    pub message: String,
    /// From 1; 0 where it is unknown yet.
    pub line: usize,
}

pub(super) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    pub(super) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            line: 0,
        }
    }

    pub(super) fn type_error(message: impl Into<String>) -> Self {
        Self::new(Kind::Type, message)
    }

    pub(super) fn value_error(message: impl Into<String>) -> Self {
        Self::new(Kind::Value, message)
    }

    pub(super) fn runtime(message: impl Into<String>) -> Self {
        Self::new(Kind::Runtime, message)
    }

    pub(super) fn undefined(what: &str) -> Self {
        Self::new(Kind::Undefined, format!("{what} is undefined"))
    }

    pub(super) fn limit(what: &'static str) -> Self {
        Self::new(Kind::Limit(what), what)
    }

    /// The same, with the line where there is none yet.
    pub(super) fn at(mut self, line: usize) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}
