//! Every public function with wrong arguments: none panics, and what cannot be done is refused in words.
//!
//! The functions are those of `public-api.txt`. Each room has a test, which fails where a function of the list
//! that takes arguments was not called.

mod apb;
mod checkpoint;
mod kernels;
mod model;
mod plan;
mod ranks;
mod tasks;
mod text;
#[cfg(feature = "train")]
mod training;

use std::collections::BTreeSet;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Int, Shape, Tensor};
use burn_apb::LanguageModel;

/// The calls of a room, and what was wrong with them.
#[derive(Default)]
struct Calls {
    tried: BTreeSet<&'static str>,
    faults: Vec<String>,
}

impl Calls {
    /// A call that may do anything but panic.
    fn call<T>(&mut self, name: &'static str, call: impl FnOnce() -> T) -> Option<T> {
        self.tried.insert(name);
        match catch_unwind(AssertUnwindSafe(call)) {
            Ok(result) => Some(result),
            Err(panic) => {
                let text = (panic.downcast_ref::<String>().map(String::as_str))
                    .or_else(|| panic.downcast_ref::<&str>().copied());
                let text = text.unwrap_or("no message");
                self.faults.push(format!("{name} panicked: {text}"));
                None
            }
        }
    }

    /// A call that has to be refused, with a sentence.
    fn refused<T, E: Display>(&mut self, name: &'static str, call: impl FnOnce() -> Result<T, E>) {
        match self.call(name, call) {
            Some(Err(error)) if error.to_string().len() < 10 => {
                self.faults.push(format!("{name} says only {error}"));
            }
            Some(Ok(_)) => self.faults.push(format!("{name} was not refused")),
            _ => {}
        }
    }

    /// Those of several parts of a room.
    fn of(parts: &[fn() -> Self]) -> Self {
        let mut all = Self::default();
        for part in parts {
            let Self { tried, faults } = part();
            all.tried.extend(tried);
            all.faults.extend(faults);
        }
        all
    }

    /// Fails unless no call panicked and every function of these modules with an argument was called.
    fn finish(mut self, modules: &[&str], left_out: &[&str]) {
        let list = Path::new(env!("CARGO_MANIFEST_DIR")).join("public-api.txt");
        let list = std::fs::read_to_string(list).expect("the list");
        let functions = list.lines().filter_map(|line| {
            let (kind, rest) = line.split_once(' ')?;
            let (path, arguments) = rest.split_once('(')?;
            let takes_some = !arguments.starts_with(')') && !arguments.starts_with("self)");
            (matches!(kind, "fn" | "function") && takes_some).then_some(path)
        });
        let mut found = 0;
        for path in functions.filter_map(|path| path.strip_prefix("burn_apb::")) {
            let module = path.split("::").next().unwrap_or_default();
            if modules.contains(&module) && !left_out.contains(&path) {
                found += 1;
                if !self.tried.contains(path) {
                    self.faults.push(format!("{path} was not called"));
                }
            }
        }
        assert!(found > 0, "public-api.txt lists no function of {modules:?}");
        assert!(self.faults.is_empty(), "{:#?}", self.faults);
    }
}

fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(path)
}

fn small() -> LanguageModel {
    let folder = fixture("models/llama-gqa");
    LanguageModel::load(folder, &Device::flex()).expect("the small model loads")
}

fn zeros<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(Shape::from(shape), &Device::flex())
}

fn halves<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::zeros(Shape::from(shape), (&Device::flex(), DType::F16))
}

fn ids<const D: usize>(shape: [usize; D], id: i64) -> Tensor<D, Int> {
    Tensor::full(Shape::from(shape), id, (&Device::flex(), DType::I32))
}

/// A folder of the fixtures, to be damaged.
fn copy(path: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(fixture(path)).expect("the fixture") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), folder.path().join(entry.file_name())).expect("copied");
    }
    folder
}
