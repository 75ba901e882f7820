//! Linear layers of floats or of codes, and embeddings likewise.

use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor,
    Param, ParamId,
};
use burn::nn::{Embedding, Linear};
use burn::tensor::{DType, Device, FloatDType, Int, Shape, Tensor, TensorData};

use crate::kernels::{self, BlockFormat, KernelError};

/// A [`QuantizedLinear`] to be made.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use burn_apb::kernels::BlockFormat;
/// use burn_apb::model::QuantizedLinearConfig;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::flex();
/// let layer = QuantizedLinearConfig::new(256, 8, BlockFormat::Q4K).init(&device)?;
/// assert_eq!(layer.blocks.val().dims(), [8, 144]);
/// let y = layer.forward(Tensor::<2>::ones([3, 256], &device))?;
/// assert_eq!(y.dims(), [3, 8]);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuantizedLinearConfig {
    /// Elements of a row of `x`.
    pub d_input: usize,
    /// Elements of a row of the output.
    pub d_output: usize,
    /// How the weight lies in blocks.
    pub format: BlockFormat,
    /// Whether a bias is added; none by default.
    pub bias: bool,
    /// Whether the columns of the blocks have an order of their own; none by default.
    pub order: bool,
}

impl QuantizedLinearConfig {
    /// A layer without bias.
    pub fn new(d_input: usize, d_output: usize, format: BlockFormat) -> Self {
        Self {
            d_input,
            d_output,
            format,
            bias: false,
            order: false,
        }
    }

    /// With or without a bias.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// With or without an order of the columns (GPTQ's act-order).
    pub fn with_order(mut self, order: bool) -> Self {
        self.order = order;
        self
    }

    /// A layer whose weight is 0, allocated when it is first used.
    ///
    /// # Errors
    ///
    /// [`KernelError::Shape`] when `d_input` is no whole number of blocks.
    pub fn init(&self, device: &Device) -> Result<QuantizedLinear, KernelError> {
        let Self {
            d_input, d_output, ..
        } = *self;
        let row_bytes = self.format.row_bytes(d_input).ok_or_else(|| {
            let (format, len) = (self.format, self.format.block_len());
            let expected =
                format!("[d_output, a multiple of the {len} elements of a {format} block]");
            KernelError::shape("QuantizedLinear", "weight", expected, &[d_output, d_input])
        })?;
        let shape = [d_output, row_bytes];
        // From data: not every device has kernels over bytes.
        let zeros = move |device: &Device, _| {
            Tensor::from_data(TensorData::zeros::<u8, _>(shape), (device, DType::U8))
        };
        let id = ParamId::new();
        let blocks = Param::uninitialized(id, zeros, device.clone(), false, Shape::new(shape));
        let bias = move |device: &Device, _| Tensor::zeros([d_output], device);
        let bias = self.bias.then(|| {
            let shape = Shape::new([d_output]);
            Param::uninitialized(ParamId::new(), bias, device.clone(), true, shape)
        });
        let in_order =
            move |device: &Device, _| Tensor::arange(0..d_input as i64, (device, DType::I32));
        let order = self.order.then(|| {
            let shape = Shape::new([d_input]);
            Param::uninitialized(ParamId::new(), in_order, device.clone(), false, shape)
        });
        Ok(QuantizedLinear {
            blocks,
            bias,
            order,
            format: self.format,
        })
    }
}

/// A linear layer whose weight stays in the codes of a quantised checkpoint.
///
/// In records the weight is an integer tensor of bytes by the name of its format, so that it does not go into a layer
/// of another one, and the order of its columns, where they have one, an integer tensor by the name of `order`. Gradients
/// pass to the input, not to the weight.
#[derive(Debug, Clone)]
pub struct QuantizedLinear {
    /// `[d_output, row_bytes]`, `u8`: of each row its blocks.
    pub blocks: Param<Tensor<2, Int>>,
    /// `[d_output]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// `[d_input]`, `i32`: of each column of the blocks, which column of the weight it is, where those that share a
    /// scale do not stand side by side there (GPTQ's act-order).
    pub order: Option<Param<Tensor<1, Int>>>,
    format: BlockFormat,
}

