//! Which tensors of a checkpoint are one weight in codes, and whether they go together.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use burn::tensor::FloatDType;

use super::packing::{Packing, ZeroPacking, codes_of_word};
use super::{Codes, GroupedTensor, Layout, Part, format};
use crate::checkpoint::config::{Group, QuantizationConfig, Strategy};
use crate::checkpoint::error::WeightsError;
use crate::checkpoint::tensor::{Data, StoredType, TensorInfo};

type Tensors = Vec<(TensorInfo, Data)>;

/// What belongs to a weight of GPTQ and AWQ.
const PACKED_PARTS: [&str; 4] = ["qweight", "qzeros", "scales", "g_idx"];
/// What belongs to a weight of compressed-tensors and FP8 beside its codes. The scales of activations are not used,
/// as activations stay floats.
const SCALED_PARTS: [&str; 12] = [
    "weight_packed",
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "weight_shape",
    "weight_g_idx",
    "input_scale",
    "input_zero_point",
    "output_scale",
    "output_zero_point",
    "activation_scale",
    "input_scale_ub",
];

/// The tensors of a checkpoint with one [`GroupedTensor`] named `weight` in place of those that a quantised weight
/// consists of. Scales and codes are not read, orders of columns are.
///
/// # Errors
///
/// [`WeightsError::Quantized`] for tensors that do not go together.
pub(in crate::checkpoint) fn resolve(
    tensors: Tensors,
    quantization: &QuantizationConfig,
) -> Result<Tensors, WeightsError> {
    let by_name: HashMap<&str, usize> = tensors
        .iter()
        .enumerate()
        .map(|(at, (info, _))| (info.name.as_str(), at))
        .collect();
    let (mut made, mut taken) = (HashMap::new(), HashSet::new());
    for (at, (info, _)) in tensors.iter().enumerate() {
        let Some((stem, parts)) = weight(info, quantization) else {
            continue;
        };
        let layer = Layer {
            tensors: &tensors,
            by_name: &by_name,
            codes: at,
            stem,
        };
        let name = format!("{stem}.weight");
        if info.name != name && by_name.contains_key(name.as_str()) {
            return Err(wrong(
                info,
                "one weight of this layer",
                format!("`{name}` too"),
            ));
        }
        let tensor = match quantization {
            QuantizationConfig::Gptq {
                bits,
                group_size,
                symmetric,
                less_one,
                ordered,
            } => layer.gptq(*bits, *group_size, [*symmetric, *less_one, *ordered]),
            QuantizationConfig::Awq { group_size } => layer.awq(*group_size),
            QuantizationConfig::CompressedTensors { groups } => layer.compressed_tensors(groups),
            QuantizationConfig::Fp8 { block } => layer.fp8(*block),
        }?;
        taken.extend(parts.iter().filter_map(|part| layer.at(part)));
        let of_weight = TensorInfo {
            name,
            shape: vec![tensor.rows, tensor.columns],
            stored: StoredType::Quantized(tensor.format),
            file: info.file.clone(),
        };
        made.insert(at, (of_weight, Data::Grouped(Arc::new(tensor))));
    }
    let all = tensors.into_iter().enumerate();
    Ok(all
        .filter_map(|(at, tensor)| match made.remove(&at) {
            Some(made) => Some(made),
            None => (!taken.contains(&at)).then_some(tensor),
        })
        .collect())
}

