//! Runs a template that came with a model: a file from elsewhere, and a program in it.
//!
//! Instructions are counted (fuel), and so is every value that a template makes: its bytes, all
//! the way down, are charged to a budget. Without that, forty times `ns.s = ns.s ~ ns.s` would be
//! a terabyte, and forty times `ns.l = [ns.l, ns.l]` a list of which printing or comparing never
//! ends. To charge them, the compiled template is rewritten: where an instruction makes a value, a
//! filter that weighs it follows. This wants the engine's own instruction set, hence its
//! `unstable_machinery` and the exact version in `Cargo.toml`.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use minijinja::machinery::{self, Instruction, Instructions, Token};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::ChatTemplateError;
use super::python::{self, JsonStyle, MAX_DEPTH, invalid};

/// Longest template, in bytes. Published ones are below 32 KiB.
pub(super) const MAX_SOURCE_BYTES: usize = 128 << 10;
/// Most tokens between one pair of `{%` and `%}`: the parser's trees are that deep.
const MAX_TAG_TOKENS: usize = 4096;
/// Instructions a rendering may take, and more for each message. A message takes about a hundred.
const FUEL: u64 = 200_000;
const FUEL_PER_MESSAGE: u64 = 2_000;
/// Bytes of one value, and of all values made together; more by the size of what goes in.
const VALUE_BYTES: usize = 2 << 20;
const TOTAL_BYTES: usize = 32 << 20;
/// What any value costs, whatever its size.
const NODE_BYTES: usize = 32;
/// Stack of the thread that parses and renders. It is reserved, not used: deep templates need it.
const STACK_BYTES: usize = 128 << 20;

/// Names that a template cannot spell, for the functions and filters put into its instructions.
const CONCAT: &str = "~";
const MULTIPLY: &str = "*";
const WEIGH: &str = "=";
const WEIGH_ATTRIBUTE: &str = ".=";
/// Put before the right-hand side of each `*` in the source: it keeps the engine from computing
/// `'a' * 100000000` while it compiles, when nothing is charged yet.
const NO_FOLD: &str = "apb_one";

/// What a rendering is given.
pub(super) struct Input {
    pub context: Value,
    pub messages: usize,
    pub bytes: usize,
    pub now: SystemTime,
}

/// Compiles `source`, and renders it where there is `input`.
///
/// It does so on a thread of its own: deep templates take deep stacks, and a panic in there is an
/// error here.
pub(super) fn run(source: &str, input: Option<Input>) -> Result<String, ChatTemplateError> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(ChatTemplateError::TooLarge {
            bytes: source.len() as u64,
            limit: MAX_SOURCE_BYTES as u64,
        });
    }
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("chat-template".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || run_here(source, input))
            .map_err(|error| ChatTemplateError::Internal {
                message: format!("cannot start a thread: {error}"),
            })?
            .join()
            .unwrap_or_else(|_| {
                Err(ChatTemplateError::Internal {
                    message: "the template engine panicked".to_owned(),
                })
            })
    })
}

fn run_here(source: &str, input: Option<Input>) -> Result<String, ChatTemplateError> {
    let syntax = SyntaxConfig::builder()
        .trim_blocks(true)
        .lstrip_blocks(true)
        .build()
        .map_err(|error| syntax_error(&error))?;
    let source = prepare(source, &syntax).map_err(|error| syntax_error(&error))?;
    let tree =
        machinery::parse(&source, "chat_template", syntax).map_err(|error| syntax_error(&error))?;
    let mut generator = machinery::CodeGenerator::new("chat_template", &source);
    generator.compile_stmt(&tree);
    let (instructions, blocks) = generator.finish();
    let Some(input) = input else {
        return Ok(String::new());
    };

    let instructions = instrument(&instructions);
    let blocks = blocks
        .iter()
        .map(|(name, code)| (*name, instrument(code)))
        .collect();
    let meter = Arc::new(Meter::new(input.bytes));
    let fuel = FUEL + FUEL_PER_MESSAGE * input.messages as u64;
    let environment = environment(&meter, fuel, input.now);
    let mut out = String::new();
    let rendered = machinery::eval(
        &environment,
        &instructions,
        input.context,
        &blocks,
        &mut machinery::make_string_output(&mut out),
        AutoEscape::None,
    )
    .map(|_| ());
    rendered.map_err(|error| meter.explain(&error))?;
    Ok(out)
}

