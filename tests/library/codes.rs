//! Safetensors checkpoints in codes: GPTQ, AWQ, compressed-tensors and FP8 against what a slow program makes of them.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_apb::checkpoint::{
    Checkpoint, LoadOptions, ModelSource, Quantization, StoredType, load, module_path, quantize,
};
use burn_apb::kernels::BlockFormat;
use burn_apb::load_decoder;
use burn_apb::model::{
    CausalLm, Decoder, DecoderConfig, KvCache, KvDType, Projection, QuantizedLinear,
    QuantizedLinearConfig,
};
use half::{bf16, f16};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};

/// How a weight is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Method {
    Gptq { bits: u32, second: bool },
    Awq,
    Packed { bits: u32, symmetric: bool },
    Bytes { symmetric: bool },
    Fp8 { inverse: bool },
}

use Method::{Awq, Bytes, Fp8, Gptq, Packed};

/// A weight to be stored.
#[derive(Debug, Clone, Copy)]
struct Case {
    method: Method,
    rows: usize,
    columns: usize,
    /// Rows and columns that share a scale; 0 for all.
    group: [usize; 2],
    ordered: bool,
    scales: Dtype,
    format: BlockFormat,
}

/// A tensor of a file.
#[derive(Debug, Clone)]
struct Stored {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A weight as numbers, and as it is stored.
struct Weight {
    /// `[rows, columns]`, each the f32 next to scale times whole number or float.
    elements: Vec<f32>,
    tensors: Vec<Stored>,
}

/// Words with fields of `bits` that are written one by one.
struct Words {
    words: Vec<u32>,
    bits: u32,
}

impl Words {
    fn new(count: usize, bits: u32) -> Self {
        Self {
            words: vec![0; count],
            bits,
        }
    }

    fn set(&mut self, word: usize, place: usize, value: i32) {
        let value = value as u32;
        assert!(value < 1 << self.bits, "{value} of {} bits", self.bits);
        for bit in 0..self.bits {
            let at = place as u32 * self.bits + bit;
            self.words[word] |= (value >> bit & 1) << at;
        }
    }

