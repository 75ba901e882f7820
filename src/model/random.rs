//! Decoders with random weights, to measure what only depends on shapes.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Distribution, FloatDType, Tensor};

use super::config::DecoderConfig;
use super::decoder::Decoder;

/// Standard deviation of the weights; Llama's own initialisation.
const DEVIATION: f64 = 0.02;

impl DecoderConfig {
    /// A decoder with random weights, made on the device in the dtype asked for, one after another: no
    /// second copy of more than one weight is ever held. Gains are 1 and biases small.
    ///
    /// Speed and memory are those of a trained model; what it writes is noise.
    pub fn init_random(&self, dtype: FloatDType, device: &Device) -> Decoder {
        self.init(device).map(&mut Random {
            dtype: dtype.into(),
            device,
            rows: false,
        })
    }
}

struct Random<'d> {
    dtype: DType,
    device: &'d Device,
    /// Whether the matrix is looked up by row and lies as it is used; all others are linear layers,
    /// which lie as checkpoints store them.
    rows: bool,
}

impl ModuleMapper for Random<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.rows |= name == "embed_tokens";
    }

    fn exit_module(&mut self, name: &str, _: &str) {
        self.rows &= name != "embed_tokens";
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D < 2 {
            let dtype = self.dtype;
            return param.map(|gain| gain.cast(dtype));
        }
        // Of a parameter not yet initialised, the shape as it is stored.
        let stored: [usize; D] = param.lazy_shape().dims();
        let normal = Distribution::Normal(0.0, DEVIATION);
        let value = Tensor::<D>::random(stored, normal, self.device).cast(self.dtype);
        let value = match self.rows {
            true => value,
            false => value.swap_dims(D - 2, D - 1),
        };
        Param::initialized(param.id, value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_have_the_shape_dtype_and_spread_asked_for() {
        let config = DecoderConfig::from_json(
            r#"{"model_type":"llama","hidden_size":64,"intermediate_size":96,"vocab_size":128,
                "num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":2,
                "rms_norm_eps":1e-5,"max_position_embeddings":256,"tie_word_embeddings":false}"#,
        )
        .expect("a config");
        let decoder = config.init_random(FloatDType::BF16, &Device::flex());
        let up = decoder.layers[0].mlp.up_proj.float().expect("floats");
        let embedding = decoder.embed_tokens.float().expect("floats");
        assert_eq!(up.weight.dims(), [64, 96]);
        assert_eq!(embedding.weight.dims(), [128, 64]);
        for weight in [up.weight.val(), embedding.weight.val()] {
            assert_eq!(weight.dtype(), DType::BF16);
            let spread = weight.cast(DType::F32).powf_scalar(2.0).mean().sqrt();
            let spread: f32 = spread.into_scalar();
            assert!((0.015..0.025).contains(&spread), "{spread}");
        }
        let gain = decoder.norm.gamma.val();
        assert_eq!(gain.dtype(), DType::BF16);
        assert_eq!(gain.cast(DType::F32).mean().into_scalar::<f32>(), 1.0);
    }
}