fn syntax_error(error: &Error) -> ChatTemplateError {
    ChatTemplateError::Syntax {
        line: error.line().unwrap_or(0),
        message: describe(error),
    }
}

fn describe(error: &Error) -> String {
    error
        .detail()
        .map_or_else(|| error.kind().to_string(), str::to_owned)
}

/// What a rendering may still make, and why it was stopped.
struct Meter {
    left: AtomicUsize,
    value_bytes: usize,
    stopped: Mutex<Option<ChatTemplateError>>,
}

impl Meter {
    fn new(input_bytes: usize) -> Self {
        Self {
            left: AtomicUsize::new(TOTAL_BYTES.saturating_add(input_bytes.saturating_mul(64))),
            value_bytes: VALUE_BYTES.saturating_add(input_bytes.saturating_mul(4)),
            stopped: Mutex::new(None),
        }
    }

    fn stop(&self, reason: ChatTemplateError) -> Error {
        let error = invalid(reason.to_string());
        if let Ok(mut stopped) = self.stopped.lock() {
            stopped.get_or_insert(reason);
        }
        error
    }

    fn too_much(&self, limit: &'static str) -> Error {
        self.stop(ChatTemplateError::Limit { limit })
    }

    fn explain(&self, error: &Error) -> ChatTemplateError {
        if let Some(reason) = self.stopped.lock().ok().and_then(|mut s| s.take()) {
            return reason;
        }
        if error.kind() == ErrorKind::OutOfFuel {
            return ChatTemplateError::Limit {
                limit: "instructions",
            };
        }
        ChatTemplateError::Render {
            line: error.line().unwrap_or(0),
            message: describe(error),
        }
    }

