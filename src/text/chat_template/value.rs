//! Values as Python has them: what a template computes with.

mod dict;

pub(super) use dict::{Dict, Key};

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use num_bigint::BigInt;
use num_traits::{FromPrimitive, Signed, ToPrimitive, Zero};

use super::fault::{Fault, Kind, Result};
use super::limits::{Budget, ITEM_BYTES, MAX_NESTING};

/// A value. Lists and dictionaries never change: the sandbox of transformers forbids it.
#[derive(Clone)]
pub(super) enum Value {
    /// Jinja2's `Undefined`, with the name for messages.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(BigInt),
    Float(f64),
    Str(Rc<str>),
    /// Text that needs no escaping: `markupsafe.Markup`.
    Markup(Rc<str>),
    List(Rc<Seq>),
    Tuple(Rc<Seq>),
    Dict(Rc<Dict>),
    /// `dict.keys()`, `dict.values()` and `dict.items()`.
    View(View, Rc<Dict>),
    Range(Range),
    /// A generator: what is left of it.
    Generator(Rc<Generator>),
    Namespace(Rc<Namespace>),
    Loop(Rc<Loop>),
    /// A macro, or the body of a `call` block, by its place in the interpreter's list.
    Macro(usize),
    /// A function of the environment, by its name.
    Function(&'static str),
    /// A method with the value it belongs to.
    Method(Rc<(Value, &'static str)>),
    Cycler(Rc<Cycler>),
    Joiner(Rc<(Rc<str>, Cell<bool>)>),
    /// `self`, which has the blocks as its attributes, and one of the blocks.
    Blocks,
    Block(Rc<str>),
    /// What the sandbox forbids: undefined, and an exception where it is used.
    Forbidden(Rc<str>),
}

/// The items of a list or tuple.
pub(super) struct Seq {
    pub items: Vec<Value>,
    nesting: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum View {
    Keys,
    Values,
    Items,
}

/// `range(start, stop, step)`; `step` is not zero.
#[derive(Clone, Copy)]
pub(super) struct Range {
    pub start: i64,
    pub step: i64,
    pub length: usize,
}

/// The rest of a generator, and the exception that ends it.
pub(super) struct Generator {
    pub items: RefCell<std::vec::IntoIter<Value>>,
    pub end: RefCell<Option<Fault>>,
    nesting: u16,
}

#[derive(Default)]
pub(super) struct Namespace {
    pub attributes: RefCell<Dict>,
}

/// The variable `loop`.
#[derive(Default)]
pub(super) struct Loop {
    /// The statement, by its place in the interpreter's list.
    pub site: usize,
    pub scope: usize,
    pub source: RefCell<std::vec::IntoIter<Value>>,
    /// Items that were read ahead.
    pub ahead: RefCell<std::collections::VecDeque<Value>>,
    pub index0: Cell<usize>,
    pub depth0: usize,
    pub previous: RefCell<Option<Value>>,
    pub current: RefCell<Option<Value>>,
    pub changed: RefCell<Option<Value>>,
}

pub(super) struct Cycler {
    pub items: Vec<Value>,
    pub position: Cell<usize>,
}

impl Namespace {
    /// Sets an attribute, which must not start with an underscore.
    pub(super) fn set(&self, name: Value, value: Value, budget: &Budget) -> Result<()> {
        if name.as_str().is_some_and(|name| name.starts_with('_')) {
            return Err(Fault::new(
                Kind::Security,
                "a namespace stores no attribute that starts with an underscore",
            ));
        }
        self.attributes.borrow_mut().insert(name, value, budget)
    }
}

impl Value {
    pub(super) fn str(text: &str) -> Self {
        Self::Str(Rc::from(text))
    }

    /// A text, safe or not.
    pub(super) fn text(text: impl Into<Rc<str>>, safe: bool) -> Self {
        match safe {
            true => Self::Markup(text.into()),
            false => Self::Str(text.into()),
        }
    }

    pub(super) fn is_safe(&self) -> bool {
        matches!(self, Self::Markup(_))
    }

    pub(super) fn int(value: impl Into<BigInt>) -> Self {
        Self::Int(value.into())
    }

    pub(super) fn undefined(what: impl AsRef<str>) -> Self {
        Self::Undefined(Rc::from(what.as_ref()))
    }

    pub(super) fn list(items: Vec<Value>, budget: &Budget) -> Result<Self> {
        Ok(Self::List(Rc::new(Seq::new(items, budget)?)))
    }

    pub(super) fn tuple(items: Vec<Value>, budget: &Budget) -> Result<Self> {
        Ok(Self::Tuple(Rc::new(Seq::new(items, budget)?)))
    }

    pub(super) fn dict(
        entries: impl IntoIterator<Item = Result<(Value, Value)>>,
        budget: &Budget,
    ) -> Result<Self> {
        let mut dict = Dict::default();
        for entry in entries {
            let (key, value) = entry?;
            dict.insert(key, value, budget)?;
        }
        Ok(Self::Dict(Rc::new(dict)))
    }

    /// A generator of `items` that ends with an exception, or without one.
    pub(super) fn generator(
        items: Vec<Value>,
        end: Option<Fault>,
        budget: &Budget,
    ) -> Result<Self> {
        if let Some(fault) = &end
            && matches!(fault.kind, Kind::Limit(_))
        {
            return Err(fault.clone());
        }
        budget.product(ITEM_BYTES, items.len())?;
        let nesting = nesting_above(items.iter())?;
        Ok(Self::Generator(Rc::new(Generator {
            items: RefCell::new(items.into_iter()),
            end: RefCell::new(end),
            nesting,
        })))
    }

    /// The text of a string, safe or not.
    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) | Self::Markup(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_) | Self::Forbidden(_))
    }

    /// The name of the Python type.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) | Self::Forbidden(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(View::Keys, _) => "dict_keys",
            Self::View(View::Values, _) => "dict_values",
            Self::View(View::Items, _) => "dict_items",
            Self::Range(_) => "range",
            Self::Generator(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Function(_) => "function",
            Self::Method(_) => "method",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
            Self::Blocks => "TemplateReference",
            Self::Block(_) => "BlockReference",
        }
    }

