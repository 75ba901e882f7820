//! A launch's tensors: their views and buffers, and the results.

use burn::backend::ops::FloatTensorOps;
use burn::tensor::{DType, Shape};
use burn_cubecl::CubeBackend;
use burn_cubecl::kernel::into_contiguous;
use burn_cubecl::tensor::CubeTensor;
use cubecl::client::Client;
use cubecl::prelude::*;
use half::{bf16, f16};

use super::arguments::Strides;
use super::lengths::{Lengths, Views};
use super::merge::{COLUMNS, UNITS, merge_parts};

/// The dimensions of a rank 4 tensor.
fn dims(tensor: &CubeTensor) -> [usize; 4] {
    tensor.meta.shape().dims()
}

/// The strides of a rank 4 tensor, in elements.
fn strides(tensor: &CubeTensor) -> [usize; 4] {
    let strides = tensor.meta.strides();
    [strides[0], strides[1], strides[2], strides[3]]
}

/// The tensor itself where a kernel that reads `chunk` elements at once can follow its view, a
/// contiguous copy elsewhere.
fn readable(tensor: &CubeTensor, chunk: usize) -> CubeTensor {
    let offset = tensor.handle.offset_start.unwrap_or(0);
    let aligned = offset.is_multiple_of((chunk * tensor.dtype.size()) as u64);
    if aligned
        && !tensor.meta.is_tiled()
        && Strides::new(dims(tensor), strides(tensor), chunk).is_some()
    {
        tensor.clone()
    } else {
        into_contiguous(tensor.clone())
    }
}

/// All that a tensor's handle reaches, as a kernel's argument.
fn buffer(tensor: &CubeTensor) -> BufferArg {
    let len = tensor.handle.size_in_used() as usize / tensor.dtype.size();
    // SAFETY: the length is that of the handle.
    unsafe { BufferArg::from_raw_parts(tensor.handle.clone(), len) }
}

/// `rows` rows from `start` on of every head of `[batch, heads, rows, head_dim]`: the same memory, with another beginning
/// and length. A slice would end its buffer behind the last row, which only some addresses allow. `None` where the
/// device allows no buffer to begin there.
pub fn some_rows(x: &CubeTensor, start: usize, rows: usize) -> Option<CubeTensor> {
    let bytes = (start * x.meta.strides()[2] * x.dtype.size()) as u64;
    let alignment = x.client.properties().memory.alignment;
    if !bytes.is_multiple_of(alignment) || x.meta.is_tiled() {
        return None;
    }
    let mut view = x.clone();
    if bytes > 0 {
        view.handle = x.handle.clone().offset_start(bytes);
    }
    view.meta.shape_mut()[2] = rows;
    Some(view)
}

/// The lengths of queries and keys.
pub fn lengths(q: &CubeTensor, k: &CubeTensor) -> Lengths {
    let [batch, heads, seq_q, head_dim] = dims(q);
    let [_, kv_heads, seq_kv, _] = dims(k);
    Lengths {
        batch,
        heads,
        kv_heads,
        seq_q,
        seq_kv,
        head_dim,
    }
}

/// The tensors of a launch of attention.
pub struct Tensors {
    /// q, k and v as the kernel can read them.
    inputs: [CubeTensor; 3],
    outputs: Outputs,
}

impl Tensors {
    /// For a kernel that reads `chunk` elements of q, k and v at once; `parts` is the number of parts that the
    /// keys are split into, if any.
    pub fn new(inputs: [&CubeTensor; 3], chunk: usize, parts: Option<usize>) -> Self {
        let inputs = inputs.map(|tensor| readable(tensor, chunk));
        let outputs = Outputs::new(&inputs[0], parts);
        Self { inputs, outputs }
    }

    /// Their strides.
    pub fn views(&self) -> Views {
        let [q, k, v] = self.inputs.each_ref().map(strides);
        let (_, _, out) = self.outputs.written();
        Views { q, k, v, out }
    }