    fn charge(&self, bytes: usize) -> Result<(), Error> {
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(bytes)
            })
            .map(|_| ())
            .map_err(|_| self.too_much("memory"))
    }

    /// Charges what `bytes` of text would take, before they are made.
    fn charge_text(&self, bytes: Option<usize>) -> Result<(), Error> {
        match bytes {
            Some(bytes) if bytes <= self.value_bytes => self.charge(bytes),
            _ => Err(self.too_much("the size of a value")),
        }
    }

    /// Charges a value with all that is in it. A value put into a namespace must hold no namespace:
    /// one that held itself would have no end.
    fn weigh(&self, value: &Value, namespaces: bool) -> Result<(), Error> {
        let mut left = self.value_bytes;
        let weighed = self.weigh_into(value, namespaces, &mut left, 0);
        self.charge(self.value_bytes - left)?;
        weighed
    }

    fn weigh_into(
        &self,
        value: &Value,
        namespaces: bool,
        left: &mut usize,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(self.too_much("the nesting of values"));
        }
        let own = match value.kind() {
            ValueKind::String => value.as_str().map_or(0, str::len),
            ValueKind::Bytes => value.as_bytes().map_or(0, <[u8]>::len),
            _ => 0,
        };
        *left = left
            .checked_sub(NODE_BYTES.saturating_add(own))
            .ok_or_else(|| self.too_much("the size of a value"))?;
        let namespace = || {
            value
                .as_object()
                .is_some_and(|o| o.type_name().ends_with("::Namespace"))
        };
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                for item in value.try_iter()?.checked() {
                    self.weigh_into(&item?, namespaces, left, depth + 1)?;
                }
            }
            ValueKind::Map if !namespaces && namespace() => {
                return Err(invalid("a namespace cannot hold a namespace"));
            }
            ValueKind::Map => {
                for key in value.try_iter()?.checked() {
                    let key = key?;
                    self.weigh_into(&key, namespaces, left, depth + 1)?;
                    self.weigh_into(&value.get_item(&key)?, namespaces, left, depth + 1)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn text(&self, value: &Value) -> Result<String, Error> {
        let text = python::text(value, self.value_bytes)?;
        self.charge_text(Some(text.len()))?;
        Ok(text)
    }
}

/// Makes the source one that the engine can run: `{% generation %}`, which only marks a stretch for
/// training, becomes a condition that holds, and products are kept from being folded.
fn prepare(source: &str, syntax: &SyntaxConfig) -> Result<String, Error> {
    let mut out = String::with_capacity(source.len());
    let mut copied = 0;
    let mut in_tag = 0;
    let mut at_block_start = false;
    for token in machinery::tokenize(source, false, syntax.clone()) {
        let (token, span) = token?;
        let (start, end) = (span.start_offset as usize, span.end_offset as usize);
        let replacement = match &token {
            Token::Ident("generation") if at_block_start => Some("if true".to_owned()),
            Token::Ident("endgeneration") if at_block_start => Some("endif".to_owned()),
            Token::Mul => Some(format!("* {NO_FOLD} *")),
            _ => None,
        };
        if let Some(replacement) = replacement
            && let Some(before) = source.get(copied..start)
        {
            out.push_str(before);
            out.push_str(&replacement);
            copied = end;
        }
        at_block_start = matches!(token, Token::BlockStart);
        in_tag = match token {
            Token::BlockStart | Token::VariableStart | Token::TemplateData(_) => 0,
            _ => in_tag + 1,
        };
        if in_tag > MAX_TAG_TOKENS {
            return Err(Error::new(
                ErrorKind::SyntaxError,
                format!("more than {MAX_TAG_TOKENS} tokens in one tag"),
            ));
        }
    }
    out.push_str(source.get(copied..).unwrap_or_default());
    Ok(out)
}

/// The same program with every value weighed that it makes.
fn instrument<'s>(code: &Instructions<'s>) -> Instructions<'s> {
    let count = (0..).take_while(|&at| code.get(at).is_some()).count() as u32;
    let mut positions = Vec::with_capacity(count as usize + 1);
    let mut position = 0;
    let mut program = Vec::with_capacity(count as usize);
    for at in 0..count {
        let expanded = code.get(at).map(expand).unwrap_or_default();
        positions.push(position);
        position += expanded.len() as u32;
        program.push(expanded);
    }
    positions.push(position);

    let moved = |target: u32| positions.get(target as usize).copied().unwrap_or(position);
    let mut out = Instructions::new(code.name(), code.source());
    for (at, expanded) in program.into_iter().enumerate() {
        let line = code.get_line(at as u32).unwrap_or(0) as u16;
        for instruction in expanded {
            let instruction = match instruction {
                Instruction::Iterate(to) => Instruction::Iterate(moved(to)),
                Instruction::Jump(to) => Instruction::Jump(moved(to)),
                Instruction::JumpIfFalse(to) => Instruction::JumpIfFalse(moved(to)),
                Instruction::JumpIfFalseOrPop(to) => Instruction::JumpIfFalseOrPop(moved(to)),
                Instruction::JumpIfTrueOrPop(to) => Instruction::JumpIfTrueOrPop(moved(to)),
                Instruction::BuildMacro(name, to, flags) => {
                    Instruction::BuildMacro(name, moved(to), flags)
                }
                other => other,
            };
            out.add_with_line(instruction, line);
        }
    }
    out
}

fn expand<'s>(instruction: &Instruction<'s>) -> Vec<Instruction<'s>> {
    // No slot in the engine's cache of filters: those are counted while it compiles.
    const NO_SLOT: u8 = !0;
    let weigh = || Instruction::ApplyFilter(WEIGH, Some(1), NO_SLOT);
    match instruction {
        Instruction::StringConcat => vec![Instruction::CallFunction(CONCAT, Some(2))],
        Instruction::Mul => vec![Instruction::CallFunction(MULTIPLY, Some(2))],
        // Plain text takes the way of printed values, where it is charged.
        Instruction::EmitRaw(text) => vec![
            Instruction::LoadConst(Value::from(*text)),
            Instruction::Emit,
        ],
        // On the stack: the value, then the namespace it goes into.
        Instruction::SetAttr(name) => vec![
            Instruction::Swap,
            Instruction::ApplyFilter(WEIGH_ATTRIBUTE, Some(1), NO_SLOT),
            Instruction::Swap,
            Instruction::SetAttr(name),
        ],
        Instruction::Add
        | Instruction::Slice
        | Instruction::BuildList(_)
        | Instruction::BuildTuple(_)
        | Instruction::BuildMap(_)
        | Instruction::EndCapture
        | Instruction::ApplyFilter(..)
        | Instruction::CallFunction(..)
        | Instruction::CallMethod(..)
        | Instruction::CallObject(_) => vec![instruction.clone(), weigh()],
        other => vec![other.clone()],
    }
}