/// The layer whose codes a tensor is, and the names of all that belongs to them.
fn weight<'a>(
    info: &'a TensorInfo,
    quantization: &QuantizationConfig,
) -> Option<(&'a str, &'static [&'static str])> {
    let plain = |types: &[&str]| {
        let stem = info.name.strip_suffix(".weight")?;
        let stored =
            matches!(&info.stored, StoredType::Other(name) if types.contains(&name.as_str()));
        stored.then_some((stem, &SCALED_PARTS[..]))
    };
    match quantization {
        QuantizationConfig::Gptq { .. } | QuantizationConfig::Awq { .. } => {
            let stem = info.name.strip_suffix(".qweight")?;
            Some((stem, &PACKED_PARTS))
        }
        QuantizationConfig::CompressedTensors { .. } => {
            match info.name.strip_suffix(".weight_packed") {
                Some(stem) => Some((stem, &SCALED_PARTS)),
                None => plain(&[I8, F8]),
            }
        }
        QuantizationConfig::Fp8 { .. } => plain(&[F8]),
    }
}

const I8: &str = "I8";
const I32: &str = "I32";
const I64: &str = "I64";
const F8: &str = "F8_E4M3";

/// The tensors of a layer.
struct Layer<'a> {
    tensors: &'a [(TensorInfo, Data)],
    by_name: &'a HashMap<&'a str, usize>,
    /// Which tensor the codes are.
    codes: usize,
    stem: &'a str,
}

/// Scales by the rows and columns that share one.
struct Scales {
    part: Part,
    dtype: FloatDType,
    layout: Layout,
    group: [usize; 2],
}