impl QuantizedLinear {
    /// A layer of blocks `[d_output, row_bytes]`, `u8`, and a bias `[d_output]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows are no whole blocks, or the bias has another length.
    pub fn from_blocks(
        blocks: Tensor<2, Int>,
        bias: Option<Tensor<1>>,
        format: BlockFormat,
    ) -> Result<Self, KernelError> {
        kernels::check_quantized(&blocks, format, bias.as_ref())?;
        Ok(Self {
            blocks: Param::initialized(ParamId::new(), blocks),
            bias: bias.map(Param::from_tensor),
            order: None,
            format,
        })
    }

    /// With an order `[d_input]` of the columns of the blocks: of each, which column of the weight it is.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the order does not name each column once.
    pub fn with_order(self, order: Tensor<1, Int>) -> Result<Self, KernelError> {
        let width = self.d_input();
        let named: Vec<i64> = order.to_data().iter::<i64>().collect();
        let mut sorted = named.clone();
        sorted.sort_unstable();
        let once = sorted.iter().zip(0..).all(|(&column, at)| column == at);
        if named.len() != width || !once {
            let expected = format!("each of {width} columns once");
            let found = order.dims();
            return Err(KernelError::shape(
                "QuantizedLinear",
                "order",
                expected,
                &found,
            ));
        }
        let order = Param::initialized(ParamId::new(), order);
        Ok(Self {
            order: Some(order),
            ..self
        })
    }

    /// Elements of a row of the weight.
    fn d_input(&self) -> usize {
        let [_, row_bytes] = self.blocks.lazy_shape().dims();
        self.format.row_elements(row_bytes).unwrap_or(0)
    }

    /// How the weight lies in blocks.
    pub fn format(&self) -> BlockFormat {
        self.format
    }

    /// `[..., d_input] -> [..., d_output]`; see [`kernels::quantized_linear`].
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the layer's width.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>, KernelError> {
        let bias = self.bias.as_ref().map(|bias| bias.val());
        let dims = x.dims();
        let x = match (&self.order, dims.last()) {
            // Rows of another width are refused by the kernel.
            (Some(order), Some(&width))
                if width == self.d_input() && x.shape().num_elements() > 0 =>
            {
                let rows = x.shape().num_elements() / width;
                let rows = x.reshape([rows, width]).select(1, order.val());
                rows.reshape(dims)
            }
            _ => x,
        };
        kernels::quantized_linear(x, self.blocks.val(), self.format, bias)
    }

    /// The weight that the codes stand for, `[d_output, d_input]`, its columns in their own order.
    ///
    /// # Errors
    ///
    /// [`KernelError::DType`] for a type other than f32, f16 and bf16.
    pub fn dequantize(&self, dtype: FloatDType) -> Result<Tensor<2>, KernelError> {
        let weight = kernels::dequantize(self.blocks.val(), self.format, dtype)?;
        Ok(self.in_order(weight))
    }

    /// Rows as the blocks have them, `[rows, d_input]`, with their columns in the weight's order.
    fn in_order(&self, rows: Tensor<2>) -> Tensor<2> {
        match &self.order {
            Some(order) => rows.select(1, order.val().argsort(0)),
            None => rows,
        }
    }
}

/// In what a quantised layer's parameters are, for visitors and mappers.
pub(crate) const QUANTIZED: &str = "Struct:QuantizedLinear";

/// The name of the order of a quantised layer's columns.
pub(crate) const ORDER: &str = "order";

impl Module for QuantizedLinear {
    fn collect_devices(&self, devices: Devices) -> Devices {
        let devices = self.order.collect_devices(devices);
        self.bias
            .collect_devices(self.blocks.collect_devices(devices))
    }

    fn fork(self, device: &Device) -> Self {
        Self {
            blocks: self.blocks.fork(device),
            bias: self.bias.fork(device),
            order: self.order.fork(device),
            ..self
        }
    }

    fn to_device(self, device: &Device) -> Self {
        Self {
            blocks: self.blocks.to_device(device),
            bias: self.bias.to_device(device),
            order: self.order.to_device(device),
            ..self
        }
    }

    fn train(self) -> Self {
        Self {
            blocks: self.blocks.train(),
            bias: self.bias.train(),
            order: self.order.train(),
            ..self
        }
    }

