//! Evaluates the expressions of a template.

use std::rc::Rc;

use minijinja::machinery::ast::{self, BinOpKind, CallArg, CompareOpKind, Expr, UnaryOpKind};
use minijinja::value::ValueKind;
use num_bigint::BigInt;

use super::call::Arguments;
use super::fault::{Fault, Kind, Result};
use super::interpreter::{Interpreter, line};
use super::operators;
use super::print;
use super::slices::{self, Slice};
use super::source::BIG_INTEGER;
use super::value::{Value, forbidden};
use super::{attributes, filters, globals, tests};

impl<'a> Interpreter<'a> {
    pub(super) fn evaluate(&mut self, expression: &'a Expr<'a>) -> Result<Value> {
        let value = self.nested(|engine| engine.evaluate_within(expression));
        value.map_err(|fault| fault.at(line(expression.span())))
    }

    fn evaluate_within(&mut self, expression: &'a Expr<'a>) -> Result<Value> {
        match expression {
            Expr::Var(variable) => match variable.id {
                "self" => Ok(Value::Blocks),
                name => Ok(self.variable(name)),
            },
            Expr::Const(constant) => self.constant(&constant.value),
            Expr::List(list) => Value::list(self.all(&list.items)?, self.budget),
            Expr::Tuple(tuple) => Value::tuple(self.all(&tuple.items)?, self.budget),
            Expr::Map(map) => {
                let budget = self.budget;
                let entries = map.keys.iter().zip(&map.values);
                let entries =
                    entries.map(|(key, value)| Ok((self.evaluate(key)?, self.evaluate(value)?)));
                Value::dict(entries, budget)
            }
            Expr::UnaryOp(node) => {
                let value = self.evaluate(&node.expr)?;
                match node.op {
                    UnaryOpKind::Not => Ok(Value::Bool(!value.truth()?)),
                    UnaryOpKind::Neg => operators::signed(&value, true),
                }
            }
            Expr::BinOp(node) => self.binary(node),
            Expr::Compare(node) => {
                let mut left = self.evaluate(&node.expr)?;
                for step in &node.ops {
                    let right = self.evaluate(&step.expr)?;
                    if !operators::holds(step.op, &left, &right, self.budget)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::IfExpr(node) => {
                if self.evaluate(&node.test_expr)?.truth()? {
                    return self.evaluate(&node.true_expr);
                }
                match &node.false_expr {
                    Some(other) => self.evaluate(other),
                    None => Ok(Value::undefined("the value of an if without an else")),
                }
            }
            Expr::Filter(node) => {
                let value = match &node.expr {
                    Some(value) => self.evaluate(value)?,
                    None => self.filtered(),
                };
                if node.name == BIG_INTEGER {
                    let digits = value.as_str().unwrap_or_default();
                    let integer: Option<BigInt> = digits.parse().ok();
                    let integer = integer.filter(|_| digits.len() <= 4300).map(Value::Int);
                    return integer.ok_or_else(|| Fault::limit("the size of an integer"));
                }
                let arguments = self.arguments(&node.args)?;
                filters::call(self, node.name, &value, &arguments)
            }
            Expr::Test(node) => {
                let value = self.evaluate(&node.expr)?;
                let arguments = self.arguments(&node.args)?;
                tests::call(self, node.name, &value, &arguments).map(Value::Bool)
            }
            Expr::GetAttr(node) => {
                let value = self.evaluate(&node.expr)?;
                self.attribute(&value, node.name)
            }
            Expr::GetItem(node) => {
                let value = self.evaluate(&node.expr)?;
                let index = self.evaluate(&node.subscript_expr)?;
                self.item(&value, &index)
            }
            Expr::Slice(node) => {
                let slice = self.slice(node);
                match (slice, &node.expr) {
                    // Jinja2 computes constants beforehand, by a way that gives undefined.
                    (
                        Err(fault),
                        Expr::Const(_) | Expr::List(_) | Expr::Tuple(_) | Expr::Map(_),
                    ) if fault.kind == Kind::Type => Ok(Value::undefined("a slice of a constant")),
                    (slice, _) => slice,
                }
            }
            Expr::Call(node) => {
                let callee = self.evaluate(&node.expr)?;
                let arguments = self.arguments(&node.args)?;
                self.call(&callee, &arguments)
            }
        }
    }

    fn slice(&mut self, node: &'a ast::Slice<'a>) -> Result<Value> {
        let value = self.evaluate(&node.expr)?;
        let mut bound = |bound: &'a Option<Expr<'a>>| -> Result<Option<i64>> {
            match bound {
                None => Ok(None),
                Some(bound) => match self.evaluate(bound)? {
                    Value::None => Ok(None),
                    value => value.to_i64().map(Some),
                },
            }
        };
        let slice = Slice {
            start: bound(&node.start)?,
            stop: bound(&node.stop)?,
            step: bound(&node.step)?,
        };
        slices::slice(&value, slice, self.budget)
    }

    fn all(&mut self, expressions: &'a [Expr<'a>]) -> Result<Vec<Value>> {
        expressions
            .iter()
            .map(|expression| self.evaluate(expression))
            .collect()
    }

    fn constant(&self, value: &minijinja::Value) -> Result<Value> {
        Ok(match value.kind() {
            ValueKind::None => Value::None,
            ValueKind::Bool => Value::Bool(value.is_true()),
            ValueKind::String => {
                let text = value.as_str().unwrap_or_default();
                self.budget.bytes(text.len())?;
                Value::str(text)
            }
            ValueKind::Number if value.is_integer() => match u128::try_from(value.clone()) {
                Ok(integer) => Value::int(integer),
                Err(_) => return Err(Fault::limit("the size of an integer")),
            },
            ValueKind::Number => Value::Float(f64::try_from(value.clone()).unwrap_or(f64::NAN)),
            kind => return Err(Fault::runtime(format!("a constant of type {kind}"))),
        })
    }

    fn binary(&mut self, node: &'a ast::BinOp<'a>) -> Result<Value> {
        let left = self.evaluate(&node.left)?;
        match node.op {
            BinOpKind::ScAnd if !left.truth()? => return Ok(left),
            BinOpKind::ScOr if left.truth()? => return Ok(left),
            _ => {}
        }
        let right = self.evaluate(&node.right)?;
        let comparison = match node.op {
            BinOpKind::ScAnd | BinOpKind::ScOr => return Ok(right),
            BinOpKind::Concat => {
                // Safe text joins other text as it is, unless the output is escaped.
                let text = self.printed(&left)? + &self.printed(&right)?;
                self.budget.bytes(text.len())?;
                return Ok(Value::text(text, self.autoescape));
            }
            BinOpKind::Eq => CompareOpKind::Eq,
            BinOpKind::Ne => CompareOpKind::Ne,
            BinOpKind::Lt => CompareOpKind::Lt,
            BinOpKind::Lte => CompareOpKind::Lte,
            BinOpKind::Gt => CompareOpKind::Gt,
            BinOpKind::Gte => CompareOpKind::Gte,
            BinOpKind::In => CompareOpKind::In,
            operator => return operators::binary(operator, &left, &right, self.budget),
        };
        operators::holds(comparison, &left, &right, self.budget).map(Value::Bool)
    }

    pub(super) fn arguments(&mut self, arguments: &'a [CallArg<'a>]) -> Result<Arguments> {
        let mut given = Arguments::default();
        for argument in arguments {
            match argument {
                CallArg::Pos(value) => given.positional.push(self.evaluate(value)?),
                CallArg::PosSplat(values) => {
                    let values = self.evaluate(values)?;
                    given.positional.extend(values.items(self.budget)?);
                }
                CallArg::Kwarg(name, value) => {
                    let value = self.evaluate(value)?;
                    keyword(&mut given, name, value)?;
                }
                CallArg::KwargSplat(values) => match self.evaluate(values)? {
                    Value::Dict(dict) => {
                        for (name, value) in dict.iter() {
                            let name = name.as_str().ok_or_else(|| name.mismatch("a string"))?;
                            keyword(&mut given, name, value.clone())?;
                        }
                    }
                    other => return Err(other.mismatch("a mapping after **")),
                },
            }
        }
        Ok(given)
    }

