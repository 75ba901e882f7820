//! Sliding windows: accepted where no layer has one that matters.

use serde_json::Value;

use super::error::{ConfigError, brief, unsupported, value_error};
use super::family::Window;
use super::fields::Fields;
use crate::model::MAX_CONTEXT;

/// A layer of this type attends to a window.
const SLIDING: &str = "sliding_attention";
/// A layer of this type attends to everything before it.
const FULL: &str = "full_attention";

/// The window of a model whose windows are as long as its context, so that they hide nothing; none
/// where no layer has a window.
///
/// # Errors
///
/// [`ConfigError::Unsupported`] for a window shorter than `context`.
pub(super) fn read(
    fields: &Fields<'_>,
    rule: &Window,
    layers: usize,
    context: usize,
    warnings: &mut Vec<String>,
) -> Result<Option<usize>, ConfigError> {
    let types = layer_types(fields, layers)?;
    let stated = || fields.optional_size("sliding_window", MAX_CONTEXT);
    let (window, field) = match rule {
        Window::Ignored => {
            if let Some(types) = types
                && types.contains(&SLIDING)
            {
                return Err(unsupported(
                    "layer_types",
                    &Value::from(SLIDING),
                    "full_attention is",
                ));
            }
            if let Some((_, value)) = fields.active("sliding_window") {
                warnings.push(format!(
                    "config.json: `sliding_window` = {} is ignored, as a model of type {} has no window",
                    brief(value),
                    fields.model_type
                ));
            }
            return Ok(None);
        }
        Window::All { default, by_layer } => {
            let window = match fields.raw.contains_key("sliding_window") {
                true => stated()?,
                false => Some(*default),
            };
            let windowed = match (&types, by_layer) {
                (Some(types), true) => types.contains(&SLIDING),
                _ => window.is_some(),
            };
            (windowed.then_some(window), "sliding_window")
        }
        Window::Qwen => {
            let used = fields.flag("use_sliding_window")?.unwrap_or(false);
            let first = match fields.get("max_window_layers") {
                None => 28,
                Some(value) => value
                    .as_u64()
                    .ok_or_else(|| value_error("max_window_layers", "a whole number", value))?,
            };
            let window = match (used, fields.raw.contains_key("sliding_window")) {
                (false, _) => None,
                (true, true) => stated()?,
                (true, false) => Some(4096),
            };
            let windowed = match &types {
                Some(types) => types.contains(&SLIDING),
                None => window.is_some() && (layers as u64) > first,
            };
            (windowed.then_some(window), "use_sliding_window")
        }
    };
    match window {
        None => Ok(None),
        Some(Some(window)) if window >= context => Ok(Some(window)),
        Some(Some(window)) if field == "sliding_window" => Err(unsupported(
            field,
            &Value::from(window),
            "full attention is",
        )),
        Some(_) => Err(unsupported(
            field,
            &fields.get(field).cloned().unwrap_or_default(),
            "full attention is",
        )),
    }
}

/// `layer_types` of the layers there are, where the file has them.
fn layer_types<'a>(
    fields: &Fields<'a>,
    layers: usize,
) -> Result<Option<Vec<&'a str>>, ConfigError> {
    let Some(value) = fields.get("layer_types") else {
        return Ok(None);
    };
    let kinds = match value {
        Value::Array(kinds) => kinds,
        other => return Err(value_error("layer_types", "a list of names", other)),
    };
    let mut types = Vec::new();
    for kind in kinds.iter().take(layers) {
        match kind.as_str() {
            Some(name @ (FULL | SLIDING)) => types.push(name),
            _ => return Err(unsupported("layer_types", kind, "full_attention is")),
        }
    }
    Ok(Some(types))
}