fn environment(meter: &Arc<Meter>, fuel: u64, now: SystemTime) -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_debug(false);
    environment.set_fuel(Some(fuel));
    // Printing and dumping the engine's state is no business of a prompt, and these filters make
    // more than they are given.
    environment.remove_global("debug");
    for filter in ["pprint", "batch", "slice"] {
        environment.remove_filter(filter);
    }
    environment.add_global(NO_FOLD, 1);

    let m = Arc::clone(meter);
    environment.set_formatter(move |out, _state, value| {
        out.write_str(&m.text(value)?).map_err(Error::from)
    });
    let m = Arc::clone(meter);
    environment.add_filter(WEIGH, move |value: Value| {
        m.weigh(&value, true).map(|()| value)
    });
    let m = Arc::clone(meter);
    environment.add_filter(WEIGH_ATTRIBUTE, move |value: Value| {
        m.weigh(&value, false).map(|()| value)
    });
    let m = Arc::clone(meter);
    environment.add_function(CONCAT, move |left: Value, right: Value| {
        let text = m.text(&left)? + &m.text(&right)?;
        m.charge_text(Some(text.len()))?;
        Ok::<_, Error>(text)
    });
    let m = Arc::clone(meter);
    environment.add_function(MULTIPLY, move |left: Value, right: Value| {
        multiply(&m, &left, &right)
    });
    let m = Arc::clone(meter);
    environment.add_function("raise_exception", move |message: Value| {
        let message = m.text(&message)?;
        Err::<Value, Error>(m.stop(ChatTemplateError::Raised { message }))
    });
    environment.add_function("strftime_now", move |format: &str| {
        python::strftime(now, format)
    });
    add_filters(&mut environment, meter);
    let m = Arc::clone(meter);
    environment.set_unknown_method_callback(move |state, value, method, arguments| {
        call_method(&m, state, value, method, arguments)
    });
    environment
}

/// Filters spelled as Python does, and those that could make far more than they are given.
fn add_filters(environment: &mut Environment<'static>, meter: &Arc<Meter>) {
    let m = Arc::clone(meter);
    environment.add_filter("tojson", move |value: Value, kwargs: Kwargs| {
        let separators = kwargs.get::<Option<Vec<String>>>("separators")?;
        let style = JsonStyle {
            ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
            sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
            indent: kwargs.get::<Option<usize>>("indent")?,
            separators: match separators.as_deref() {
                None => None,
                Some([item, key]) => Some((item.clone(), key.clone())),
                Some(_) => return Err(invalid("tojson: separators must be two strings")),
            },
        };
        kwargs.assert_all_used()?;
        python::json(&value, &style, m.value_bytes)
    });
    let m = Arc::clone(meter);
    environment.add_filter("string", move |value: Value| m.text(&value));
    let m = Arc::clone(meter);
    environment.add_filter("replace", move |value: Value, from: &str, to: &str| {
        replace(&m, &m.text(&value)?, from, to, None)
    });
    let m = Arc::clone(meter);
    environment.add_filter(
        "join",
        move |value: Value, separator: Option<&str>, kwargs: Kwargs| {
            let separator = match separator {
                Some(separator) => separator,
                None => kwargs.get::<Option<&str>>("d")?.unwrap_or_default(),
            };
            let attribute = kwargs.get::<Option<&str>>("attribute")?;
            kwargs.assert_all_used()?;
            join(&m, &value, separator, attribute)
        },
    );
    let m = Arc::clone(meter);
    environment.add_filter(
        "indent",
        move |value: &str, width: Option<usize>, first: Option<bool>, kwargs: Kwargs| {
            let width = match width {
                Some(width) => width,
                None => kwargs.get::<Option<usize>>("width")?.unwrap_or(4),
            };
            let first = match first {
                Some(first) => first,
                None => kwargs.get::<Option<bool>>("first")?.unwrap_or(false),
            };
            let blank = kwargs.get::<Option<bool>>("blank")?.unwrap_or(false);
            kwargs.assert_all_used()?;
            let lines = value.split('\n').count();
            m.charge_text(lines.checked_mul(width))?;
            let margin = " ".repeat(width);
            let lines = value.split('\n').enumerate().map(|(index, line)| {
                let indented = if index == 0 {
                    first
                } else {
                    blank || !line.is_empty()
                };
                if indented {
                    format!("{margin}{line}")
                } else {
                    line.to_owned()
                }
            });
            Ok::<_, Error>(lines.collect::<Vec<_>>().join("\n"))
        },
    );
    environment.add_filter(
        "format",
        |format: &str, rest: minijinja::value::Rest<Value>| {
            check_widths(format)?;
            minijinja::formatting::format(minijinja::formatting::FormatStyle::Printf, format, &rest)
        },
    );
}