    fn valid(&self) -> Self {
        Self {
            blocks: self.blocks.valid(),
            bias: self.bias.valid(),
            order: self.order.valid(),
            format: self.format,
        }
    }

    fn materialize(self) -> Self {
        Self {
            bias: self.bias.materialize(),
            ..self
        }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        visitor.enter_module(self.format.name(), QUANTIZED);
        self.blocks.visit(visitor);
        visitor.exit_module(self.format.name(), QUANTIZED);
        visitor.enter_module(ORDER, QUANTIZED);
        self.order.visit(visitor);
        visitor.exit_module(ORDER, QUANTIZED);
        visitor.enter_module("bias", QUANTIZED);
        self.bias.visit(visitor);
        visitor.exit_module("bias", QUANTIZED);
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        let (name, last) = (self.format.name(), self.d_input().saturating_sub(1) as i64);
        mapper.enter_module(name, QUANTIZED);
        let blocks = Module::map(self.blocks, mapper);
        mapper.exit_module(name, QUANTIZED);
        mapper.enter_module(ORDER, QUANTIZED);
        // Whatever a record says, no column beyond the last is looked up.
        let order = Module::map(self.order, mapper).map(|order| match order.is_initialized() {
            true => order.map(|order| order.clamp(0, last)),
            false => order,
        });
        mapper.exit_module(ORDER, QUANTIZED);
        mapper.enter_module("bias", QUANTIZED);
        let bias = Module::map(self.bias, mapper);
        mapper.exit_module("bias", QUANTIZED);
        Self {
            blocks,
            bias,
            order,
            ..self
        }
    }
}

impl ModuleDisplayDefault for QuantizedLinear {
    fn content(&self, content: Content) -> Option<Content> {
        let [d_output, _] = self.blocks.lazy_shape().dims();
        content
            .set_top_level_type("QuantizedLinear")
            .add("d_input", &self.d_input())
            .add("d_output", &d_output)
            .add_debug_attribute("format", &self.format)
            .add("bias", &self.bias.is_some())
            .add("order", &self.order.is_some())
            .optional()
    }
}

impl ModuleDisplay for QuantizedLinear {}

/// One of two modules, which is in the tree in place of either: paths in records are those of what it holds.
macro_rules! either {
    ($(#[$doc:meta])* $name:ident { $(#[$float_doc:meta])* Float($float:ty), $(#[$quantized_doc:meta])* Quantized }) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub enum $name {
            $(#[$float_doc])*
            Float($float),
            $(#[$quantized_doc])*
            Quantized(QuantizedLinear),
        }

        impl From<$float> for $name {
            fn from(layer: $float) -> Self {
                Self::Float(layer)
            }
        }

        impl From<QuantizedLinear> for $name {
            fn from(layer: QuantizedLinear) -> Self {
                Self::Quantized(layer)
            }
        }

        impl Module for $name {
            fn collect_devices(&self, devices: Devices) -> Devices {
                match self {
                    Self::Float(layer) => layer.collect_devices(devices),
                    Self::Quantized(layer) => layer.collect_devices(devices),
                }
            }

            fn fork(self, device: &Device) -> Self {
                match self {
                    Self::Float(layer) => Self::Float(layer.fork(device)),
                    Self::Quantized(layer) => Self::Quantized(layer.fork(device)),
                }
            }

            fn to_device(self, device: &Device) -> Self {
                match self {
                    Self::Float(layer) => Self::Float(layer.to_device(device)),
                    Self::Quantized(layer) => Self::Quantized(layer.to_device(device)),
                }
            }

            fn train(self) -> Self {
                match self {
                    Self::Float(layer) => Self::Float(layer.train()),
                    Self::Quantized(layer) => Self::Quantized(layer.train()),
                }
            }

            fn valid(&self) -> Self {
                match self {
                    Self::Float(layer) => Self::Float(layer.valid()),
                    Self::Quantized(layer) => Self::Quantized(layer.valid()),
                }
            }

            fn materialize(self) -> Self {
                match self {
                    Self::Float(layer) => Self::Float(layer.materialize()),
                    Self::Quantized(layer) => Self::Quantized(layer.materialize()),
                }
            }

            fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
                match self {
                    Self::Float(layer) => layer.visit(visitor),
                    Self::Quantized(layer) => layer.visit(visitor),
                }
            }

            fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
                match self {
                    Self::Float(layer) => Self::Float(layer.map(mapper)),
                    Self::Quantized(layer) => Self::Quantized(layer.map(mapper)),
                }
            }
        }

        impl ModuleDisplayDefault for $name {
            fn content(&self, content: Content) -> Option<Content> {
                match self {
                    Self::Float(layer) => ModuleDisplayDefault::content(layer, content),
                    Self::Quantized(layer) => ModuleDisplayDefault::content(layer, content),
                }
            }
        }

        impl ModuleDisplay for $name {}
    };
}

