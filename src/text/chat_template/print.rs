//! `str` and `repr`: how Python writes values out.

use super::characters::is_printable;
use super::fault::{Fault, Result};
use super::limits::{Budget, MAX_INTEGER_BITS, MAX_NESTING};
use super::value::{Value, View};
use num_bigint::BigInt;

/// `str(value)`.
pub(super) fn text(value: &Value, budget: &Budget) -> Result<String> {
    match value {
        Value::Undefined(_) | Value::Forbidden(_) => Ok(String::new()),
        Value::Str(text) | Value::Markup(text) => written(budget, |writer| writer.push(text)),
        _ => repr(value, budget),
    }
}

/// `repr(value)`.
pub(super) fn repr(value: &Value, budget: &Budget) -> Result<String> {
    written(budget, |writer| writer.repr(value, 0))
}

/// `pprint.pformat(value)` on one line: `repr` with sorted keys.
pub(super) fn pretty(value: &Value, budget: &Budget) -> Result<String> {
    written(budget, |writer| {
        writer.sorted = true;
        writer.repr(value, 0)
    })
}

/// What `write` writes, charged to the budget.
pub(super) fn written<'b>(
    budget: &'b Budget,
    write: impl FnOnce(&mut Writer<'b>) -> Result<()>,
) -> Result<String> {
    let mut writer = Writer {
        out: String::new(),
        budget,
        sorted: false,
    };
    write(&mut writer)?;
    budget.bytes(writer.out.len())?;
    Ok(writer.out)
}

/// Writes up to a fixed number of bytes, so that no value can be spelled out without end.
pub(super) struct Writer<'b> {
    out: String,
    pub budget: &'b Budget,
    /// Whether the entries of dictionaries are sorted by their keys.
    sorted: bool,
}