    fn bytes(&self) -> Vec<u8> {
        self.words
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect()
    }
}

/// A float of eight bits by its definition.
fn float8(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let value = match exponent {
        0 => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if code & 0x80 == 0 { value } else { -value }
}

impl Case {
    fn weight(&self, layer: &str, rng: &mut StdRng) -> Weight {
        let Self { rows, columns, .. } = *self;
        let [group_rows, group_columns] = [(self.group[0], rows), (self.group[1], columns)]
            .map(|(size, all)| if size == 0 { all } else { size });
        let (rows_of_scales, groups) = (rows.div_ceil(group_rows), columns.div_ceil(group_columns));
        let mut group_of: Vec<usize> = (0..columns).map(|column| column / group_columns).collect();
        if self.ordered {
            for at in (1..columns).rev() {
                group_of.swap(at, rng.random_range(0..=at));
            }
        }
        // Scales as the file holds them.
        let scales: Vec<f32> = (0..rows_of_scales * groups)
            .map(|_| {
                let scale: f32 = rng.random_range(0.001..0.03);
                match self.scales {
                    Dtype::F16 => f16::from_f32(scale).to_f32(),
                    Dtype::BF16 => bf16::from_f32(scale).to_f32(),
                    _ => scale,
                }
            })
            .collect();
        let (bits, symmetric, signed) = match self.method {
            Gptq { bits, .. } => (bits, false, false),
            Awq => (4, false, false),
            Packed { bits, symmetric } => (bits, symmetric, true),
            Bytes { symmetric } => (8, symmetric, true),
            Fp8 { .. } => (8, true, false),
        };
        let low = if signed { -(1 << (bits - 1)) } else { 0 };
        let high = low + (1 << bits) - 1;
        // GPTQ's first version cannot write 0.
        let smallest = if matches!(self.method, Gptq { second: false, .. }) {
            1
        } else {
            low
        };
        let eight_symmetric =
            self.format == BlockFormat::Int8x128 || self.format == BlockFormat::Int8x32;
        let zeros: Vec<i32> = (0..rows_of_scales * groups)
            .map(|i| match symmetric || eight_symmetric {
                true if signed || matches!(self.method, Fp8 { .. }) => 0,
                true => 1 << (bits - 1),
                false => [smallest, high, rng.random_range(smallest..=high)][i % 3],
            })
            .collect();
        let codes: Vec<i32> = (0..rows * columns)
            .map(|i| match i % 11 {
                0 => low,
                1 => high,
                _ => rng.random_range(low..=high),
            })
            .map(|code| match self.method {
                // No code that is no number.
                Fp8 { .. } if code & 0x7f == 0x7f => code - 1,
                _ => code,
            })
            .collect();
        let elements = (0..rows * columns)
            .map(|i| {
                let (row, column) = (i / columns, i % columns);
                let at = row / group_rows * groups + group_of[column];
                let value = match self.method {
                    Fp8 { .. } => float8(codes[i] as u8),
                    _ => f64::from(codes[i] - zeros[at]),
                };
                (f64::from(scales[at]) * value) as f32
            })
            .collect();
        let tensors = self.tensors(
            layer,
            &codes,
            &zeros,
            &scales,
            &group_of,
            [rows_of_scales, groups],
        );
        Weight { elements, tensors }
    }

    fn tensors(
        &self,
        layer: &str,
        codes: &[i32],
        zeros: &[i32],
        scales: &[f32],
        group_of: &[usize],
        [rows_of_scales, groups]: [usize; 2],
    ) -> Vec<Stored> {
        let Self { rows, columns, .. } = *self;
        let mut tensors = Vec::new();
        let mut add = |name: &str, dtype: Dtype, shape: &[usize], bytes: Vec<u8>| {
            tensors.push(Stored {
                name: format!("{layer}.{name}"),
                dtype,
                shape: shape.to_vec(),
                bytes,
            });
        };
        let scale_bytes = |at: &dyn Fn(usize) -> usize| -> Vec<u8> {
            let scales = (0..scales.len()).map(|i| scales[at(i)]);
            match self.scales {
                Dtype::F16 => scales
                    .flat_map(|x| f16::from_f32(x).to_le_bytes())
                    .collect(),
                Dtype::BF16 => scales
                    .flat_map(|x| bf16::from_f32(x).to_le_bytes())
                    .collect(),
                _ => scales.flat_map(f32::to_le_bytes).collect(),
            }
        };
        let g_idx = || {
            group_of
                .iter()
                .flat_map(|&group| (group as i32).to_le_bytes())
                .collect()
        };
        // `[groups, rows]`.
        let turned = |i: usize| i % rows * groups + i / rows;
        let in_order = |i: usize| i;
        match self.method {
            Gptq { bits, second } => {
                let n = 32 / bits as usize;
                let mut words = Words::new(columns / n * rows, bits);
                let mut of_zeros = Words::new(groups * rows / n, bits);
                for row in 0..rows {
                    for column in 0..columns {
                        let code = codes[row * columns + column];
                        words.set(column / n * rows + row, column % n, code);
                    }
                    for group in 0..groups {
                        let zero = zeros[row * groups + group] - i32::from(!second);
                        of_zeros.set(group * (rows / n) + row / n, row % n, zero);
                    }
                }
                add("qweight", Dtype::I32, &[columns / n, rows], words.bytes());
                add("qzeros", Dtype::I32, &[groups, rows / n], of_zeros.bytes());
                add("scales", self.scales, &[groups, rows], scale_bytes(&turned));
                add("g_idx", Dtype::I32, &[columns], g_idx());
            }
            Awq => {
                // Of a word's eight rows, which is lowest, and so on.
                const ORDER: [usize; 8] = [0, 2, 4, 6, 1, 3, 5, 7];
                let mut words = Words::new(columns * rows / 8, 4);
                let mut of_zeros = Words::new(groups * rows / 8, 4);
                for word in 0..rows / 8 {
                    for (place, within) in ORDER.into_iter().enumerate() {
                        let row = 8 * word + within;
                        for column in 0..columns {
                            let code = codes[row * columns + column];
                            words.set(column * (rows / 8) + word, place, code);
                        }
                        for group in 0..groups {
                            let zero = zeros[row * groups + group];
                            of_zeros.set(group * (rows / 8) + word, place, zero);
                        }
                    }
                }
                add("qweight", Dtype::I32, &[columns, rows / 8], words.bytes());
                add("qzeros", Dtype::I32, &[groups, rows / 8], of_zeros.bytes());
                add("scales", self.scales, &[groups, rows], scale_bytes(&turned));
            }
            Packed { bits, symmetric } => {
                let n = 32 / bits as usize;
                let middle = 1 << (bits - 1);
                let mut words = Words::new(columns / n * rows, bits);
                let mut of_zeros = Words::new(rows.div_ceil(n) * groups, bits);
                for row in 0..rows {
                    for column in 0..columns {
                        let code = codes[row * columns + column] + middle;
                        words.set(row * (columns / n) + column / n, column % n, code);
                    }
                    for group in 0..groups {
                        let zero = zeros[row * groups + group] + middle;
                        of_zeros.set(row / n * groups + group, row % n, zero);
                    }
                }
                let shape = [rows as i64, columns as i64].map(i64::to_le_bytes).concat();
                add(
                    "weight_packed",
                    Dtype::I32,
                    &[rows, columns / n],
                    words.bytes(),
                );
                add("weight_shape", Dtype::I64, &[2], shape);
                add(
                    "weight_scale",
                    self.scales,
                    &[rows, groups],
                    scale_bytes(&in_order),
                );
                if !symmetric {
                    let shape = [rows.div_ceil(n), groups];
                    add("weight_zero_point", Dtype::I32, &shape, of_zeros.bytes());
                }
                if self.ordered {
                    add("weight_g_idx", Dtype::I32, &[columns], g_idx());
                }
            }
            Bytes { .. } | Fp8 { .. } => {
                let bytes: Vec<u8> = codes.iter().map(|&code| code as u8).collect();
                let (dtype, scale) = match self.method {
                    Fp8 { inverse: true } => (Dtype::F8_E4M3, "weight_scale_inv"),
                    Fp8 { .. } => (Dtype::F8_E4M3, "weight_scale"),
                    _ => (Dtype::I8, "weight_scale"),
                };
                add("weight", dtype, &[rows, columns], bytes);
                let shape = [rows_of_scales, groups];
                add(scale, self.scales, &shape, scale_bytes(&in_order));
                if self.method == (Bytes { symmetric: false }) {
                    let bytes = zeros.iter().map(|&zero| zero as u8).collect();
                    add("weight_zero_point", Dtype::I8, &shape, bytes);
                }
            }
        }
        tensors
    }

    fn config(&self) -> Value {
        let size = match self.group[1] {
            0 => json!(-1),
            size => json!(size),
        };
        match self.method {
            Gptq { bits, second } => json!({
                "quant_method": "gptq", "bits": bits, "group_size": size, "desc_act": self.ordered,
                "sym": self.format == BlockFormat::Int8x128,
                "checkpoint_format": if second { "gptq_v2" } else { "gptq" },
            }),
            Awq => json!({
                "quant_method": "awq", "bits": 4, "group_size": size, "version": "gemm",
                "zero_point": true,
            }),
            Fp8 { inverse: true } => json!({
                "quant_method": "fp8", "weight_block_size": self.group,
                "activation_scheme": "dynamic",
            }),
            Packed { .. } | Bytes { .. } | Fp8 { .. } => {
                let (bits, symmetric, kind, format) = match self.method {
                    Packed { bits, symmetric } => (bits, symmetric, "int", "pack-quantized"),
                    Bytes { symmetric } => (8, symmetric, "int", "int-quantized"),
                    _ => (8, true, "float", "float-quantized"),
                };
                let mut weights = json!({"num_bits": bits, "type": kind, "symmetric": symmetric});
                match self.group {
                    [0, 0] => weights["strategy"] = json!("tensor"),
                    [_, 0] => weights["strategy"] = json!("channel"),
                    [1, size] => {
                        weights["strategy"] = json!("group");
                        weights["group_size"] = json!(size);
                    }
                    block => {
                        weights["strategy"] = json!("block");
                        weights["block_structure"] = json!(block);
                    }
                }
                json!({
                    "quant_method": "compressed-tensors", "format": format, "ignore": ["lm_head"],
                    "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
                })
            }
        }
    }
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    use BlockFormat::{Fp8x32, Fp8x128, Int4x32, Int4x64, Int4x128, Int8Zero, Int8x32, Int8x128};
    use Dtype::{BF16, F16, F32};
    let (first, second) = (Gptq { bits: 4, second: false }, Gptq { bits: 4, second: true });
    let eight = Gptq { bits: 8, second: false };
    let (four, four_zero) = (Packed { bits: 4, symmetric: true }, Packed { bits: 4, symmetric: false });
    let (wide, wide_zero) = (Packed { bits: 8, symmetric: true }, Packed { bits: 8, symmetric: false });
    let (bytes, bytes_zero) = (Bytes { symmetric: true }, Bytes { symmetric: false });
    let (blocks, floats) = (Fp8 { inverse: true }, Fp8 { inverse: false });
    [
        (first, [72, 384], [1, 128], false, F16, Int4x128),
        (first, [72, 384], [1, 128], true, F16, Int4x128),
        (second, [8, 320], [1, 64], true, BF16, Int4x64),
        (second, [200, 96], [1, 32], false, F16, Int4x32),
        (first, [16, 160], [1, 0], false, F16, Int4x32),
        (first, [16, 512], [1, 256], true, F16, Int4x128),
        (eight, [68, 256], [1, 128], true, F16, Int8x128),
        (Gptq { bits: 8, second: true }, [68, 96], [1, 32], false, F16, Int8Zero),
        (Awq, [72, 384], [1, 128], false, F16, Int4x128),
        (Awq, [136, 192], [1, 64], false, BF16, Int4x64),
        (Awq, [8, 96], [1, 32], false, F16, Int4x32),
        (Awq, [8, 256], [1, 0], false, F16, Int4x128),
        (four, [5, 384], [1, 128], false, BF16, Int4x128),
        (four, [67, 96], [1, 32], true, F16, Int4x32),
        (four_zero, [7, 256], [1, 128], true, BF16, Int4x128),
        (four_zero, [13, 192], [1, 0], false, F16, Int4x64),
        (wide, [5, 256], [1, 128], false, F32, Int8x128),
        (wide_zero, [6, 96], [1, 32], false, BF16, Int8Zero),
        (bytes, [65, 384], [1, 0], false, F32, Int8x128),
        (bytes, [3, 96], [0, 0], false, BF16, Int8x32),
        (bytes_zero, [9, 160], [1, 0], false, F16, Int8Zero),
        (bytes_zero, [9, 160], [1, 32], false, BF16, Int8Zero),
        (blocks, [200, 320], [128, 128], false, F32, Fp8x32),
        (blocks, [256, 384], [128, 128], false, BF16, Fp8x128),
        (floats, [5, 128], [1, 0], false, F32, Fp8x128),
        (floats, [5, 96], [0, 0], false, BF16, Fp8x32),
        (floats, [70, 256], [64, 128], false, F32, Fp8x128),
    ]
    .map(|(method, [rows, columns], group, ordered, scales, format)| Case {
        method, rows, columns, group, ordered, scales, format,
    })
    .into()
}

fn write(folder: &Path, config: &Value, tensors: &[Stored]) {
    std::fs::write(folder.join("config.json"), config.to_string()).expect("written");
    let views = tensors.iter().map(|tensor| {
        let view = TensorView::new(tensor.dtype, tensor.shape.clone(), &tensor.bytes);
        (tensor.name.clone(), view.expect("a tensor"))
    });
    serialize_to_file(views, None, &folder.join("model.safetensors")).expect("written");
}

fn checkpoint(config: &Value, tensors: &[Stored]) -> Result<Checkpoint, String> {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), config, tensors);
    let source = ModelSource::open(folder.path()).map_err(|error| error.to_string())?;
    source.checkpoint().map_err(|error| error.to_string())
}