    /// `value.name`: an attribute or method of the value, or else the item of that name.
    pub(super) fn attribute(&mut self, value: &Value, name: &str) -> Result<Value> {
        if let Some(found) = attributes::get(self, value, name)? {
            return Ok(found);
        }
        let found = match value {
            Value::Dict(dict) => dict.get_str(name).cloned(),
            _ => None,
        };
        Ok(found.unwrap_or_else(|| missing(value, name)))
    }

    /// `value[index]`: the item, or else the attribute or method of that name.
    pub(super) fn item(&mut self, value: &Value, index: &Value) -> Result<Value> {
        let found = match (value, index.as_index()) {
            _ if value.is_undefined() => return Err(value.mismatch("a value")),
            (Value::Dict(dict), _) => dict.get(index, self.budget).map(|found| found.cloned()),
            (_, Some(index)) if value.is_sequence() => {
                slices::index(value, &index, self.budget).map(Some)
            }
            _ => Ok(None),
        };
        match found {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(fault) if matches!(fault.kind, Kind::Type | Kind::Lookup) => {}
            Err(fault) => return Err(fault),
        }
        let name = match index.as_str() {
            Some(name) => {
                if let Some(found) = attributes::get(self, value, name)? {
                    return Ok(found);
                }
                name.to_owned()
            }
            None => print::text(index, self.budget)?,
        };
        Ok(missing(value, &name))
    }

    /// `callee(*arguments)`.
    pub(super) fn call(&mut self, callee: &Value, arguments: &Arguments) -> Result<Value> {
        match callee {
            Value::Macro(id) => self.call_macro(*id, arguments),
            Value::Function(function) => globals::call(self, function, arguments),
            Value::Method(method) => attributes::call(self, &method.0, method.1, arguments),
            Value::Loop(state) => self.recurse(state, arguments),
            Value::Joiner(joiner) => {
                arguments.positional("joiner", 0, 0)?;
                Ok(match joiner.1.replace(true) {
                    true => Value::Str(Rc::clone(&joiner.0)),
                    false => Value::str(""),
                })
            }
            Value::Block(name) => {
                arguments.positional("block", 0, 0)?;
                self.block(name)
            }
            Value::Forbidden(what) => Err(forbidden(what)),
            Value::Undefined(what) => Err(Fault::undefined(what)),
            _ => Err(Fault::type_error(format!(
                "'{}' object is not callable",
                callee.type_name()
            ))),
        }
    }
}

fn keyword(arguments: &mut Arguments, name: &str, value: Value) -> Result<()> {
    if arguments.keyword(name).is_some() {
        return Err(Fault::type_error(format!(
            "got multiple values for keyword argument '{name}'"
        )));
    }
    arguments.keywords.push((name.to_owned(), value));
    Ok(())
}

fn missing(value: &Value, name: &str) -> Value {
    Value::undefined(format!(
        "'{} object' has no attribute '{name}', which",
        value.type_name()
    ))
}
