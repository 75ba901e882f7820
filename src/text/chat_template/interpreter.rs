//! Runs the statements of a template: Jinja2's scopes, loops, macros and blocks.

mod loops;
mod macros;

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use chrono::{DateTime, FixedOffset};
use minijinja::machinery::ast::{self, Expr, Spanned, Stmt};

use super::call::{FUNCTIONS, find};
use super::fault::{Fault, Kind, Result};
use super::limits::{Budget, MAX_CALLS, MAX_DEPTH};
use super::markup::escape;
use super::print;
use super::value::{Namespace, Value};

/// A running template.
pub(super) struct Interpreter<'a> {
    pub budget: &'a Budget,
    /// The time that `strftime_now` is asked for.
    pub now: DateTime<FixedOffset>,
    pub autoescape: bool,
    source: &'a str,
    context: HashMap<String, Value>,
    scopes: Vec<Scope<'a>>,
    current: usize,
    /// Macros and recursive loops so far: they keep the scope that they were made in.
    closures: usize,
    macros: Vec<Macro<'a>>,
    loops: Vec<&'a ast::ForLoop<'a>>,
    blocks: BTreeMap<&'a str, &'a [Stmt<'a>]>,
    /// All there are: one that holds itself is never freed unless it is emptied.
    namespaces: Vec<Rc<Namespace>>,
    /// What goes into the filter of a block.
    filtered: Vec<Value>,
    calls: usize,
    depth: usize,
    out: String,
}

struct Scope<'a> {
    variables: BTreeMap<&'a str, Value>,
    parent: Option<usize>,
}

/// A macro, with the scope that it was declared in, and which of its names its body uses.
#[derive(Clone, Copy)]
struct Macro<'a> {
    declaration: &'a ast::Macro<'a>,
    scope: usize,
    takes_caller: bool,
    takes_more: bool,
    takes_keywords: bool,
}

/// How a list of statements ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Normal,
    Break,
    Continue,
}

impl<'a> Interpreter<'a> {
    pub(super) fn new(
        source: &'a str,
        context: HashMap<String, Value>,
        now: DateTime<FixedOffset>,
        budget: &'a Budget,
    ) -> Self {
        Self {
            budget,
            now,
            autoescape: false,
            source,
            context,
            scopes: vec![Scope {
                variables: BTreeMap::new(),
                parent: None,
            }],
            current: 0,
            closures: 0,
            macros: Vec::new(),
            loops: Vec::new(),
            blocks: BTreeMap::new(),
            namespaces: Vec::new(),
            filtered: Vec::new(),
            calls: 0,
            depth: 0,
            out: String::new(),
        }
    }

    /// The text of a whole template.
    pub(super) fn render(&mut self, template: &'a Stmt<'a>) -> Result<String> {
        let Stmt::Template(template) = template else {
            return Err(Fault::runtime("not a template"));
        };
        self.collect_blocks(&template.children);
        let ended = self.statements(&template.children);
        for namespace in &self.namespaces {
            namespace.attributes.borrow_mut().clear();
        }
        ended?;
        Ok(std::mem::take(&mut self.out))
    }