fn floats(data: &TensorData) -> Vec<f32> {
    data.iter::<f32>().collect()
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The layer of a checkpoint that holds one.
fn layer(case: &Case, checkpoint: &Checkpoint) -> Result<QuantizedLinear, String> {
    let device = Device::flex();
    let layer = QuantizedLinearConfig::new(case.columns, case.rows, case.format)
        .with_order(case.ordered)
        .init(&device)
        .expect("whole blocks");
    let rename = |name: &str| name.trim_start_matches("layer.").to_string();
    let loaded = load(layer, checkpoint, FloatDType::F32, rename, &mut |_| ());
    loaded
        .map(|(layer, _)| layer)
        .map_err(|error| error.to_string())
}

/// As floats, as blocks, saved and read again, and multiplied: by few rows and by many.
#[test]
fn every_way_of_storing_codes_is_read_bit_by_bit() {
    let (rng, device) = (&mut StdRng::seed_from_u64(5), Device::flex());
    for case in cases() {
        let weight = case.weight("layer", rng);
        let config = json!({"quantization_config": case.config()});
        let checkpoint = checkpoint(&config, &weight.tensors).expect("a checkpoint");
        let [info] = &checkpoint.tensors().collect::<Vec<_>>()[..] else {
            panic!("{case:?}: {:?}", checkpoint.tensors().collect::<Vec<_>>());
        };
        assert_eq!(info.name, "layer.weight");
        assert_eq!(info.shape, [case.rows, case.columns], "{case:?}");
        assert_eq!(info.stored, StoredType::Quantized(case.format), "{case:?}");
        let read = checkpoint
            .read("layer.weight", FloatDType::F32)
            .expect("floats");
        assert!(bits(&floats(&read)) == bits(&weight.elements), "{case:?}");
        let half = checkpoint
            .read("layer.weight", FloatDType::BF16)
            .expect("floats");
        let rounded = weight.elements.iter().map(|&x| bf16::from_f32(x).to_f32());
        assert!(floats(&half) == rounded.collect::<Vec<_>>(), "{case:?}");

        let layer = layer(&case, &checkpoint).expect("a layer");
        let held: usize = layer.blocks.val().dims().iter().product();
        let stored: usize = weight.tensors.iter().map(|tensor| tensor.bytes.len()).sum();
        assert_eq!(checkpoint.loaded_bytes(FloatDType::F32), held as u64);
        assert!(
            held as f64 <= 1.125 * stored as f64,
            "{case:?}: {held} for {stored}"
        );
        let found = layer
            .dequantize(FloatDType::F32)
            .expect("floats")
            .into_data();
        assert!(bits(&floats(&found)) == bits(&weight.elements), "{case:?}");

        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("layer.bpk");
        layer.clone().save_file(&path).expect("saved");
        let empty = |ordered| {
            let config = QuantizedLinearConfig::new(case.columns, case.rows, case.format);
            config.with_order(ordered).init(&device).expect("a layer")
        };
        let again = empty(case.ordered).try_load_file(&path).expect("read");
        let found = again
            .dequantize(FloatDType::F32)
            .expect("floats")
            .into_data();
        assert!(bits(&floats(&found)) == bits(&weight.elements), "{case:?}");
        if !case.ordered {
            assert!(
                empty(true).try_load_file(&path).is_err(),
                "{case:?}: no order"
            );
        }

        let data = TensorData::new(weight.elements.clone(), [case.rows, case.columns]);
        let dense = Tensor::<2>::from_data(data, &device).transpose();
        for rows in [1, 3, 20] {
            let values = (0..rows * case.columns).map(|_| rng.random_range(-1f32..1.0));
            let data = TensorData::new(values.collect::<Vec<_>>(), [1, rows, case.columns]);
            let x = Tensor::<3>::from_data(data, &device);
            let found = layer.forward(x.clone()).expect("rows").squeeze_dim::<2>(0);
            let expected = x.squeeze_dim::<2>(0).matmul(dense.clone());
            let size: f32 = expected.clone().abs().max().into_scalar();
            let error: f32 = (found - expected).abs().max().into_scalar();
            let most = match (rows, case.format) {
                // `x` in eight bits.
                (1 | 3, format) if !format.name().starts_with("FP8") => 0.03,
                // `x` and the weight in bf16.
                (20, _) if in_tiles() => 0.01,
                _ => 1e-5,
            };
            assert!(
                error < most * size.max(0.1),
                "{case:?}, {rows} rows: {error} of {size}"
            );
        }
    }
}

/// A decoder of `case`'s kind of layers, its head in floats.
fn decoder(case: &Case, folder: &Path, rng: &mut StdRng) -> DecoderConfig {
    let (hidden, inner, heads, head_dim, vocab) = (128usize, 256usize, 4usize, 32usize, 512usize);
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": vocab,
        "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": 2,
        "num_attention_heads": heads, "num_key_value_heads": 2, "head_dim": head_dim,
        "hidden_act": "silu", "max_position_embeddings": 256, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": false, "quantization_config": case.config(),
    });
    let mut tensors = Vec::new();
    let mut dense = |name: &str, shape: &[usize], rng: &mut StdRng| {
        let count: usize = shape.iter().product();
        let values = (0..count).map(|_| bf16::from_f32(rng.random_range(0.2..1.0)));
        tensors.push(Stored {
            name: name.into(),
            dtype: Dtype::BF16,
            shape: shape.to_vec(),
            bytes: values.flat_map(|x| x.to_le_bytes()).collect(),
        });
    };
    dense("model.embed_tokens.weight", &[vocab, hidden], rng);
    dense("lm_head.weight", &[vocab, hidden], rng);
    dense("model.norm.weight", &[hidden], rng);
    for layer in 0..2 {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            dense(
                &format!("model.layers.{layer}.{norm}.weight"),
                &[hidden],
                rng,
            );
        }
    }
    for layer in 0..2 {
        for (name, rows, columns) in [
            ("self_attn.q_proj", heads * head_dim, hidden),
            ("self_attn.k_proj", 2 * head_dim, hidden),
            ("self_attn.v_proj", 2 * head_dim, hidden),
            ("self_attn.o_proj", hidden, heads * head_dim),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ] {
            let case = Case {
                rows,
                columns,
                ..*case
            };
            let name = format!("model.layers.{layer}.{name}");
            tensors.extend(case.weight(&name, rng).tensors);
        }
    }
    write(folder, &config, &tensors);
    DecoderConfig::from_json(&config.to_string()).expect("a configuration")
}