    /// `bool(value)`.
    pub(super) fn truth(&self) -> Result<bool> {
        Ok(match self {
            Self::Undefined(_) | Self::Forbidden(_) | Self::None => false,
            Self::Bool(flag) => *flag,
            Self::Int(value) => !value.is_zero(),
            Self::Float(value) => *value != 0.0,
            Self::Str(text) | Self::Markup(text) => !text.is_empty(),
            Self::List(seq) | Self::Tuple(seq) => !seq.items.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => !dict.is_empty(),
            Self::Range(range) => range.length > 0,
            _ => true,
        })
    }

    /// An integer: `operator.index`, which takes `True` for 1.
    pub(super) fn as_index(&self) -> Option<BigInt> {
        match self {
            Self::Int(value) => Some(value.clone()),
            Self::Bool(flag) => Some(BigInt::from(u8::from(*flag))),
            _ => None,
        }
    }

    /// An integer argument as the machine counts, cut to its range.
    pub(super) fn to_i64(&self) -> Result<i64> {
        match self.as_index() {
            Some(value) => Ok(clamp(&value)),
            None => Err(self.mismatch("an integer")),
        }
    }

    /// The value as a float, where it is a number.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            Self::Int(value) => value.to_f64(),
            Self::Bool(flag) => Some(f64::from(u8::from(*flag))),
            _ => None,
        }
    }

    /// The exception where this is not what is expected.
    pub(super) fn mismatch(&self, expected: &str) -> Fault {
        match self {
            Self::Undefined(what) => Fault::undefined(what),
            Self::Forbidden(what) => forbidden(what),
            _ => Fault::type_error(format!("expected {expected}, found {}", self.type_name())),
        }
    }

    /// `len(value)`.
    pub(super) fn length(&self) -> Result<usize> {
        Ok(match self {
            Self::Undefined(_) | Self::Forbidden(_) => 0,
            Self::Str(text) | Self::Markup(text) => text.chars().count(),
            Self::List(seq) | Self::Tuple(seq) => seq.items.len(),
            Self::Dict(dict) | Self::View(_, dict) => dict.len(),
            Self::Range(range) => range.length,
            _ => return Err(self.mismatch("a value with a length")),
        })
    }

    /// The items, as a loop takes them; a generator is used up.
    pub(super) fn items(&self, budget: &Budget) -> Result<Vec<Value>> {
        let length = match self {
            Self::Generator(generator) => generator.items.borrow().len(),
            _ => self.length().unwrap_or(0),
        };
        budget.product(ITEM_BYTES, length)?;
        budget.steps(length / 4)?;
        Ok(match self {
            Self::Undefined(_) | Self::Forbidden(_) => Vec::new(),
            // Python's iterator over a subclass of `str` gives plain strings, too.
            Self::Str(text) | Self::Markup(text) => text
                .chars()
                .map(|c| Self::str(c.encode_utf8(&mut [0; 4])))
                .collect(),
            Self::List(seq) | Self::Tuple(seq) => seq.items.clone(),
            Self::Dict(dict) | Self::View(View::Keys, dict) => dict.keys().cloned().collect(),
            Self::View(View::Values, dict) => dict.values().cloned().collect(),
            Self::View(View::Items, dict) => dict
                .iter()
                .map(|(key, value)| Self::tuple(vec![key.clone(), value.clone()], budget))
                .collect::<Result<_>>()?,
            Self::Range(range) => (0..range.length)
                .map(|at| Self::int(range.at(at)))
                .collect(),
            Self::Generator(generator) => {
                let items: Vec<_> = generator.items.borrow_mut().by_ref().collect();
                match generator.end.borrow_mut().take() {
                    Some(fault) => return Err(fault),
                    None => items,
                }
            }
            _ => return Err(self.mismatch("something to iterate over")),
        })
    }

    /// Whether integers are its indices.
    pub(super) fn is_sequence(&self) -> bool {
        self.as_str().is_some() || matches!(self, Self::List(_) | Self::Tuple(_) | Self::Range(_))
    }

    pub(super) fn is_iterable(&self) -> bool {
        let made = matches!(self, Self::View(..) | Self::Generator(_) | Self::Loop(_));
        made || self.is_sequence() || matches!(self, Self::Undefined(_) | Self::Dict(_))
    }

    pub(super) fn is_callable(&self) -> bool {
        matches!(
            self,
            // `Undefined` has a `__call__`, which fails.
            Self::Undefined(_)
                | Self::Loop(_)
                | Self::Macro(_)
                | Self::Function(_)
                | Self::Method(_)
                | Self::Joiner(_)
                | Self::Block(_)
                | Self::Forbidden(_)
        )
    }

    fn nesting(&self) -> u16 {
        match self {
            Self::List(seq) | Self::Tuple(seq) => seq.nesting,
            Self::Dict(dict) | Self::View(_, dict) => dict.nesting,
            Self::Generator(generator) => generator.nesting,
            Self::Method(method) => method.0.nesting() + 1,
            Self::Cycler(cycler) => cycler.items.iter().map(Value::nesting).max().unwrap_or(0) + 1,
            _ => 0,
        }
    }

    /// Whether both are the same object: `is` in Python.
    pub(super) fn is_same(&self, other: &Value) -> bool {
        match (self, other) {
            (Self::None, Self::None) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            // CPython keeps one object of each small integer and of each constant text.
            (Self::Int(a), Self::Int(b)) => a == b && (-5..=256).contains(&clamp(a)),
            (Self::Str(a), Self::Str(b)) => Rc::ptr_eq(a, b) || a == b,
            (Self::Markup(a), Self::Markup(b)) => Rc::ptr_eq(a, b),
            (Self::List(a), Self::List(b)) | (Self::Tuple(a), Self::Tuple(b)) => Rc::ptr_eq(a, b),
            (Self::Dict(a), Self::Dict(b)) => Rc::ptr_eq(a, b),
            (Self::Generator(a), Self::Generator(b)) => Rc::ptr_eq(a, b),
            (Self::Namespace(a), Self::Namespace(b)) => Rc::ptr_eq(a, b),
            (Self::Loop(a), Self::Loop(b)) => Rc::ptr_eq(a, b),
            (Self::Macro(a), Self::Macro(b)) => a == b,
            (Self::Function(a), Self::Function(b)) => a == b,
            (Self::Cycler(a), Self::Cycler(b)) => Rc::ptr_eq(a, b),
            (Self::Joiner(a), Self::Joiner(b)) => Rc::ptr_eq(a, b),
            _ => false,
        }
    }
}