fn call_method(
    meter: &Meter,
    state: &mut State,
    value: &Value,
    method: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    match (value.as_str(), method, arguments) {
        (Some(text), "replace", [from, to, rest @ ..]) => {
            let (Some(from), Some(to)) = (from.as_str(), to.as_str()) else {
                return Err(invalid("str.replace takes two strings"));
            };
            let count = rest.first().and_then(Value::as_usize);
            return replace(meter, text, from, to, count).map(Value::from);
        }
        (Some(separator), "join", [items]) => {
            return join(meter, items, separator, None).map(Value::from);
        }
        (Some(format), "format", _) => check_widths(format)?,
        _ => {}
    }
    unknown_method_callback(state, value, method, arguments)
}

fn replace(
    meter: &Meter,
    text: &str,
    from: &str,
    to: &str,
    count: Option<usize>,
) -> Result<String, Error> {
    let count = count.unwrap_or(usize::MAX).min(text.matches(from).count());
    let added = count.checked_mul(to.len());
    meter.charge_text(added.and_then(|added| added.checked_add(text.len())))?;
    Ok(text.replacen(from, to, count))
}

fn join(
    meter: &Meter,
    items: &Value,
    separator: &str,
    attribute: Option<&str>,
) -> Result<String, Error> {
    let mut out = String::new();
    for (index, item) in items.try_iter()?.checked().enumerate() {
        let mut item = item?;
        if let Some(attribute) = attribute {
            item = item.get_attr(attribute)?;
        }
        let item = meter.text(&item)?;
        if index > 0 {
            out.push_str(separator);
        }
        out.push_str(&item);
        if out.len() > meter.value_bytes {
            return Err(meter.too_much("the size of a value"));
        }
    }
    Ok(out)
}

fn multiply(meter: &Meter, left: &Value, right: &Value) -> Result<Value, Error> {
    let unsupported = || {
        invalid(format!(
            "cannot multiply a {} by a {}",
            left.kind(),
            right.kind()
        ))
    };
    if left.is_number() && right.is_number() {
        if left.is_integer() && right.is_integer() {
            let product = i128::try_from(left.clone())?.checked_mul(i128::try_from(right.clone())?);
            return product.map(Value::from).ok_or_else(unsupported);
        }
        return Ok(Value::from(
            f64::try_from(left.clone())? * f64::try_from(right.clone())?,
        ));
    }
    let (repeated, times) = if right.is_integer() {
        (left, right)
    } else {
        (right, left)
    };
    // Python repeats a negative number of times by not repeating at all.
    let times = usize::try_from(i64::try_from(times.clone())?.max(0)).unwrap_or(0);
    if let Some(text) = repeated.as_str() {
        meter.charge_text(text.len().checked_mul(times))?;
        return Ok(Value::from(text.repeat(times)));
    }
    if repeated.kind() != ValueKind::Seq {
        return Err(unsupported());
    }
    let items = repeated
        .try_iter()?
        .checked()
        .collect::<Result<Vec<_>, _>>()?;
    let bytes = (items.len().checked_mul(times)).and_then(|n| n.checked_mul(NODE_BYTES));
    meter.charge_text(bytes)?;
    let length = items.len() * times;
    let product = Value::from(items.into_iter().cycle().take(length).collect::<Vec<_>>());
    meter.weigh(&product, true)?;
    Ok(product)
}

/// Refuses field widths of more than three digits: a format string pads up to what it asks for.
fn check_widths(format: &str) -> Result<(), Error> {
    let (mut braces, mut percent, mut digits) = (false, false, 0);
    for c in format.chars() {
        match c {
            '{' => braces = true,
            '}' => braces = false,
            '%' => percent = true,
            c if c.is_alphabetic() => percent = false,
            _ => {}
        }
        digits = if c.is_ascii_digit() { digits + 1 } else { 0 };
        if (digits > 3 && (braces || percent)) || (c == '*' && percent) {
            return Err(invalid(
                "a format string asks for a field of 1000 characters or more",
            ));
        }
    }
    Ok(())
}