/// Logits `[tokens, vocab]`, `passes` rows at a time.
fn logits(decoder: &Decoder, passes: usize) -> Tensor<2> {
    let (device, ids) = (decoder.device(), (0..24).collect::<Vec<i32>>());
    let rope = decoder.rope(ids.len());
    let shape = decoder.shape();
    let mut cache = KvCache::new(shape, 1, ids.len(), KvDType::F32, &device).expect("a cache");
    let mut rows = Vec::new();
    for ids in ids.chunks(passes) {
        let data = TensorData::new(ids.to_vec(), [1, ids.len()]);
        let tokens = Tensor::<2, Int>::from_data(data, (&device, DType::I32));
        let hidden = decoder
            .forward_cached(tokens, &rope, &mut cache)
            .expect("hidden rows");
        rows.push(decoder.logits(hidden).expect("logits").squeeze_dim::<2>(0));
    }
    Tensor::cat(rows, 0)
}

#[test]
fn a_decoder_in_codes_computes_as_its_floats_do() {
    let (rng, device) = (&mut StdRng::seed_from_u64(6), Device::flex());
    for case in cases() {
        // What fits the decoder's widths.
        let fits = case.group[1] <= 128 && (case.format.block_len() == 128 || case.ordered);
        if !fits {
            continue;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let config = decoder(&case, folder.path(), rng);
        let source = ModelSource::open(folder.path()).expect("a model");
        let open = |dequantize| {
            let options = LoadOptions::new(FloatDType::F32).with_dequantize(dequantize);
            load_decoder(&source, &config, options, &device, &mut |_| ()).expect("a decoder")
        };
        let ((codes, report), (floats, _)) = (open(false), open(true));
        assert!(report.warnings.is_empty(), "{:?}", report.warnings);
        let count: usize = report.formats.iter().map(|(_, count)| count).sum();
        assert_eq!(count, 14, "{case:?}: {:?}", report.formats);
        assert!(
            codes
                .lm_head
                .as_ref()
                .is_some_and(|head| head.float().is_some())
        );
        let Projection::Quantized(down) = &codes.layers[1].mlp.down_proj else {
            panic!("{case:?}: floats");
        };
        // It has several groups.
        assert_eq!(down.order.is_some(), case.ordered, "{case:?}");
        assert!(floats.layers[1].mlp.up_proj.float().is_some());
        let expected = logits(&floats, 24);
        // The root of the mean square of the difference, of that of the logits.
        let apart = |found: Tensor<2>| -> f32 {
            let square = |x: Tensor<2>| x.powi_scalar(2).mean().into_scalar::<f32>();
            (square(found - expected.clone()) / square(expected.clone())).sqrt()
        };
        // Scores of random layers are large, and what is rounded in them is felt.
        let many = if in_tiles() { 0.2 } else { 1e-4 };
        for (passes, most) in [(24, many), (5, 0.05), (1, 0.05)] {
            let error = apart(logits(&codes, passes));
            assert!(error < most, "{case:?}, {passes}: {error}");
        }
        let fingerprint = source.fingerprint().expect("a fingerprint");
        assert_eq!(fingerprint, source.fingerprint().expect("a fingerprint"));
        // Into blocks of another file.
        let fixtures =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/models/llama-gqa");
        for name in ["tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(fixtures.join(name), folder.path().join(name)).expect("copied");
        }
        let out = folder.path().join("codes.gguf");
        quantize(folder.path(), &out, Quantization::Q8_0, &mut |_| ()).expect("a file");
        let file = ModelSource::open(&out).expect("a model");
        let options = LoadOptions::new(FloatDType::F32).with_dequantize(true);
        let blocks = load_decoder(&file, &config, options, &device, &mut |_| ());
        let error = apart(logits(&blocks.expect("a decoder").0, 24));
        assert!(error < 0.2, "{case:?}: {error}");
        // Into a decoder of floats, and of other codes.
        let checkpoint = source.checkpoint().expect("a checkpoint");
        let (_, report) = load(
            config.init(&device),
            &checkpoint,
            FloatDType::F32,
            module_path,
            &mut |_| (),
        )
        .expect("floats");
        assert!(report.formats.is_empty());
        let mut other = config.init(&device);
        let layer = QuantizedLinearConfig::new(256, 128, case.format).with_order(!case.ordered);
        other.layers[0].mlp.down_proj = layer.init(&device).expect("a layer").into();
        let error = load(
            other,
            &checkpoint,
            FloatDType::F32,
            module_path,
            &mut |_| (),
        );
        let error = error.expect_err("another order").to_string();
        assert!(
            error.contains("mlp.down_proj") && error.contains("order"),
            "{error}"
        );
    }
}

fn find<'a>(tensors: &'a mut [Stored], part: &str) -> &'a mut Stored {
    let name = format!("layer.{part}");
    tensors
        .iter_mut()
        .find(|tensor| tensor.name == name)
        .expect("there")
}