impl Writer<'_> {
    pub(super) fn push(&mut self, text: &str) -> Result<()> {
        if self.out.len() + text.len() > self.budget.value_bytes() {
            return Err(Fault::limit("the size of a value"));
        }
        self.out.push_str(text);
        Ok(())
    }

    fn repr(&mut self, value: &Value, depth: u16) -> Result<()> {
        self.enter(depth)?;
        match value {
            Value::Undefined(_) | Value::Forbidden(_) => self.push("Undefined"),
            Value::None => self.push("None"),
            Value::Bool(true) => self.push("True"),
            Value::Bool(false) => self.push("False"),
            Value::Int(value) => self.push(&integer(value)?),
            Value::Float(value) => self.push(&float(*value)),
            Value::Str(text) => self.quoted(text),
            Value::Markup(text) => {
                self.push("Markup(")?;
                self.quoted(text)?;
                self.push(")")
            }
            Value::List(seq) => {
                self.push("[")?;
                self.items(seq.items.iter(), depth)?;
                self.push("]")
            }
            Value::Tuple(seq) => {
                self.push("(")?;
                self.items(seq.items.iter(), depth)?;
                self.push(if seq.items.len() == 1 { ",)" } else { ")" })
            }
            Value::Dict(dict) => {
                self.push("{")?;
                self.entries(dict.iter(), depth)?;
                self.push("}")
            }
            Value::View(view, dict) => {
                self.push(value.type_name())?;
                self.push("([")?;
                match view {
                    View::Keys => self.items(dict.keys(), depth)?,
                    View::Values => self.items(dict.values(), depth)?,
                    View::Items => {
                        for (index, (key, value)) in dict.iter().enumerate() {
                            self.push(if index > 0 { ", (" } else { "(" })?;
                            self.items([key, value].into_iter(), depth)?;
                            self.push(")")?;
                        }
                    }
                }
                self.push("])")
            }
            Value::Range(range) => {
                let stop = range.at(range.length);
                let step = range.step;
                self.push(&match step {
                    1 => format!("range({}, {stop})", range.start),
                    _ => format!("range({}, {stop}, {step})", range.start),
                })
            }
            Value::Namespace(namespace) => {
                self.push("<Namespace {")?;
                let attributes = namespace
                    .attributes
                    .try_borrow()
                    .map_err(|_| Fault::limit("the nesting of values"))?;
                self.entries(attributes.iter(), depth)?;
                self.push("}>")
            }
            Value::Loop(state) => {
                let length = state.index0.get()
                    + 1
                    + state.source.borrow().len()
                    + state.ahead.borrow().len();
                let index = state.index0.get() + 1;
                self.push(&format!("<LoopContext {index}/{length}>"))
            }
            Value::Function("lipsum") => self.push("<function generate_lorem_ipsum>"),
            // Python prints an address here, which means nothing to a model.
            _ => self.push(&format!("<{} object>", value.type_name())),
        }
    }

    fn items<'v>(&mut self, items: impl Iterator<Item = &'v Value>, depth: u16) -> Result<()> {
        for (index, item) in items.enumerate() {
            if index > 0 {
                self.push(", ")?;
            }
            self.repr(item, depth + 1)?;
        }
        Ok(())
    }

    fn entries<'v>(
        &mut self,
        entries: impl Iterator<Item = (&'v Value, &'v Value)>,
        depth: u16,
    ) -> Result<()> {
        let mut entries: Vec<_> = entries.collect();
        if self.sorted && entries.iter().all(|(key, _)| key.as_str().is_some()) {
            entries.sort_by(|a, b| a.0.as_str().cmp(&b.0.as_str()));
        }
        for (index, (key, value)) in entries.into_iter().enumerate() {
            if index > 0 {
                self.push(", ")?;
            }
            self.repr(key, depth + 1)?;
            self.push(": ")?;
            self.repr(value, depth + 1)?;
        }
        Ok(())
    }

    fn quoted(&mut self, text: &str) -> Result<()> {
        let quote = match text.contains('\'') && !text.contains('"') {
            true => '"',
            false => '\'',
        };
        let mut out = String::with_capacity(text.len() + 2);
        out.push(quote);
        for c in text.chars() {
            match c {
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                c if c == quote => out.extend(['\\', c]),
                c if is_printable(c) => out.push(c),
                c => out.push_str(&escaped(c)),
            }
        }
        out.push(quote);
        self.push(&out)
    }

    pub(super) fn enter(&self, depth: u16) -> Result<()> {
        self.budget.steps(1)?;
        if depth > MAX_NESTING {
            return Err(Fault::limit("the nesting of values"));
        }
        Ok(())
    }
}

/// A character by its number, as `repr` writes those that do not print.
pub(super) fn escaped(c: char) -> String {
    match c as u32 {
        code @ ..=0xff => format!("\\x{code:02x}"),
        code @ ..=0xffff => format!("\\u{code:04x}"),
        code => format!("\\U{code:08x}"),
    }
}

/// `str` of an integer, which Python refuses beyond 4300 digits.
pub(super) fn integer(value: &BigInt) -> Result<String> {
    if value.bits() > MAX_INTEGER_BITS {
        return Err(Fault::limit("the size of an integer"));
    }
    Ok(value.to_string())
}

/// `repr` of a float: the shortest digits that read back, with an exponent below 1e-4 and from
/// 1e16.
pub(super) fn float(x: f64) -> String {
    if x.is_nan() {
        return "nan".to_owned();
    }
    if x.is_infinite() {
        return if x < 0.0 { "-inf" } else { "inf" }.to_owned();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{x}");
        return if plain.contains('.') {
            plain
        } else {
            plain + ".0"
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_as_python_spells_them() {
        // `repr` of CPython 3.11.
        for (x, expected) in [
            (1.0, "1.0"),
            (-0.5, "-0.5"),
            (0.1, "0.1"),
            (123456789012345.0, "123456789012345.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (-0.0, "-0.0"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(float(x), expected);
        }
    }
}
