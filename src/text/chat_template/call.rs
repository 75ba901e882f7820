//! The arguments of a call, matched with a function's parameters as Python does.

use super::fault::{Fault, Result};
use super::value::Value;

/// Functions by name: a list of names, separated by spaces, with the least and the largest number of
/// arguments; `None` for functions that also take arguments by keyword.
pub(super) type Functions = [(&'static str, Option<(usize, usize)>)];

/// The function called `name`.
pub(super) fn find(functions: &Functions, name: &str) -> Option<&'static str> {
    let mut names = functions.iter().flat_map(|(names, _)| names.split(' '));
    names.find(|known| *known == name)
}

/// The functions that Jinja2 and transformers give to every template.
pub(super) const FUNCTIONS: &Functions = &[
    ("cycler", Some((0, usize::MAX))),
    ("range", Some((1, 3))),
    (
        "dict joiner lipsum namespace raise_exception strftime_now",
        None,
    ),
];

/// Jinja2's filters.
pub(super) const FILTERS: &Functions = &[
    (
        "abs capitalize count e escape first forceescape items",
        Some((0, 0)),
    ),
    (
        "last length list lower pprint reverse safe string",
        Some((0, 0)),
    ),
    ("striptags title upper urlencode wordcount", Some((0, 0))),
    (
        "attr batch center d default dictsort filesizeformat float",
        None,
    ),
    (
        "format groupby indent int join map max min random reject",
        None,
    ),
    (
        "rejectattr replace round select selectattr slice sort sum",
        None,
    ),
    ("tojson trim truncate unique urlize wordwrap xmlattr", None),
];

#[derive(Default, Clone)]
pub(super) struct Arguments {
    pub positional: Vec<Value>,
    pub keywords: Vec<(String, Value)>,
}

impl Arguments {
    pub(super) fn keyword(&self, name: &str) -> Option<&Value> {
        let mut keywords = self.keywords.iter();
        keywords.find_map(|(keyword, value)| (keyword == name).then_some(value))
    }

    /// The arguments by the parameters' names; `None` for those not given.
    pub(super) fn bind<const N: usize>(
        &self,
        function: &str,
        names: [&str; N],
    ) -> Result<[Option<Value>; N]> {
        if self.positional.len() > N {
            return Err(Fault::type_error(format!(
                "{function}() takes at most {N} arguments, {} are given",
                self.positional.len()
            )));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(&self.positional) {
            *slot = Some(value.clone());
        }
        for (keyword, value) in &self.keywords {
            let slot = names
                .iter()
                .position(|name| name == keyword)
                .and_then(|at| bound.get_mut(at))
                .ok_or_else(|| unexpected(function, keyword))?;
            if slot.is_some() {
                return Err(Fault::type_error(format!(
                    "{function}() got multiple values for argument '{keyword}'"
                )));
            }
            *slot = Some(value.clone());
        }
        Ok(bound)
    }

    /// The arguments of a function that takes none by keyword.
    pub(super) fn positional(&self, function: &str, min: usize, max: usize) -> Result<&[Value]> {
        if let Some((keyword, _)) = self.keywords.first() {
            return Err(unexpected(function, keyword));
        }
        if !(min..=max).contains(&self.positional.len()) {
            return Err(Fault::type_error(format!(
                "{function}() takes {min} to {max} arguments, {} are given",
                self.positional.len()
            )));
        }
        Ok(&self.positional)
    }

    /// The arguments of one of `functions`, counted; none for one that takes keywords.
    pub(super) fn counted(&self, functions: &Functions, name: &str) -> Result<&[Value]> {
        let mut lists = functions.iter();
        match lists.find(|(names, _)| names.split(' ').any(|known| known == name)) {
            Some((_, Some((min, max)))) => self.positional(name, *min, *max),
            _ => Ok(&[]),
        }
    }
}

pub(super) fn unexpected(function: &str, keyword: &str) -> Fault {
    Fault::type_error(format!(
        "{function}() got an unexpected keyword argument '{keyword}'"
    ))
}

/// An argument that must be there.
pub(super) fn required(argument: &Option<Value>, name: &str) -> Result<Value> {
    argument
        .clone()
        .ok_or_else(|| Fault::type_error(format!("missing argument '{name}'")))
}

/// An argument whose default is also chosen by `None`.
pub(super) fn given(argument: Option<Value>) -> Option<Value> {
    argument.filter(|value| !matches!(value, Value::None))
}

/// A flag: any value by its truth.
pub(super) fn flag(argument: &Option<Value>, default: bool) -> Result<bool> {
    argument.as_ref().map_or(Ok(default), Value::truth)
}

/// An integer.
pub(super) fn whole(argument: &Option<Value>, default: i64) -> Result<i64> {
    argument.as_ref().map_or(Ok(default), Value::to_i64)
}

/// An integer that counts or measures; a negative one is 0.
pub(super) fn size(argument: &Option<Value>, default: i64) -> Result<usize> {
    Ok(usize::try_from(whole(argument, default)?).unwrap_or(0))
}