/// What each broken checkpoint of a case is refused with, when it is opened or when it is read.
fn refused(case: &Case, change: &dyn Fn(&mut Value, &mut Vec<Stored>)) -> String {
    let weight = case.weight("layer", &mut StdRng::seed_from_u64(7));
    let (mut config, mut tensors) = (case.config(), weight.tensors);
    change(&mut config, &mut tensors);
    let found = match checkpoint(&json!({"quantization_config": config}), &tensors) {
        Err(error) => return error,
        Ok(found) => found,
    };
    let as_floats = found.read("layer.weight", FloatDType::F32);
    let as_floats = as_floats.expect_err("no floats").to_string();
    let as_blocks = layer(case, &found).expect_err("no blocks");
    let reason = |text: &str| text.split(": ").skip(1).collect::<Vec<_>>().join(": ");
    assert_eq!(reason(&as_floats), reason(&as_blocks), "alike both ways");
    as_blocks
}

type Change = Box<dyn Fn(&mut Value, &mut Vec<Stored>)>;

#[test]
fn broken_codes_are_refused_by_name_and_place() {
    let all = cases();
    let find_case = |method: Method, ordered: bool| {
        let found = all
            .iter()
            .find(|case| case.method == method && case.ordered == ordered);
        *found.expect("a case")
    };
    let gptq = find_case(
        Gptq {
            bits: 4,
            second: false,
        },
        true,
    );
    let eight = find_case(
        Gptq {
            bits: 8,
            second: false,
        },
        true,
    );
    let awq = find_case(Awq, false);
    let packed = find_case(
        Packed {
            bits: 4,
            symmetric: false,
        },
        true,
    );
    let bytes = find_case(Bytes { symmetric: true }, false);
    let fp8 = find_case(Fp8 { inverse: true }, false);
    let set = |part: &'static str, at: usize, with: Vec<u8>| -> Change {
        Box::new(move |_, tensors| {
            find(tensors, part).bytes[at..at + with.len()].copy_from_slice(&with);
        })
    };
    let shape = |part: &'static str, shape: Vec<usize>| -> Change {
        Box::new(move |_, tensors| {
            let tensor = find(tensors, part);
            let width = tensor.bytes.len() / tensor.shape.iter().product::<usize>();
            tensor
                .bytes
                .resize(width * shape.iter().product::<usize>(), 0);
            tensor.shape.clone_from(&shape);
        })
    };
    let without = |part: &'static str| -> Change {
        Box::new(move |_, tensors| {
            let name = format!("layer.{part}");
            tensors.retain(|tensor| tensor.name != name);
        })
    };
    let number = |x: i32| x.to_le_bytes().to_vec();
    let (infinite, nan) = (vec![0x00, 0x7c], vec![0x01, 0xfe]);
    let cases: Vec<(Case, Change, &[&str])> = vec![
        (
            gptq,
            set("scales", 2 * (72 + 5), infinite),
            &["layer.scales", "[1, 5]", "inf"],
        ),
        (
            gptq,
            set("scales", 0, nan.clone()),
            &["layer.scales", "[0, 0]", "NaN"],
        ),
        (gptq, without("scales"), &["layer.qweight", "layer.scales"]),
        (gptq, without("qzeros"), &["layer.qweight", "layer.qzeros"]),
        (
            gptq,
            shape("scales", vec![2, 72]),
            &["layer.scales", "[3, 72]", "[2, 72]"],
        ),
        (
            gptq,
            shape("qzeros", vec![3, 8]),
            &["layer.qzeros", "[3, 9]"],
        ),
        (
            gptq,
            shape("qweight", vec![40, 72]),
            &["layer.qweight", "groups of 128", "320"],
        ),
        (
            gptq,
            shape("qweight", vec![48]),
            &["layer.qweight", "matrix"],
        ),
        (
            gptq,
            shape("g_idx", vec![383]),
            &["layer.g_idx", "[384]", "[383]"],
        ),
        (
            gptq,
            set("g_idx", 4 * 9, number(3)),
            &["layer.g_idx", "0 to 2", "3 at [9]"],
        ),
        (
            gptq,
            set("g_idx", 4 * 9, number(-1)),
            &["layer.g_idx", "-1 at [9]"],
        ),
        (
            gptq,
            Box::new(|_, tensors| find(tensors, "g_idx").bytes.fill(0)),
            &["layer.g_idx", "128 columns of group 0", "[128]"],
        ),
        (
            gptq,
            Box::new(|config, _| config["group_size"] = json!(96)),
            &["layer.qzeros", "[4, 9]"],
        ),
        (
            gptq,
            Box::new(|config, _| config["bits"] = json!(8)),
            &["layer.qweight", "groups of 128", "192"],
        ),
        (
            gptq,
            Box::new(|_, tensors| {
                let mut twice = tensors[0].clone();
                twice.name = "layer.weight".into();
                tensors.push(twice);
            }),
            &["layer.qweight", "layer.weight"],
        ),
        (
            eight,
            set("qzeros", 0, vec![0x80]),
            &["layer.qzeros", "row 0, group 0", "symmetric"],
        ),
        (
            awq,
            set("scales", 4, nan.clone()),
            &["layer.scales", "[0, 2]", "NaN"],
        ),
        (
            awq,
            shape("qzeros", vec![4, 9]),
            &["layer.qzeros", "[3, 9]"],
        ),
        (
            packed,
            without("weight_shape"),
            &["layer.weight_packed", "weight_shape"],
        ),
        (
            packed,
            without("weight_scale"),
            &["layer.weight_packed", "weight_scale"],
        ),
        (packed, without("weight_zero_point"), &["weight_zero_point"]),
        (
            packed,
            set("weight_shape", 8, 257i64.to_le_bytes().to_vec()),
            &["layer.weight_shape", "[7, 256]", "[7, 257]"],
        ),
        (
            packed,
            set("weight_g_idx", 0, number(9)),
            &["layer.weight_g_idx", "9 at [0]"],
        ),
        (
            packed,
            Box::new(|_, tensors| {
                let zeros = find(tensors, "weight_zero_point");
                (zeros.dtype, zeros.shape) = (Dtype::I8, vec![7, 2]);
                zeros.bytes = vec![0; 14];
                zeros.bytes[5] = 8;
            }),
            &["layer.weight_zero_point", "row 2, group 1"],
        ),
        (
            bytes,
            shape("weight_scale", vec![64, 1]),
            &["layer.weight_scale", "[65, 1]"],
        ),
        (
            bytes,
            set("weight_scale", 8, f32::INFINITY.to_le_bytes().to_vec()),
            &["layer.weight_scale", "[2, 0]", "inf"],
        ),
        (
            bytes,
            Box::new(|config, _| {
                config["config_groups"]["group_0"]["weights"] =
                    json!({"num_bits": 8, "type": "float", "strategy": "channel"});
            }),
            &["layer.weight", "config_groups"],
        ),
        (
            fp8,
            set("weight", 3 * 320 + 7, vec![0xff]),
            &["layer.weight", "[3, 7]", "no number"],
        ),
        (
            fp8,
            shape("weight_scale_inv", vec![2, 2]),
            &["layer.weight_scale_inv", "[2, 3]"],
        ),
        (
            fp8,
            without("weight_scale_inv"),
            &["layer.weight", "weight_scale"],
        ),
        (
            fp8,
            Box::new(|_, tensors| {
                let scales = find(tensors, "weight_scale_inv");
                scales.dtype = Dtype::I32;
            }),
            &["layer.weight_scale_inv", "I32"],
        ),
    ];
    for (i, (case, change, named)) in cases.iter().enumerate() {
        let error = refused(case, change);
        for name in *named {
            assert!(error.contains(name), "{i}: {error}, without {name}");
        }
        assert!(error.contains("model.safetensors"), "{i}: {error}");
    }
}

