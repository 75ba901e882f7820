//! The fingerprint of a model's configuration and weights.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::reader::Checkpoint;
use super::source::{ModelSource, SourceError};
use crate::hex;
use crate::model::DecoderConfig;
use crate::text::json;

/// Bytes of a slice that [`ModelSource::fingerprint`] reads of a tensor.
pub const FINGERPRINT_SLICE: usize = 256;

/// Slices it reads of each tensor, evenly spaced, the first at the tensor's start and the last at
/// its end; a tensor not longer than all of them is read whole.
pub const FINGERPRINT_SLICES: usize = 3;

/// The first field of the hash; to be changed with the content of the others.
const DOMAIN: &[u8] = b"burn-apb model fingerprint 1";

impl ModelSource {
    /// The SHA-256, in hexadecimal, of what identifies a model: its [`DecoderConfig`], its `quantization_config`, and of every
    /// tensor the name, the shape, the stored type and a few slices of the stored bytes
    /// (three of 256 bytes).
    ///
    /// Another configuration, another model of the same shape, or the same one in another type or
    /// quantisation has another fingerprint; shards or one file, tokenizer and chat template make no
    /// difference. Weights that were changed only between the slices are not noticed: this tells
    /// models apart, it does not prove that a file is undamaged. No tensor is read whole
    /// (unless it is small) and none dequantised, so the cost is a few pages of the file a tensor.
    ///
    /// # Errors
    ///
    /// A [`SourceError`] when the configuration or the weights cannot be opened.
    pub fn fingerprint(&self) -> Result<String, SourceError> {
        let config = DecoderConfig::from_json(self.config())?;
        // How codes are read is not in the codes.
        let raw: Value = json::from_str(self.config()).unwrap_or_default();
        let quantization = raw
            .get("quantization_config")
            .filter(|value| value.is_object());
        Ok(fingerprint(&config, quantization, &self.stored()?))
    }
}

fn fingerprint(
    config: &DecoderConfig,
    quantization: Option<&Value>,
    checkpoint: &Checkpoint,
) -> String {
    let mut hash = Framed(Sha256::new());
    hash.field(DOMAIN);
    // A configuration is plain numbers, flags and names, which JSON always holds.
    let config = serde_json::to_value(config).unwrap_or_default();
    hash.field(sorted(config).to_string().as_bytes());

    if let Some(quantization) = quantization {
        hash.field(sorted(quantization.clone()).to_string().as_bytes());
    }

    let mut tensors: Vec<_> = checkpoint.tensors().collect();
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    for info in tensors {
        hash.field(info.name.as_bytes());
        hash.field(format!("{:?}", info.shape).as_bytes());
        hash.field(info.stored.to_string().as_bytes());
        let bytes = checkpoint.stored_bytes(&info.name).unwrap_or_default();
        for slice in slices(bytes) {
            hash.field(slice);
        }
    }
    hex::encode(&hash.0.finalize())
}

/// A hash of fields, each with its length in front, so that no two lists of fields are one text.
struct Framed(Sha256);

impl Framed {
    fn field(&mut self, bytes: &[u8]) {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
    }
}

/// The slices of a tensor that are read.
fn slices(bytes: &[u8]) -> Vec<&[u8]> {
    if bytes.len() <= FINGERPRINT_SLICE * FINGERPRINT_SLICES {
        return vec![bytes];
    }
    let last = bytes.len() - FINGERPRINT_SLICE;
    let step = last / (FINGERPRINT_SLICES - 1);
    (0..FINGERPRINT_SLICES)
        .map(|slice| match slice + 1 {
            FINGERPRINT_SLICES => last,
            _ => slice * step,
        })
        .map(|start| &bytes[start..start + FINGERPRINT_SLICE])
        .collect()
}

/// The same JSON with the keys of every object in alphabetical order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.into_iter().map(|(k, v)| (k, sorted(v))).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(fields.into_iter().collect())
        }
        Value::Array(values) => Value::Array(values.into_iter().map(sorted).collect()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const MODEL: &str = "tests/fixtures/models/llama-gqa";

    /// The fingerprint of the small model with its configuration or its weights edited.
    fn edited(config: impl Fn(String) -> String, weights: impl Fn(&mut Vec<u8>)) -> String {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(MODEL);
        let folder = tempfile::tempdir().unwrap();
        let text = std::fs::read_to_string(source.join("config.json")).unwrap();
        let edited = config(text.clone());
        std::fs::write(folder.path().join("config.json"), edited).unwrap();
        let mut bytes = std::fs::read(source.join("model.safetensors")).unwrap();
        weights(&mut bytes);
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        ModelSource::open(folder.path())
            .unwrap()
            .fingerprint()
            .unwrap()
    }

    fn same() -> String {
        edited(|text| text, |_| {})
    }

    #[test]
    fn one_model_has_one_fingerprint() {
        let found = same();
        assert_eq!(found, same(), "wherever it lies");
        assert_eq!(found.len(), 64);
        assert!(found.bytes().all(|b| b.is_ascii_hexdigit()));
        let fields = |text: String| {
            let config: Value = serde_json::from_str(&text).unwrap();
            let mut fields: Vec<_> = config.as_object().unwrap().clone().into_iter().collect();
            fields.reverse();
            Value::Object(fields.into_iter().collect()).to_string()
        };
        assert_eq!(
            found,
            edited(fields, |_| {}),
            "in whatever order it is told"
        );
    }

    #[test]
    fn another_configuration_or_weight_has_another() {
        let found = same();
        let theta = |text: String| text.replace("10000.0", "10001.0");
        assert_ne!(found, edited(theta, |_| {}));
        // The last byte of the file is the last of a tensor.
        let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
        assert_ne!(found, edited(|text| text, flip));
        let start = |bytes: &mut Vec<u8>| {
            let header = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
            bytes[8 + header] ^= 1;
        };
        assert_ne!(found, edited(|text| text, start));
    }

    /// Of a GGUF file the stored blocks count, whatever they stand for.
    #[cfg(feature = "gguf")]
    #[test]
    fn gguf_files_have_fingerprints() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/gguf/good");
        // The published crate leaves the fuzz targets out.
        let Ok(bytes) = std::fs::read(path) else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.gguf");
        let of = |bytes: &[u8]| {
            std::fs::write(&file, bytes).unwrap();
            ModelSource::open(&file).unwrap().fingerprint().unwrap()
        };
        let found = of(&bytes);
        assert_eq!(found, of(&bytes));
        let data = bytes.len() - 384;
        let changed = [&bytes[..data], &[bytes[data] ^ 1], &bytes[data + 1..]].concat();
        assert_ne!(found, of(&changed));
    }

    #[test]
    fn slices_are_spread_over_a_tensor() {
        let bytes: Vec<u8> = (0..2001).map(|i| (i % 251) as u8).collect();
        let found = slices(&bytes);
        let at = [0, 872, 1745];
        assert_eq!(found.len(), FINGERPRINT_SLICES);
        for (slice, at) in found.iter().zip(at) {
            assert_eq!(*slice, &bytes[at..at + FINGERPRINT_SLICE]);
        }
        let small = [1u8; FINGERPRINT_SLICE * FINGERPRINT_SLICES];
        assert_eq!(slices(&small), [&small[..]]);
        assert_eq!(slices(&[]), [&[] as &[u8]]);
    }
}