    fn collect_blocks(&mut self, statements: &'a [Stmt<'a>]) {
        for statement in statements {
            match statement {
                Stmt::Block(block) => {
                    self.blocks.insert(block.name, &block.body);
                    self.collect_blocks(&block.body);
                }
                Stmt::IfCond(branch) => {
                    self.collect_blocks(&branch.true_body);
                    self.collect_blocks(&branch.false_body);
                }
                Stmt::ForLoop(node) => {
                    self.collect_blocks(&node.body);
                    self.collect_blocks(&node.else_body);
                }
                Stmt::WithBlock(node) => self.collect_blocks(&node.body),
                Stmt::SetBlock(node) => self.collect_blocks(&node.body),
                Stmt::FilterBlock(node) => self.collect_blocks(&node.body),
                Stmt::AutoEscape(node) => self.collect_blocks(&node.body),
                _ => {}
            }
        }
    }

    fn statements(&mut self, statements: &'a [Stmt<'a>]) -> Result<Flow> {
        for statement in statements {
            match self.statement(statement)? {
                Flow::Normal => {}
                flow => return Ok(flow),
            }
        }
        Ok(Flow::Normal)
    }

    fn statement(&mut self, statement: &'a Stmt<'a>) -> Result<Flow> {
        self.nested(|engine| engine.statement_within(statement))
    }

    fn statement_within(&mut self, statement: &'a Stmt<'a>) -> Result<Flow> {
        match statement {
            Stmt::Template(node) => return self.statements(&node.children),
            Stmt::EmitRaw(node) => self.emit(node.raw)?,
            Stmt::EmitExpr(node) => {
                let value = self.evaluate(&node.expr)?;
                self.emit(&self.printed(&value)?)?;
            }
            Stmt::IfCond(node) => return self.branch(node),
            Stmt::ForLoop(node) => {
                let items = self.evaluate(&node.iter)?;
                let items = at(items.items(self.budget), node.iter.span())?;
                let site = self.loops.len();
                self.loops.push(node);
                let flow = self.run_loop(site, self.current, items, 0);
                if !node.recursive {
                    self.loops.truncate(site);
                }
                return flow;
            }
            Stmt::Set(node) => {
                let value = self.evaluate(&node.expr)?;
                self.assign(&node.target, value)?;
            }
            Stmt::SetBlock(node) => {
                let text = self.capture(self.current, &node.body)?;
                let value = match &node.filter {
                    Some(filter) => self.filter_text(text, filter)?,
                    None => text,
                };
                self.assign(&node.target, value)?;
            }
            Stmt::FilterBlock(node) => {
                let text = self.capture(self.current, &node.body)?;
                let value = self.filter_text(text, &node.filter)?;
                let text = print::text(&value, self.budget)?;
                self.emit(&text)?;
            }
            Stmt::WithBlock(node) => {
                let values = node
                    .assignments
                    .iter()
                    .map(|(_, value)| self.evaluate(value))
                    .collect::<Result<Vec<_>>>()?;
                return self.scoped(self.current, |engine| {
                    for ((target, _), value) in node.assignments.iter().zip(values) {
                        engine.assign(target, value)?;
                    }
                    engine.statements(&node.body)
                });
            }
            Stmt::AutoEscape(node) => {
                let enabled = self.evaluate(&node.enabled)?.truth()?;
                let before = std::mem::replace(&mut self.autoescape, enabled);
                let flow = self.scoped(self.current, |engine| engine.statements(&node.body));
                self.autoescape = before;
                return flow;
            }
            Stmt::Macro(node) => {
                let value = self.declare(node)?;
                self.define(node.name, value);
            }
            Stmt::CallBlock(node) => {
                let caller = self.declare(&node.macro_decl)?;
                let callee = self.evaluate(&node.call.expr)?;
                let mut arguments = self.arguments(&node.call.args)?;
                arguments.keywords.push(("caller".to_owned(), caller));
                let value = at(self.call(&callee, &arguments), node.call.span())?;
                self.emit(&self.printed(&value)?)?;
            }
            Stmt::Block(node) => {
                // A block sees the top level of the template only.
                self.scoped(0, |engine| engine.statements(&node.body))?;
            }
            Stmt::Break(_) => return Ok(Flow::Break),
            Stmt::Continue(_) => return Ok(Flow::Continue),
            Stmt::Import(node) => return Err(no_loader(node)),
            Stmt::FromImport(node) => return Err(no_loader(node)),
            Stmt::Extends(node) => return Err(no_loader(node)),
            Stmt::Include(node) => return Err(no_loader(node)),
            Stmt::Do(node) => {
                return Err(Fault::runtime("unknown tag 'do'").at(line(node.span())));
            }
        }
        Ok(Flow::Normal)
    }

    /// `if`, with its `elif`s one after the other.
    fn branch(&mut self, node: &'a Spanned<ast::IfCond<'a>>) -> Result<Flow> {
        let mut node = node;
        loop {
            let holds = self.evaluate(&node.expr)?.truth()?;
            if holds {
                return self.statements(&node.true_body);
            }
            match node.false_body.as_slice() {
                [Stmt::IfCond(next)] => {
                    self.budget.steps(1)?;
                    node = next;
                }
                body => return self.statements(body),
            }
        }
    }

    /// A block's text, for `self.name()`.
    pub(super) fn block(&mut self, name: &str) -> Result<Value> {
        let Some(&body) = self.blocks.get(name) else {
            return Err(Fault::undefined(name));
        };
        self.called(|engine| engine.scoped(0, |engine| engine.statements(body)))
    }

    pub(super) fn has_block(&self, name: &str) -> bool {
        self.blocks.contains_key(name)
    }

    /// The text that `run` emits.
    fn called(&mut self, run: impl FnOnce(&mut Self) -> Result<Flow>) -> Result<Value> {
        if self.calls >= MAX_CALLS {
            return Err(Fault::limit("calls within calls"));
        }
        self.calls += 1;
        let before = std::mem::take(&mut self.out);
        run(self)?;
        self.calls -= 1;
        let text = std::mem::replace(&mut self.out, before);
        Ok(Value::text(text, self.autoescape))
    }

    fn capture(&mut self, scope: usize, body: &'a [Stmt<'a>]) -> Result<Value> {
        let before = std::mem::take(&mut self.out);
        self.scoped(scope, |engine| engine.statements(body))?;
        let text = std::mem::replace(&mut self.out, before);
        Ok(Value::text(text, self.autoescape))
    }

    /// The text of a value as the template puts it out.
    pub(super) fn printed(&self, value: &Value) -> Result<String> {
        match self.autoescape {
            true => escape(value, self.budget),
            false => print::text(value, self.budget),
        }
    }

    fn filter_text(&mut self, text: Value, filter: &'a Expr<'a>) -> Result<Value> {
        self.filtered.push(text);
        let value = self.evaluate(filter);
        self.filtered.pop();
        value
    }

    /// What goes into the filter of the innermost block.
    pub(super) fn filtered(&self) -> Value {
        self.filtered.last().cloned().unwrap_or(Value::None)
    }

    pub(super) fn emit(&mut self, text: &str) -> Result<()> {
        self.budget.bytes(text.len())?;
        self.out.push_str(text);
        Ok(())
    }

    /// Runs a statement or an expression, a step nested than what holds it.
    pub(super) fn nested<T>(&mut self, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.budget.steps(1)?;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Fault::limit("expressions within expressions"));
        }
        let result = run(self);
        self.depth -= 1;
        result
    }

    /// Runs a part of the template in a scope of its own, within the scope `parent`.
    fn scoped<T>(&mut self, parent: usize, run: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let (current, scopes, closures) = (self.current, self.scopes.len(), self.closures);
        self.scopes.push(Scope {
            variables: BTreeMap::new(),
            parent: Some(parent),
        });
        self.current = scopes;
        let result = run(self);
        self.current = current;
        if self.closures == closures {
            self.scopes.truncate(scopes);
        }
        result
    }

    fn define(&mut self, name: &'a str, value: Value) {
        if let Some(scope) = self.scopes.get_mut(self.current) {
            scope.variables.insert(name, value);
        }
    }

    /// A variable: of the scopes around, of the conversation, or a function of the environment.
    pub(super) fn variable(&self, name: &str) -> Value {
        let mut scope = self.scopes.get(self.current);
        while let Some(inner) = scope {
            if let Some(value) = inner.variables.get(name) {
                return value.clone();
            }
            scope = inner.parent.and_then(|parent| self.scopes.get(parent));
        }
        match self.context.get(name) {
            Some(value) => value.clone(),
            None => find(FUNCTIONS, name).map_or_else(|| Value::undefined(name), Value::Function),
        }
    }

    pub(super) fn keep_namespace(&mut self, namespace: &Rc<Namespace>) {
        self.namespaces.push(Rc::clone(namespace));
    }

    fn assign(&mut self, target: &'a Expr<'a>, value: Value) -> Result<()> {
        match target {
            Expr::Var(variable) => {
                self.define(variable.id, value);
                Ok(())
            }
            Expr::List(list) => self.unpack(&list.items, &value, target),
            Expr::Tuple(tuple) => self.unpack(&tuple.items, &value, target),
            Expr::GetAttr(attribute) => {
                let span = attribute.span();
                match self.evaluate(&attribute.expr)? {
                    Value::Namespace(namespace) => {
                        let name = Value::str(attribute.name);
                        at(namespace.set(name, value, self.budget), span)
                    }
                    other @ Value::Undefined(_) => at(Err(other.mismatch("a namespace")), span),
                    _ => at(
                        Err(Fault::runtime(
                            "cannot assign attribute on non-namespace object",
                        )),
                        span,
                    ),
                }
            }
            _ => Err(Fault::runtime("cannot assign to this").at(line(target.span()))),
        }
    }

    fn unpack(&mut self, targets: &'a [Expr<'a>], value: &Value, whole: &Expr<'a>) -> Result<()> {
        let items = at(value.items(self.budget), whole.span())?;
        if items.len() != targets.len() {
            let fault = Fault::value_error(format!(
                "{} values to unpack into {} variables",
                items.len(),
                targets.len()
            ));
            return at(Err(fault), whole.span());
        }
        for (target, item) in targets.iter().zip(items) {
            self.assign(target, item)?;
        }
        Ok(())
    }
}

fn no_loader<T>(node: &Spanned<T>) -> Fault {
    Fault::new(Kind::Type, "no loader for this environment specified").at(line(node.span()))
}

pub(super) fn line(span: minijinja::machinery::Span) -> usize {
    usize::from(span.start_line)
}

/// A result with the line where it went wrong.
pub(super) fn at<T>(result: Result<T>, span: minijinja::machinery::Span) -> Result<T> {
    result.map_err(|fault| fault.at(line(span)))
}