/// f32 scales with more digits than f16 and bf16 have, beside zero points: refused in codes, read as floats.
#[test]
fn long_scales_are_read_as_floats_only() {
    let method = Gptq {
        bits: 4,
        second: true,
    };
    let case = Case {
        method,
        rows: 8,
        columns: 128,
        group: [1, 128],
        ordered: false,
        scales: Dtype::F32,
        format: BlockFormat::Int4x128,
    };
    let weight = case.weight("layer", &mut StdRng::seed_from_u64(8));
    let config = json!({"quantization_config": case.config()});
    let checkpoint = checkpoint(&config, &weight.tensors).expect("a checkpoint");
    let read = checkpoint
        .read("layer.weight", FloatDType::F32)
        .expect("floats");
    assert!(bits(&floats(&read)) == bits(&weight.elements));
    let error = layer(&case, &checkpoint).expect_err("no blocks");
    assert!(
        error.contains("--dequantize") && error.contains("layer.scales"),
        "{error}"
    );
}

/// Older models say in a file of its own how their weights are quantised.
#[test]
fn codes_without_a_configuration_are_named() {
    let case = cases()[0];
    let weight = case.weight("layer", &mut StdRng::seed_from_u64(9));
    let checkpoint = checkpoint(&json!({}), &weight.tensors).expect("tensors");
    assert_eq!(checkpoint.tensors().len(), 4);
    let error = layer(&case, &checkpoint).expect_err("no weight");
    assert!(
        error.contains("quantize_config.json") && error.contains("layer.qweight"),
        "{error}"
    );
}

/// Whether many rows are multiplied in bf16, with weights that are rounded to it.
fn in_tiles() -> bool {
    matches!(burn_apb::kernels::simd_name(), Ok("AMX" | "AVX-512 BF16"))
}
