//! `quantization_config`: how a safetensors checkpoint holds its weights in codes.

use serde_json::{Map, Value};

use super::error::{ConfigError, unsupported, value_error};
use crate::model::MAX_WIDTH;
use crate::text::json;

/// The field of `config.json`.
const FIELD: &str = "quantization_config";
/// How a message names where a weight stays.
const METHODS: &str = "gptq, awq, compressed-tensors and fp8 are";
const BITS: &str = "4 and 8 bits are";
const GROUP_SIZE: &str = "a multiple of 32, or -1 for whole rows";

/// How weights are stored in codes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::checkpoint) enum QuantizationConfig {
    /// `qweight`, `qzeros`, `scales` and `g_idx`, packed along the input.
    Gptq {
        bits: u32,
        /// Columns of a group; none for whole rows.
        group_size: Option<usize>,
        symmetric: bool,
        /// Whether zero points are stored less one, as all but the second version do.
        less_one: bool,
        /// Whether columns are in groups by an index of their own (`desc_act`).
        ordered: bool,
    },
    /// `qweight`, `qzeros` and `scales`, packed along the output.
    Awq { group_size: Option<usize> },
    /// `weight_packed` or `weight` with `weight_scale` and others, one of these groups for each layer.
    CompressedTensors { groups: Vec<Group> },
    /// `weight` of floats of eight bits.
    Fp8 {
        /// Rows and columns that share a scale; none for rows or whole tensors.
        block: Option<[usize; 2]>,
    },
}

/// A group of layers of compressed-tensors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::checkpoint) struct Group {
    pub(in crate::checkpoint) bits: u32,
    /// Whether codes are floats.
    pub(in crate::checkpoint) float: bool,
    pub(in crate::checkpoint) symmetric: bool,
    pub(in crate::checkpoint) strategy: Strategy,
    /// Whether columns are in groups by an index of their own.
    pub(in crate::checkpoint) ordered: bool,
}

/// What shares a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) enum Strategy {
    Tensor,
    Channel,
    Group(usize),
    Block([usize; 2]),
}

impl QuantizationConfig {
    /// What the text of a `config.json` says; none where its weights are plain.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] with the field for what is not read.
    pub(in crate::checkpoint) fn of_config(text: &str) -> Result<Option<Self>, ConfigError> {
        match json::from_str::<Value>(text) {
            Ok(Value::Object(config)) => Self::read(&config),
            // The configuration is refused where it is read.
            _ => Ok(None),
        }
    }

    /// What the fields of a `config.json` say.
    pub(super) fn read(config: &Map<String, Value>) -> Result<Option<Self>, ConfigError> {
        let fields = match config.get(FIELD) {
            None | Some(Value::Null | Value::Bool(false)) => return Ok(None),
            Some(Value::Object(fields)) if fields.is_empty() => return Ok(None),
            Some(Value::Object(fields)) => Nested {
                path: FIELD.into(),
                fields,
            },
            Some(other) => return Err(value_error(FIELD, "an object", other)),
        };
        let method = fields.text("quant_method")?;
        let quantization = match method.unwrap_or_default() {
            "gptq" => gptq(&fields)?,
            "awq" => awq(&fields)?,
            "compressed-tensors" => compressed_tensors(&fields)?,
            "fp8" | "fbgemm_fp8" => fp8(&fields)?,
            _ => return Err(fields.unsupported("quant_method", METHODS)),
        };
        Ok(Some(quantization))
    }

    /// The method's name.
    pub(in crate::checkpoint) fn method(&self) -> &'static str {
        match self {
            Self::Gptq { .. } => "gptq",
            Self::Awq { .. } => "awq",
            Self::CompressedTensors { .. } => "compressed-tensors",
            Self::Fp8 { .. } => "fp8",
        }
    }
}

fn gptq(fields: &Nested<'_>) -> Result<QuantizationConfig, ConfigError> {
    let bits = match fields.whole("bits")? {
        Some(bits @ (4 | 8)) => bits as u32,
        _ => return Err(fields.unsupported("bits", BITS)),
    };
    let mut less_one = true;
    for name in ["checkpoint_format", "format"] {
        match fields.text(name)? {
            None | Some("gptq") => {}
            Some("gptq_v2") => less_one = false,
            Some(_) => return Err(fields.unsupported(name, "gptq and gptq_v2 are")),
        }
    }
    fields.refuse("dynamic", "one format for all layers is")?;
    fields.refuse("is_marlin_format", "the layout of gptq and gptq_v2 is")?;
    if !matches!(fields.text("pack_dtype")?, None | Some("int32")) {
        return Err(fields.unsupported("pack_dtype", "int32 is"));
    }
    Ok(QuantizationConfig::Gptq {
        ordered: fields.flag("desc_act")?.unwrap_or(false),
        bits,
        group_size: fields.group_size("group_size")?,
        symmetric: fields.flag("sym")?.unwrap_or(false),
        less_one,
    })
}