    /// q, k, v, out and lse as the kernel's arguments.
    pub fn buffers(&self) -> [BufferArg; 5] {
        let [q, k, v] = &self.inputs;
        let (out, lse, _) = self.outputs.written();
        [q, k, v, out, lse].map(buffer)
    }

    /// Out and lse, once the kernel has been launched; `None` where positions outgrow 32 bits or the grid.
    pub fn finish(self, client: &Client) -> Option<(CubeTensor, CubeTensor)> {
        self.outputs.finish(client)
    }
}

/// The tensors that attention's kernels write: the results, and parts of them where keys are split.
struct Outputs {
    /// `[batch, heads, seq_q, head_dim]`, whose memory runs `[batch, seq_q, heads, head_dim]`.
    out: CubeTensor,
    /// `[batch, heads, seq_q]`, f32.
    lse: CubeTensor,
    parts: Option<Parts>,
}

struct Parts {
    /// `[splits, batch, heads, seq_q, head_dim]`, f32.
    out: CubeTensor,
    /// `[splits, batch, heads, seq_q]`, f32.
    lse: CubeTensor,
    splits: usize,
}

impl Outputs {
    /// Results for `q`, unwritten, and `parts` parts of them.
    fn new(q: &CubeTensor, parts: Option<usize>) -> Self {
        let [batch, heads, rows, columns] = dims(q);
        let empty = |shape: Vec<usize>, dtype: DType| {
            let shape = Shape::from(shape);
            let handle = q.client.empty(shape.num_elements() * dtype.size());
            CubeTensor::new_contiguous(q.client.clone(), q.device.clone(), shape, handle, dtype)
        };
        let out = empty(vec![batch, rows, heads, columns], q.dtype);
        Self {
            out: CubeBackend::float_swap_dims(out, 1, 2),
            lse: empty(vec![batch, heads, rows], DType::F32),
            parts: parts.map(|splits| Parts {
                out: empty(vec![splits, batch, heads, rows, columns], DType::F32),
                lse: empty(vec![splits, batch, heads, rows], DType::F32),
                splits,
            }),
        }
    }

    /// The tensors that the attention kernel itself writes: out, lse, and the strides of out or of one part.
    fn written(&self) -> (&CubeTensor, &CubeTensor, [usize; 4]) {
        match &self.parts {
            None => (&self.out, &self.lse, strides(&self.out)),
            Some(parts) => {
                let [_, heads, rows, columns] = dims(&self.out);
                let strides = [heads * rows * columns, rows * columns, columns, 1];
                (&parts.out, &parts.lse, strides)
            }
        }
    }

    /// Merges the parts, if there are any.
    fn finish(self, client: &Client) -> Option<(CubeTensor, CubeTensor)> {
        if let Some(parts) = &self.parts {
            self.merge(client, parts)?;
        }
        Some((self.out, self.lse))
    }

    fn merge(&self, client: &Client, parts: &Parts) -> Option<()> {
        let [batch, heads, seq_q, head_dim] = dims(&self.out);
        let view = Strides::new(dims(&self.out), strides(&self.out), COLUMNS)?;
        let rows = batch * heads * seq_q;
        let units = u32::try_from(rows * (head_dim / COLUMNS)).ok()?;
        let count = CubeCount::Static(units.div_ceil(UNITS), 1, 1);
        let launch = match self.out.dtype {
            DType::BF16 => merge_parts::launch_unchecked::<bf16>,
            DType::F16 => merge_parts::launch_unchecked::<f16>,
            _ => merge_parts::launch_unchecked::<f32>,
        };
        // SAFETY: a unit beyond the last row does nothing; the others stay within parts and output.
        unsafe {
            launch(
                client,
                count,
                CubeDim::new_1d(UNITS),
                buffer(&parts.out),
                buffer(&parts.lse),
                buffer(&self.out),
                buffer(&self.lse),
                view.launch(),
                parts.splits as u32,
                heads as u32,
                seq_q as u32,
                rows as u32,
                head_dim,
            );
        }
        Some(())
    }
}