pub(super) fn forbidden(what: &str) -> Fault {
    Fault::new(Kind::Security, format!("access to {what} is unsafe"))
}

/// An integer cut to the machine's range.
pub(super) fn clamp(value: &BigInt) -> i64 {
    let limit = if value.is_negative() {
        i64::MIN
    } else {
        i64::MAX
    };
    value.to_i64().unwrap_or(limit)
}

fn nesting_above<'a>(values: impl Iterator<Item = &'a Value>) -> Result<u16> {
    let nesting = values.map(Value::nesting).max().unwrap_or(0) + 1;
    if nesting > MAX_NESTING {
        return Err(Fault::limit("the nesting of values"));
    }
    Ok(nesting)
}

impl Seq {
    fn new(items: Vec<Value>, budget: &Budget) -> Result<Self> {
        budget.product(ITEM_BYTES, items.len() + 1)?;
        budget.steps(items.len() / 4)?;
        let nesting = nesting_above(items.iter())?;
        Ok(Self { items, nesting })
    }
}

impl Range {
    pub(super) fn at(&self, index: usize) -> BigInt {
        BigInt::from(self.start) + BigInt::from(self.step) * BigInt::from(index)
    }
}

/// The integer that equals a float, where there is one.
pub(super) fn integral(value: f64) -> Option<BigInt> {
    let whole = Some(value).filter(|value| value.fract() == 0.0)?;
    BigInt::from_f64(whole)
}