fn awq(fields: &Nested<'_>) -> Result<QuantizationConfig, ConfigError> {
    let either = |names: [&'static str; 2]| match fields.get(names[0]) {
        Some(_) => names[0],
        None => names[1],
    };
    let bits = either(["bits", "w_bit"]);
    if fields.whole(bits)? != Some(4) {
        return Err(fields.unsupported(bits, "4 bits are"));
    }
    for name in ["version", "format"] {
        let version = fields.text(name)?.map(str::to_lowercase);
        if !matches!(version.as_deref(), None | Some("gemm")) {
            return Err(fields.unsupported(name, "gemm is"));
        }
    }
    if fields.flag("zero_point")? == Some(false) {
        return Err(fields.unsupported("zero_point", "true is"));
    }
    Ok(QuantizationConfig::Awq {
        group_size: fields.group_size(either(["group_size", "q_group_size"]))?,
    })
}

fn fp8(fields: &Nested<'_>) -> Result<QuantizationConfig, ConfigError> {
    if !matches!(fields.text("fmt")?, None | Some("e4m3")) {
        return Err(fields.unsupported("fmt", "e4m3 is"));
    }
    Ok(QuantizationConfig::Fp8 {
        block: fields.block("weight_block_size")?,
    })
}

fn compressed_tensors(fields: &Nested<'_>) -> Result<QuantizationConfig, ConfigError> {
    const FORMATS: &str = "pack-quantized, int-quantized, float-quantized and naive-quantized are";
    const MIXED: &str = "mixed-precision";
    let known = |format: &str, mixed: bool| {
        let plain = [
            "pack-quantized",
            "int-quantized",
            "float-quantized",
            "naive-quantized",
        ];
        plain.contains(&format) || (mixed && format == MIXED)
    };
    match fields.text("format")? {
        Some(format) if known(format, true) => {}
        _ => return Err(fields.unsupported("format", FORMATS)),
    }
    if let Some(sparsity) = fields.nested("sparsity_config")?
        && !matches!(sparsity.text("format")?, None | Some("dense"))
    {
        return Err(sparsity.unsupported("format", "dense is"));
    }
    fields.refuse("transform_config", "weights without transforms are")?;
    if !matches!(
        fields.text("quantization_status")?,
        None | Some("compressed" | "frozen")
    ) {
        return Err(fields.unsupported("quantization_status", "compressed is"));
    }
    let groups = fields.nested("config_groups")?;
    let groups = groups.ok_or_else(|| fields.missing("config_groups"))?;
    let mut found = Vec::new();
    for name in groups.fields.keys() {
        let group = groups.nested(name)?.ok_or_else(|| groups.missing(name))?;
        if let Some(format) = group.text("format")?
            && !known(format, false)
        {
            return Err(group.unsupported("format", FORMATS));
        }
        // A group of activations alone.
        let Some(weights) = group.nested("weights")? else {
            continue;
        };
        found.push(weights_of_group(&weights)?);
    }
    match found.is_empty() {
        true => Err(fields.unsupported("config_groups", "a group with weights is")),
        false => Ok(QuantizationConfig::CompressedTensors { groups: found }),
    }
}

fn weights_of_group(weights: &Nested<'_>) -> Result<Group, ConfigError> {
    let float = match weights.text("type")? {
        None | Some("int") => false,
        Some("float") => true,
        Some(_) => return Err(weights.unsupported("type", "int and float are")),
    };
    let bits = match (weights.whole("num_bits")?, float) {
        (Some(bits @ (4 | 8)), false) | (Some(bits @ 8), true) => bits as u32,
        (_, false) => return Err(weights.unsupported("num_bits", BITS)),
        (_, true) => return Err(weights.unsupported("num_bits", "8 bits are for floats")),
    };
    let group_size = weights.group_size("group_size")?;
    let strategy = match (weights.text("strategy")?, group_size) {
        (Some("group") | None, Some(size)) => Strategy::Group(size),
        (Some("channel"), None) => Strategy::Channel,
        (None, None) if weights.whole("group_size")? == Some(-1) => Strategy::Channel,
        (Some("tensor"), None) | (None, None) => Strategy::Tensor,
        (Some("block"), _) => match weights.block("block_structure")? {
            Some(block) => Strategy::Block(block),
            None => return Err(weights.missing("block_structure")),
        },
        (Some("group" | "channel" | "tensor"), _) => {
            return Err(weights.unsupported("group_size", "a size for the strategy group only"));
        }
        (Some(_), _) => {
            let strategies = "tensor, channel, group and block are";
            return Err(weights.unsupported("strategy", strategies));
        }
    };
    if !matches!(weights.get("actorder"), None | Some(Value::Bool(_)))
        && !matches!(
            weights.text("actorder")?,
            Some("group" | "weight" | "static" | "dynamic")
        )
    {
        return Err(weights.unsupported("actorder", "group and weight are"));
    }
    // The other orders permute columns before they are quantised, and put them back.
    let ordered = match weights.get("actorder") {
        Some(Value::Bool(ordered)) => *ordered,
        Some(Value::String(order)) => order == "group" || order == "dynamic",
        _ => false,
    };
    Ok(Group {
        bits,
        float,
        symmetric: weights.flag("symmetric")?.unwrap_or(true),
        strategy,
        ordered,
    })
}