impl Layer<'_> {
    fn at(&self, part: &str) -> Option<usize> {
        let name = format!("{}.{part}", self.stem);
        self.by_name.get(name.as_str()).copied()
    }

    fn info(&self, part: &str) -> Option<&TensorInfo> {
        self.at(part).map(|at| &self.tensors[at].0)
    }

    fn codes(&self) -> &TensorInfo {
        &self.tensors[self.codes].0
    }

    /// A part that has to be there.
    fn required(&self, part: &str) -> Result<&TensorInfo, WeightsError> {
        self.info(part).ok_or_else(|| {
            let name = format!("`{}.{part}` beside it", self.stem);
            wrong(self.codes(), name, "none")
        })
    }

    /// A tensor's bytes.
    fn part(&self, info: &TensorInfo) -> Result<Part, WeightsError> {
        let at = self.by_name.get(info.name.as_str());
        let place = at.and_then(|&at| self.tensors[at].1.place());
        let (file, range) = place.ok_or_else(|| wrong(info, "elements in its file", "none"))?;
        Ok(Part {
            name: info.name.clone(),
            file: file.clone(),
            range: range.clone(),
        })
    }

    /// Whole numbers of four or eight bytes each.
    fn whole_numbers(&self, info: &TensorInfo) -> Result<Vec<i64>, WeightsError> {
        let part = self.part(info)?;
        let bytes = part
            .bytes()
            .map_err(|reason| wrong(info, "a whole file", reason))?;
        Ok(match &info.stored {
            StoredType::Other(name) if name == I64 => {
                let numbers = bytes.as_chunks::<8>().0.iter();
                numbers.map(|&bytes| i64::from_le_bytes(bytes)).collect()
            }
            _ => {
                check_type(info, I32)?;
                let numbers = bytes.as_chunks::<4>().0.iter();
                numbers
                    .map(|&bytes| i32::from_le_bytes(bytes).into())
                    .collect()
            }
        })
    }

    /// Scales of one of `shapes`.
    fn scales(
        &self,
        part: &str,
        shapes: &[(Vec<usize>, [usize; 2])],
        layout: Layout,
    ) -> Result<(Scales, usize), WeightsError> {
        let info = self.required(part)?;
        let StoredType::Float(dtype) = info.stored else {
            return Err(wrong(info, "F32, F16 or BF16", info.stored.to_string()));
        };
        if dtype == FloatDType::F64 {
            return Err(wrong(info, "F32, F16 or BF16", "F64"));
        }
        let Some(found) = shapes.iter().position(|(shape, _)| *shape == info.shape) else {
            let expected: Vec<String> = shapes
                .iter()
                .map(|(shape, _)| format!("{shape:?}"))
                .collect();
            let expected = format!("scales {}", expected.join(" or "));
            return Err(wrong(info, expected, format!("{:?}", info.shape)));
        };
        let scales = Scales {
            part: self.part(info)?,
            dtype,
            layout,
            group: shapes[found].1,
        };
        Ok((scales, found))
    }

    /// The weight of parts that go together.
    fn tensor(
        &self,
        packing: Packing,
        codes_of: Codes,
        [rows, columns]: [usize; 2],
        scales: Scales,
        zeros: Option<(Part, ZeroPacking)>,
        order: Option<Arc<[u32]>>,
    ) -> Result<GroupedTensor, WeightsError> {
        let codes = self.codes();
        let [group_rows, group_columns] = scales.group;
        let format = format(codes_of, columns, group_columns).ok_or_else(|| {
            let found = format!("{columns} columns in groups of {group_columns}");
            wrong(codes, "rows and groups of a multiple of 32 columns", found)
        })?;
        Ok(GroupedTensor {
            codes: self.part(codes)?,
            packing,
            scales: scales.part,
            scale_type: scales.dtype,
            scale_layout: scales.layout,
            zeros,
            rows,
            columns,
            group_rows,
            group_columns,
            order,
            codes_of,
            format,
        })
    }

    /// Columns of a group, and how many groups there are.
    fn groups(
        &self,
        columns: usize,
        group_size: Option<usize>,
    ) -> Result<[usize; 2], WeightsError> {
        let size = group_size.unwrap_or(columns);
        match columns.is_multiple_of(size) {
            true => Ok([size, columns / size]),
            false => {
                let expected = format!("columns in groups of {size}");
                Err(wrong(self.codes(), expected, columns.to_string()))
            }
        }
    }

    /// The order of columns in which those of a group stand side by side; none where they do.
    fn order(
        &self,
        part: &str,
        columns: usize,
        [size, groups]: [usize; 2],
        ordered: bool,
    ) -> Result<Option<Arc<[u32]>>, WeightsError> {
        let info = match ordered && groups > 1 {
            true => Some(self.required(part)?),
            false => self.info(part),
        };
        let Some(info) = info else {
            return Ok(None);
        };
        check_shape(info, &[columns])?;
        let group_of = self.whole_numbers(info)?;
        // As compressed-tensors writes it where there is no order.
        if group_of.iter().all(|&group| group == -1) {
            return Ok(None);
        }
        let mut order = vec![0u32; columns];
        let mut counts = vec![0usize; groups];
        for (column, &group) in group_of.iter().enumerate() {
            let known = usize::try_from(group).ok();
            let Some(known) = known.filter(|&group| group < groups) else {
                let found = format!("{group} at [{column}]");
                return Err(wrong(
                    info,
                    format!("groups from 0 to {}", groups - 1),
                    found,
                ));
            };
            if counts[known] == size {
                let found = format!("another at [{column}]");
                return Err(wrong(
                    info,
                    format!("{size} columns of group {known}"),
                    found,
                ));
            }
            order[known * size + counts[known]] = column as u32;
            counts[known] += 1;
        }
        let in_order = order
            .iter()
            .enumerate()
            .all(|(at, &column)| at == column as usize);
        Ok((!in_order).then(|| order.into()))
    }

    fn gptq(
        &self,
        bits: u32,
        group_size: Option<usize>,
        [symmetric, less_one, ordered]: [bool; 3],
    ) -> Result<GroupedTensor, WeightsError> {
        let codes = self.codes();
        check_type(codes, I32)?;
        let n = codes_of_word(bits);
        let [words, rows] = matrix(codes)?;
        let columns = n * words;
        let groups = self.groups(columns, group_size)?;
        let [size, count] = groups;
        let zeros = self.required("qzeros")?;
        check_type(zeros, I32)?;
        check_multiple(codes, rows, n)?;
        check_shape(zeros, &[count, rows / n])?;
        let shapes = [(vec![count, rows], [1, size])];
        let (scales, _) = self.scales("scales", &shapes, Layout::GroupsFirst)?;
        let codes_of = match bits {
            4 => Codes::Four,
            _ => Codes::Eight { symmetric },
        };
        let zeros = (self.part(zeros)?, ZeroPacking::Columns { bits, less_one });
        let order = self.order("g_idx", columns, groups, ordered)?;
        let packing = Packing::Columns { bits };
        self.tensor(
            packing,
            codes_of,
            [rows, columns],
            scales,
            Some(zeros),
            order,
        )
    }

    fn awq(&self, group_size: Option<usize>) -> Result<GroupedTensor, WeightsError> {
        let codes = self.codes();
        check_type(codes, I32)?;
        let [columns, words] = matrix(codes)?;
        let rows = 8 * words;
        let [size, count] = self.groups(columns, group_size)?;
        let zeros = self.required("qzeros")?;
        check_type(zeros, I32)?;
        check_shape(zeros, &[count, words])?;
        let shapes = [(vec![count, rows], [1, size])];
        let (scales, _) = self.scales("scales", &shapes, Layout::GroupsFirst)?;
        let zeros = (self.part(zeros)?, ZeroPacking::Interleaved);
        let shape = [rows, columns];
        self.tensor(
            Packing::Interleaved,
            Codes::Four,
            shape,
            scales,
            Some(zeros),
            None,
        )
    }

    fn compressed_tensors(&self, groups: &[Group]) -> Result<GroupedTensor, WeightsError> {
        let codes = self.codes();
        let packed = codes.name.ends_with("weight_packed");
        let (packing, [rows, columns]) = match packed {
            true => self.packed_rows()?,
            false => (Packing::Bytes, matrix(codes)?),
        };
        let float = codes.stored == StoredType::Other(F8.into());
        // The groups that a layer like this may be of, by the shape of their scales.
        let mut shapes: Vec<(Vec<usize>, [usize; 2])> = Vec::new();
        let mut of_shapes = Vec::new();
        for group in groups {
            let fits = match packing {
                Packing::Rows { bits } => !group.float && group.bits == bits,
                _ => group.float == float,
            };
            if fits {
                let all = shapes_of_scales(group.strategy, [rows, columns]);
                of_shapes.extend(all.iter().map(|_| group));
                shapes.extend(all);
            }
        }
        if shapes.is_empty() {
            let expected = "codes in groups of a `config_groups` of its `config.json`";
            let found = format!(
                "{} {:?} of other codes or widths",
                codes.stored, codes.shape
            );
            return Err(wrong(codes, expected, found));
        }
        let (scales, found) = self.scales("weight_scale", &shapes, Layout::RowsFirst)?;
        let group = of_shapes[found];
        let codes_of = match (packing, float) {
            (_, true) => Codes::Floats,
            (Packing::Rows { bits: 4 }, _) => Codes::Four,
            _ => Codes::Eight {
                symmetric: group.symmetric,
            },
        };
        let zeros = match self.info("weight_zero_point") {
            Some(zeros) if !float => {
                Some(self.zeros_of_rows(zeros, packing, [rows, columns], &scales)?)
            }
            None if !float && !group.symmetric => {
                self.required("weight_zero_point")?;
                None
            }
            _ => None,
        };
        let [_, size] = scales.group;
        let order = match group.strategy {
            Strategy::Group(_) => {
                let groups = [size, columns / size];
                self.order("weight_g_idx", columns, groups, group.ordered)?
            }
            _ => None,
        };
        self.tensor(packing, codes_of, [rows, columns], scales, zeros, order)
    }

    /// How words of rows are packed, by the shape that the codes have without them.
    fn packed_rows(&self) -> Result<(Packing, [usize; 2]), WeightsError> {
        let codes = self.codes();
        check_type(codes, I32)?;
        let [rows, words] = matrix(codes)?;
        let info = self.required("weight_shape")?;
        check_shape(info, &[2])?;
        let shape = self.whole_numbers(info)?;
        for bits in [4, 8] {
            let columns = words * codes_of_word(bits);
            let whole = [rows, columns].map(|size| i64::try_from(size).ok());
            if shape.iter().map(|&size| Some(size)).eq(whole) {
                return Ok((Packing::Rows { bits }, [rows, columns]));
            }
        }
        let expected = format!("[{rows}, {}] or [{rows}, {}]", 8 * words, 4 * words);
        Err(wrong(info, expected, format!("{shape:?}")))
    }

    fn zeros_of_rows(
        &self,
        zeros: &TensorInfo,
        packing: Packing,
        [rows, columns]: [usize; 2],
        scales: &Scales,
    ) -> Result<(Part, ZeroPacking), WeightsError> {
        let [group_rows, size] = scales.group;
        let (rows, groups) = (rows.div_ceil(group_rows), columns.div_ceil(size));
        let packing = match (packing, &zeros.stored) {
            (Packing::Rows { bits }, StoredType::Other(name)) if name == I32 => {
                check_shape(zeros, &[rows.div_ceil(codes_of_word(bits)), groups])?;
                ZeroPacking::Rows { bits }
            }
            _ => {
                check_type(zeros, I8)?;
                if zeros.elements() != rows * groups {
                    let expected = format!("{:?}", [rows, groups]);
                    return Err(wrong(zeros, expected, format!("{:?}", zeros.shape)));
                }
                ZeroPacking::Bytes
            }
        };
        Ok((self.part(zeros)?, packing))
    }

    fn fp8(&self, block: Option<[usize; 2]>) -> Result<GroupedTensor, WeightsError> {
        let shape = matrix(self.codes())?;
        let shapes = match block {
            Some(block) => shapes_of_scales(Strategy::Block(block), shape),
            None => {
                let mut shapes = shapes_of_scales(Strategy::Tensor, shape);
                shapes.extend(shapes_of_scales(Strategy::Channel, shape));
                shapes
            }
        };
        let part = match self.info("weight_scale_inv") {
            Some(_) => "weight_scale_inv",
            None => "weight_scale",
        };
        let (scales, _) = self.scales(part, &shapes, Layout::RowsFirst)?;
        self.tensor(Packing::Bytes, Codes::Floats, shape, scales, None, None)
    }
}

