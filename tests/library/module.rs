//! The decoder as any Burn module: records, LoRA, gradients, dtypes.

use burn::module::{Lora, Module, ModuleMapper, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use burn_apb::model::{Architecture, Decoder, DecoderConfig};

const VOCAB: usize = 64;

fn config() -> DecoderConfig {
    DecoderConfig::new(Architecture::Llama, VOCAB, 32, 48, 2, 4, 2, 8)
}

fn tokens(device: &Device) -> Tensor<2, Int> {
    let ids: Vec<i32> = (0..24).map(|i| i * 7 % VOCAB as i32).collect();
    Tensor::from_data(TensorData::new(ids, [1, 24]), (device, DType::I32))
}

fn logits(decoder: &Decoder, device: &Device) -> Vec<f32> {
    let logits = decoder.forward(tokens(device)).unwrap();
    assert_eq!(logits.dims(), [1, 24, VOCAB]);
    logits.cast(DType::F32).into_data().try_to_vec().unwrap()
}

/// Relative to the root mean square of the expected values.
fn difference(found: &[f32], expected: &[f32]) -> f32 {
    let squares: f32 = expected.iter().map(|x| x * x).sum();
    let rms = (squares / expected.len() as f32).sqrt();
    let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    differences.fold(0.0, |a, b| {
        if b.is_nan() {
            f32::INFINITY
        } else {
            f32::max(a, b)
        }
    }) / rms
}

/// The mean of the squared logits: something to lower.
fn loss(decoder: &Decoder, device: &Device) -> Tensor<1> {
    decoder.forward(tokens(device)).unwrap().square().mean()
}

/// Into a decoder that has not been used: Burn 0.22 compares a record with the shapes of weights that lie
/// transposed once they are initialised.
#[test]
fn a_record_holds_the_whole_decoder() {
    let device = Device::flex();
    device.seed(7);
    let decoder = config().init(&device);
    let expected = logits(&decoder, &device);
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("decoder.bpk");
    decoder.save_file(&record).unwrap();
    let other = config().init(&device);
    assert!(difference(&logits(&other, &device), &expected) > 0.1);
    let restored = config().init(&device).load_file(&record);
    assert_eq!(logits(&restored, &device), expected);
}

#[test]
fn lora_trains_its_adapters_and_leaves_the_weights() {
    let device = Device::flex();
    device.seed(7);
    let plain = config().init(&device);
    let expected = logits(&plain, &device);
    let training = device.clone().autodiff();
    let decoder = plain.clone().train().apply_lora(Lora::new(2, 4.0));
    assert!(
        difference(&logits(&decoder, &training), &expected) < 1e-5,
        "an adapter begins at nothing"
    );
    let before = loss(&decoder, &training);
    let gradients = GradientsParams::from_grads(before.backward(), &decoder);
    let trained = AdamWConfig::new().init().step(1e-2, decoder, gradients);
    let after = loss(&trained, &training).into_scalar::<f32>();
    assert!(after < before.into_scalar::<f32>());
    assert!(difference(&logits(&trained, &training), &expected) > 1e-3);
    assert_eq!(logits(&plain, &device), expected);
}

#[test]
fn every_parameter_has_a_gradient_unless_it_is_frozen() {
    let device = Device::flex().autodiff();
    device.seed(7);
    let decoder = config().init(&device);
    let gradients = GradientsParams::from_grads(loss(&decoder, &device).backward(), &decoder);
    // Embedding, final norm, head, and nine of each of two blocks.
    assert_eq!(gradients.len(), 3 + 2 * 9);
    let frozen = decoder.no_grad();
    let logits = frozen.forward(tokens(&device)).unwrap();
    assert!(!logits.is_require_grad());
}

/// Casts every parameter.
struct Cast(FloatDType);

impl ModuleMapper for Cast {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        parameter.map(|tensor| tensor.cast(self.0))
    }
}

#[test]
fn a_mapper_makes_it_bf16_or_f16() {
    let device = Device::flex();
    device.seed(7);
    let decoder = config().init(&device);
    let expected = logits(&decoder, &device);
    for (dtype, bound) in [(FloatDType::BF16, 0.1), (FloatDType::F16, 0.02)] {
        let half = decoder.clone().map(&mut Cast(dtype));
        let found = half.forward(tokens(&device)).unwrap();
        assert_eq!(found.dtype(), DType::from(dtype));
        let worst = difference(&logits(&half, &device), &expected);
        assert!(worst < bound, "{dtype:?}: {worst}");
    }
}