/// An object in `config.json`, with its path; null counts as absent.
struct Nested<'a> {
    path: String,
    fields: &'a Map<String, Value>,
}

impl<'a> Nested<'a> {
    fn get(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn at(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    fn value_error(&self, name: &str, expected: &str, found: &Value) -> ConfigError {
        value_error(&self.at(name), expected, found)
    }

    fn missing(&self, name: &str) -> ConfigError {
        self.value_error(name, "an object or value", &Value::Null)
    }

    /// The error for the value of a field, which may be absent.
    fn unsupported(&self, name: &str, supported: &'static str) -> ConfigError {
        let found = self.get(name).unwrap_or(&Value::Null);
        unsupported(&self.at(name), found, supported)
    }

    /// Refuses a field that says anything.
    fn refuse(&self, name: &str, supported: &'static str) -> Result<(), ConfigError> {
        match self.get(name) {
            Some(value) if super::fields::truthy(value) => Err(self.unsupported(name, supported)),
            _ => Ok(()),
        }
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.value_error(name, "a name", other)),
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(other) => Err(self.value_error(name, "true or false", other)),
        }
    }

    fn whole(&self, name: &str) -> Result<Option<i64>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => match value.as_i64() {
                Some(number) => Ok(Some(number)),
                None => Err(self.value_error(name, "a whole number", value)),
            },
        }
    }

    /// Columns of a group; none for -1 and where the field is absent.
    fn group_size(&self, name: &str) -> Result<Option<usize>, ConfigError> {
        match self.whole(name)? {
            None | Some(-1) => Ok(None),
            Some(size) => match usize::try_from(size) {
                Ok(size) if size > 0 && size <= MAX_WIDTH && size % 32 == 0 => Ok(Some(size)),
                _ => Err(self.unsupported(name, GROUP_SIZE)),
            },
        }
    }

    /// Rows and columns that share a scale.
    fn block(&self, name: &str) -> Result<Option<[usize; 2]>, ConfigError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let size = |value: &Value| {
            let size = value.as_u64().and_then(|size| usize::try_from(size).ok());
            size.filter(|size| (1..=MAX_WIDTH).contains(size))
        };
        let sizes = match value {
            Value::Array(sizes) => sizes.iter().map(size).collect::<Option<Vec<_>>>(),
            _ => None,
        };
        match sizes.as_deref() {
            Some(&[rows, columns]) if columns % 32 == 0 => Ok(Some([rows, columns])),
            _ => {
                let expected = "rows and columns, the latter a multiple of 32";
                Err(self.value_error(name, expected, value))
            }
        }
    }

    fn nested(&self, name: &str) -> Result<Option<Nested<'a>>, ConfigError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(fields)) => Ok(Some(Nested {
                path: self.at(name),
                fields,
            })),
            Some(other) => Err(self.value_error(name, "an object", other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(config: Value) -> Result<Option<QuantizationConfig>, ConfigError> {
        QuantizationConfig::of_config(&json!({ "quantization_config": config }).to_string())
    }

    fn group(weights: Value) -> Value {
        json!({
            "quant_method": "compressed-tensors", "format": "pack-quantized",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        })
    }

    #[test]
    fn what_programs_write_is_read() {
        assert_eq!(QuantizationConfig::of_config("{}").unwrap(), None);
        assert_eq!(read(Value::Null).unwrap(), None);
        let gptq = json!({
            "bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": true, "sym": true,
            "true_sequential": true, "model_name_or_path": null, "quant_method": "gptq",
        });
        let expected = |less_one| {
            Some(QuantizationConfig::Gptq {
                bits: 4,
                group_size: Some(128),
                symmetric: true,
                less_one,
                ordered: true,
            })
        };
        assert_eq!(read(gptq.clone()).unwrap(), expected(true));
        let mut second = gptq;
        second["checkpoint_format"] = json!("gptq_v2");
        assert_eq!(read(second).unwrap(), expected(false));
        let awq = json!({
            "bits": 4, "group_size": 64, "modules_to_not_convert": null, "quant_method": "awq",
            "version": "gemm", "zero_point": true,
        });
        let expected = QuantizationConfig::Awq {
            group_size: Some(64),
        };
        assert_eq!(read(awq).unwrap(), Some(expected));
        let fp8 = json!({
            "activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
            "weight_block_size": [128, 128],
        });
        let expected = QuantizationConfig::Fp8 {
            block: Some([128, 128]),
        };
        assert_eq!(read(fp8).unwrap(), Some(expected));
        let compressed = group(json!({
            "actorder": null, "block_structure": null, "dynamic": false, "group_size": 128,
            "num_bits": 4, "observer": "minmax", "strategy": "group", "symmetric": true,
            "type": "int",
        }));
        let expected = QuantizationConfig::CompressedTensors {
            groups: vec![Group {
                bits: 4,
                float: false,
                symmetric: true,
                strategy: Strategy::Group(128),
                ordered: false,
            }],
        };
        assert_eq!(read(compressed).unwrap(), Some(expected));
    }

    /// Each odd value with the field that names it.
    #[test]
    fn odd_values_are_refused_by_name() {
        let gptq = |field: &str, value: Value| {
            let mut config = json!({"quant_method": "gptq", "bits": 4, "group_size": 128});
            config[field] = value;
            config
        };
        let awq = |field: &str, value: Value| {
            let mut config = json!({"quant_method": "awq", "bits": 4, "group_size": 128});
            config[field] = value;
            config
        };
        let weights = |field: &str, value: Value| {
            let mut weights = json!({"num_bits": 4, "strategy": "group", "group_size": 128});
            weights[field] = value;
            group(weights)
        };
        let top = |field: &str, value: Value| {
            let mut config = weights("num_bits", json!(4));
            config[field] = value;
            config
        };
        let cases = [
            (json!({"bits": 4}), "quant_method"),
            (json!({"quant_method": "bitsandbytes"}), "quant_method"),
            (json!({"quant_method": 4}), "quant_method"),
            (json!([4]), "quantization_config"),
            (gptq("bits", json!(3)), "bits"),
            (gptq("bits", json!("4")), "bits"),
            (gptq("bits", Value::Null), "bits"),
            (gptq("group_size", json!(0)), "group_size"),
            (gptq("group_size", json!(48)), "group_size"),
            (gptq("group_size", json!(-2)), "group_size"),
            (gptq("group_size", json!(i64::MAX)), "group_size"),
            (gptq("sym", json!("yes")), "sym"),
            (gptq("desc_act", json!(1)), "desc_act"),
            (
                gptq("checkpoint_format", json!("marlin")),
                "checkpoint_format",
            ),
            (gptq("dynamic", json!({"-:lm_head": {}})), "dynamic"),
            (gptq("pack_dtype", json!("int64")), "pack_dtype"),
            (awq("bits", json!(8)), "bits"),
            (awq("version", json!("gemv")), "version"),
            (awq("zero_point", json!(false)), "zero_point"),
            (json!({"quant_method": "fp8", "fmt": "e5m2"}), "fmt"),
            (
                json!({"quant_method": "fp8", "weight_block_size": [128]}),
                "weight_block_size",
            ),
            (
                json!({"quant_method": "fp8", "weight_block_size": [128, 100]}),
                "weight_block_size",
            ),
            (weights("num_bits", json!(3)), "weights.num_bits"),
            (weights("type", json!("fraction")), "weights.type"),
            (weights("strategy", json!("token")), "weights.strategy"),
            (weights("strategy", json!("channel")), "weights.group_size"),
            (weights("actorder", json!("odd")), "weights.actorder"),
            (top("format", json!("marlin-24")), "format"),
            (top("config_groups", json!({})), "config_groups"),
            (top("config_groups", Value::Null), "config_groups"),
            (
                top("sparsity_config", json!({"format": "sparse-24-bitmask"})),
                "sparsity_config.format",
            ),
            (top("transform_config", json!({"u": 1})), "transform_config"),
        ];
        for (config, field) in cases {
            let error = read(config.clone()).unwrap_err();
            let (ConfigError::Unsupported { field: named, .. }
            | ConfigError::Value { field: named, .. }) = &error
            else {
                panic!("{config}: {error}");
            };
            assert!(named.ends_with(field), "{config}: {error}");
        }
    }
}