/// The shapes that scales may have, each with the rows and columns that share one.
fn shapes_of_scales(
    strategy: Strategy,
    [rows, columns]: [usize; 2],
) -> Vec<(Vec<usize>, [usize; 2])> {
    match strategy {
        Strategy::Tensor => [vec![], vec![1], vec![1, 1]]
            .map(|shape| (shape, [rows, columns]))
            .into(),
        Strategy::Channel => [vec![rows, 1], vec![rows]]
            .map(|shape| (shape, [1, columns]))
            .into(),
        // One that does not divide the columns has no shape that fits.
        Strategy::Group(size) if columns.is_multiple_of(size) => {
            vec![(vec![rows, columns / size], [1, size])]
        }
        Strategy::Group(_) => Vec::new(),
        Strategy::Block([of_rows, of_columns]) => {
            let shape = vec![rows.div_ceil(of_rows), columns.div_ceil(of_columns)];
            vec![(shape, [of_rows, of_columns])]
        }
    }
}

fn wrong(info: &TensorInfo, expected: impl Into<String>, found: impl Into<String>) -> WeightsError {
    WeightsError::Quantized {
        path: info.file.clone(),
        name: info.name.clone(),
        expected: expected.into(),
        found: found.into(),
    }
}

fn check_type(info: &TensorInfo, expected: &str) -> Result<(), WeightsError> {
    match &info.stored {
        StoredType::Other(name) if name == expected => Ok(()),
        stored => Err(wrong(info, expected, stored.to_string())),
    }
}

fn check_shape(info: &TensorInfo, expected: &[usize]) -> Result<(), WeightsError> {
    match info.shape == expected {
        true => Ok(()),
        false => Err(wrong(
            info,
            format!("{expected:?}"),
            format!("{:?}", info.shape),
        )),
    }
}

fn check_multiple(info: &TensorInfo, rows: usize, n: usize) -> Result<(), WeightsError> {
    match rows.is_multiple_of(n) {
        true => Ok(()),
        false => Err(wrong(
            info,
            format!("a multiple of {n} rows"),
            rows.to_string(),
        )),
    }
}

/// The sizes of a matrix, neither of which is 0.
fn matrix(info: &TensorInfo) -> Result<[usize; 2], WeightsError> {
    match info.shape[..] {
        [a, b] if a > 0 && b > 0 => Ok([a, b]),
        _ => Err(wrong(info, "a matrix", format!("{:?}", info.shape))),
    }
}
