//! The arguments of a call, matched with a function's parameters as Python does.

use super::fault::{Fault, Result};
use super::value::Value;

#[derive(Default, Clone)]
pub(super) struct Arguments {
    pub positional: Vec<Value>,
    pub keywords: Vec<(String, Value)>,
}

impl Arguments {
    pub(super) fn keyword(&self, name: &str) -> Option<&Value> {
        self.keywords
            .iter()
            .find(|(keyword, _)| keyword == name)
            .map(|(_, value)| value)
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

/// A flag: any value by its truth.
pub(super) fn flag(argument: &Option<Value>, default: bool) -> Result<bool> {
    argument.as_ref().map_or(Ok(default), Value::truth)
}

/// An integer.
pub(super) fn whole(argument: &Option<Value>, default: i64) -> Result<i64> {
    argument.as_ref().map_or(Ok(default), Value::to_i64)
}