either! {
    /// A linear layer of a decoder: of floats, or of the codes of a quantised checkpoint.
    Projection {
        /// Floats.
        Float(Linear),
        /// Codes.
        Quantized
    }
}

either! {
    /// A decoder's token embedding `[vocab, hidden]`, which may also be its output head.
    TokenEmbedding {
        /// Floats.
        Float(Embedding),
        /// Codes: a linear layer from hidden rows to logits, whose rows are looked up.
        Quantized
    }
}

impl Projection {
    /// `[..., d_input] -> [..., d_output]`.
    ///
    /// # Errors
    ///
    /// [`KernelError`] when the rows do not have the layer's width.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Result<Tensor<D>, KernelError> {
        match self {
            Self::Float(layer) => apply(layer, x),
            Self::Quantized(layer) => layer.forward(x),
        }
    }

    /// The layer where it is of floats.
    pub fn float(&self) -> Option<&Linear> {
        match self {
            Self::Float(layer) => Some(layer),
            Self::Quantized(_) => None,
        }
    }

    /// The layer where it is of floats.
    pub fn float_mut(&mut self) -> Option<&mut Linear> {
        match self {
            Self::Float(layer) => Some(layer),
            Self::Quantized(_) => None,
        }
    }
}

impl TokenEmbedding {
    /// The rows of tokens `[batch, seq]`: `[batch, seq, hidden]`, where they are quantised as `dtype`.
    pub(crate) fn rows(
        &self,
        tokens: Tensor<2, Int>,
        dtype: FloatDType,
    ) -> Result<Tensor<3>, KernelError> {
        match self {
            Self::Float(layer) => Ok(layer.forward(tokens)),
            Self::Quantized(layer) => {
                let [batch, seq] = tokens.dims();
                let ids = tokens.reshape([batch * seq]);
                let rows = kernels::quantized_rows(layer.blocks.val(), ids, layer.format, dtype)?;
                let rows = layer.in_order(rows);
                let width = rows.dims()[1];
                Ok(rows.reshape([batch, seq, width]))
            }
        }
    }

    /// As the output head: logits `[batch, seq, vocab]` of hidden rows.
    pub(crate) fn logits(&self, hidden: Tensor<3>) -> Result<Tensor<3>, KernelError> {
        match self {
            Self::Float(layer) => kernels::linear(hidden, layer.weight.val().transpose(), None),
            Self::Quantized(layer) => layer.forward(hidden),
        }
    }

    /// Number of rows.
    pub(crate) fn vocab_size(&self) -> usize {
        match self {
            Self::Float(layer) => layer.weight.lazy_shape()[0],
            Self::Quantized(layer) => layer.blocks.lazy_shape()[0],
        }
    }

    pub(crate) fn device(&self) -> Device {
        match self {
            Self::Float(layer) => layer.weight.lazy_device(),
            Self::Quantized(layer) => layer.blocks.lazy_device(),
        }
    }

    /// The layer where it is of floats.
    pub fn float(&self) -> Option<&Embedding> {
        match self {
            Self::Float(layer) => Some(layer),
            Self::Quantized(_) => None,
        }
    }
}

/// Applies a linear layer through the kernel that keeps its weight where it lies.
pub(crate) fn apply<const D: usize>(
    layer: &Linear,
    input: Tensor<D>,
) -> Result<Tensor<D>, KernelError> {
    kernels::linear(
        input,
        layer.weight.val(),
        layer.bias.as_ref().map(|bias| bias.val()),
    )
}
