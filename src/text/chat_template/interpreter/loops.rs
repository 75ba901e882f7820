//! `for`, with its variable `loop`.

use std::rc::Rc;

use super::{Flow, Interpreter};
use crate::text::chat_template::call::{Arguments, required};
use crate::text::chat_template::fault::{Fault, Result};
use crate::text::chat_template::value::{Loop, Value};

impl Interpreter<'_> {
    pub(super) fn run_loop(
        &mut self,
        site: usize,
        scope: usize,
        items: Vec<Value>,
        depth0: usize,
    ) -> Result<Flow> {
        let Some(&node) = self.loops.get(site) else {
            return Err(Fault::runtime("the loop has ended"));
        };
        if node.recursive {
            self.closures += 1;
        }
        let state = Rc::new(Loop::new(site, scope, items, depth0));
        let mut any = false;
        while let Some(item) = self.advance(&state)? {
            any = true;
            self.budget.steps(1)?;
            let flow = self.scoped(scope, |engine| {
                engine.assign(&node.target, item)?;
                engine.define("loop", Value::Loop(Rc::clone(&state)));
                engine.statements(&node.body)
            })?;
            if flow == Flow::Break {
                break;
            }
        }
        state.finish();
        if any {
            return Ok(Flow::Normal);
        }
        self.scoped(scope, |engine| engine.statements(&node.else_body))
    }

    /// The next item of a loop, which becomes the current one.
    pub(super) fn advance(&mut self, state: &Loop) -> Result<Option<Value>> {
        let ahead = state.ahead.borrow_mut().pop_front();
        let item = match ahead {
            Some(item) => Some(item),
            None => self.pull(state)?,
        };
        if let Some(item) = &item {
            state.turn(item.clone());
        }
        Ok(item)
    }

    /// The next item that the loop's condition takes.
    pub(super) fn pull(&mut self, state: &Loop) -> Result<Option<Value>> {
        loop {
            let Some(item) = state.source.borrow_mut().next() else {
                return Ok(None);
            };
            let node = self.loops.get(state.site).copied();
            let Some((condition, node)) = node.and_then(|n| Some((n.filter_expr.as_ref()?, n)))
            else {
                return Ok(Some(item));
            };
            let taken = self.scoped(state.scope, |engine| {
                engine.assign(&node.target, item.clone())?;
                engine.evaluate(condition)?.truth()
            })?;
            if taken {
                return Ok(Some(item));
            }
        }
    }

    /// An item ahead of its turn: the next one, or all of them for the loop's length.
    pub(crate) fn look_ahead(&mut self, state: &Loop, all: bool) -> Result<Option<Value>> {
        while all || state.ahead.borrow().is_empty() {
            let Some(item) = self.pull(state)? else {
                break;
            };
            state.ahead.borrow_mut().push_back(item);
        }
        Ok(state.ahead.borrow().front().cloned())
    }

    /// `loop(items)` in a recursive loop.
    pub(crate) fn recurse(&mut self, state: &Loop, arguments: &Arguments) -> Result<Value> {
        let [items] = arguments.bind("loop", ["iterable"])?;
        let items = required(&items, "iterable")?;
        let node = self.loops.get(state.site);
        if !node.is_some_and(|node| node.recursive) {
            return Err(Fault::type_error(
                "The loop must have the 'recursive' marker to be called recursively.",
            ));
        }
        let items = items.items(self.budget)?;
        let (site, scope, depth0) = (state.site, state.scope, state.depth0 + 1);
        self.called(|engine| engine.run_loop(site, scope, items, depth0))
    }
}

impl Loop {
    fn new(site: usize, scope: usize, items: Vec<Value>, depth0: usize) -> Self {
        Self {
            site,
            scope,
            source: items.into_iter().into(),
            index0: std::cell::Cell::new(usize::MAX),
            depth0,
            ..Self::default()
        }
    }

    fn turn(&self, item: Value) {
        self.index0.set(self.index0.get().wrapping_add(1));
        let before = self.current.replace(Some(item));
        self.previous.replace(before);
    }

    /// Drops the items, one of which may hold the loop itself.
    fn finish(&self) {
        self.previous.replace(None);
        self.changed.replace(None);
    }
}
