//! The scale of the labels that heads were trained with, kept in the metadata of their file.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The mean and standard deviation of the labels of each layer and KV head that heads were trained with.
///
/// Labels are attention logits, whose mean and spread differ by model, layer and head. Heads with a scale learned
/// `(label - mean) / std`: a score times `std` plus `mean` is a logit. Within a KV head, where rows are selected,
/// the order of rows is that of logits, for `std` is above 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Parts")]
pub struct LabelScale {
    mean: Vec<Vec<f32>>,
    std: Vec<Vec<f32>>,
}

/// The JSON form, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    mean: Vec<Vec<f32>>,
    std: Vec<Vec<f32>>,
}

/// Why a text or some numbers are not a [`LabelScale`] for heads.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelScaleFault {
    /// Other text than the JSON form.
    #[error(
        "expected JSON {{\"mean\": [[..], ..], \"std\": [[..], ..]}} with a row of numbers for each layer: {0}"
    )]
    Json(String),
    /// Other layers or key/value heads than those of the heads, or than those of the means.
    #[error("expected {expected} {part}, found {found}")]
    Shape {
        /// What is counted.
        part: String,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A mean that is not finite, or a standard deviation that is not finite and above 0.
    #[error("{part} of layer {layer}, head {head} is {value}, expected a finite number{}", if *.part == "std" { " above 0" } else { "" })]
    Value {
        /// `mean` or `std`.
        part: &'static str,
        /// The layer.
        layer: usize,
        /// The KV head.
        head: usize,
        /// The value.
        value: f32,
    },
}

impl LabelScale {
    /// A scale of these means and standard deviations, one row a layer with one value a KV head.
    ///
    /// # Errors
    ///
    /// [`LabelScaleFault`]: rows of different lengths, a value that is not finite, or a standard deviation that is
    /// not above 0.
    pub fn new(mean: Vec<Vec<f32>>, std: Vec<Vec<f32>>) -> Result<Self, LabelScaleFault> {
        let scale = Self { mean, std };
        let kv_heads = scale.mean.first().map_or(0, Vec::len);
        scale.check(scale.mean.len(), kv_heads)?;
        for (part, rows, least) in [
            ("mean", &scale.mean, f32::MIN),
            ("std", &scale.std, f32::MIN_POSITIVE),
        ] {
            for (layer, row) in rows.iter().enumerate() {
                for (head, &value) in row.iter().enumerate() {
                    if !(value.is_finite() && value >= least) {
                        return Err(LabelScaleFault::Value {
                            part,
                            layer,
                            head,
                            value,
                        });
                    }
                }
            }
        }
        Ok(scale)
    }

    /// Reads the form that [`Display`](fmt::Display) writes.
    ///
    /// # Errors
    ///
    /// [`LabelScaleFault`]: other text, and what [`new`](Self::new) refuses.
    pub fn from_json(text: &str) -> Result<Self, LabelScaleFault> {
        let parts: Parts =
            serde_json::from_str(text).map_err(|error| LabelScaleFault::Json(error.to_string()))?;
        parts.try_into()
    }

    /// The means, one row a layer with one value a KV head.
    pub fn mean(&self) -> &[Vec<f32>] {
        &self.mean
    }

    /// The standard deviations, as [`mean`](Self::mean).
    pub fn std(&self) -> &[Vec<f32>] {
        &self.std
    }

    /// Refuses a scale of other heads.
    pub(crate) fn check(&self, layers: usize, kv_heads: usize) -> Result<(), LabelScaleFault> {
        let counted = |part: String, expected, found| match expected == found {
            true => Ok(()),
            false => Err(LabelScaleFault::Shape {
                part,
                expected,
                found,
            }),
        };
        for (name, rows) in [("mean", &self.mean), ("std", &self.std)] {
            counted(format!("layers in {name}"), layers, rows.len())?;
            for (layer, row) in rows.iter().enumerate() {
                let part = format!("key/value heads in {name} of layer {layer}");
                counted(part, kv_heads, row.len())?;
            }
        }
        Ok(())
    }
}

impl TryFrom<Parts> for LabelScale {
    type Error = LabelScaleFault;

    fn try_from(Parts { mean, std }: Parts) -> Result<Self, LabelScaleFault> {
        Self::new(mean, std)
    }
}

/// Compact JSON, `{"mean":[[..],..],"std":[[..],..]}`, with as many digits as name each number.
impl fmt::Display for LabelScale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_is_read_as_it_was_written() {
        let mean = vec![vec![-1.234_567_9e-8, 31.400_002], vec![f32::MAX, -0.1]];
        let std = vec![vec![f32::MIN_POSITIVE, 1.0 / 3.0], vec![1.0, 16_777_217.0]];
        let scale = LabelScale::new(mean.clone(), std.clone()).expect("a scale");
        let text = scale.to_string();
        let read = LabelScale::from_json(&text).expect(&text);
        assert_eq!((read.mean(), read.std()), (&mean[..], &std[..]));
        assert_eq!(
            serde_json::from_str::<LabelScale>(&text).expect("JSON"),
            scale
        );
        assert!(read.check(2, 2).is_ok());
        for (layers, kv_heads) in [(1, 2), (2, 1), (0, 0), (3, 2)] {
            let other = read.check(layers, kv_heads);
            assert!(
                matches!(other, Err(LabelScaleFault::Shape { .. })),
                "{other:?}"
            );
        }
    }

    #[test]
    fn hostile_text_is_refused() {
        let fault = |text: &str| LabelScale::from_json(text).expect_err(text);
        for text in [
            "",
            "null",
            "[]",
            "{}",
            r#"{"mean": [[0]]}"#,
            r#"{"mean": [[0]], "std": [["1"]]}"#,
            r#"{"mean": [[0]], "std": [[NaN]]}"#,
            r#"{"mean": [[0]], "std": [[1e999]]}"#,
            r#"{"mean": [[0]], "std": [[1]], "more": 1}"#,
            r#"{"mean": [[0]], "mean": [[0]], "std": [[1]]}"#,
            r#"{"mean": [[0]], "std": [[1]]} and more"#,
            &"[".repeat(100_000),
        ] {
            assert!(matches!(fault(text), LabelScaleFault::Json(_)), "{text}");
        }
        for text in [
            r#"{"mean": [[0]], "std": []}"#,
            r#"{"mean": [[0, 1]], "std": [[1]]}"#,
            r#"{"mean": [[0, 1], [0]], "std": [[1, 1], [1]]}"#,
        ] {
            assert!(
                matches!(fault(text), LabelScaleFault::Shape { .. }),
                "{text}"
            );
        }
        for (text, wrong) in [
            (r#"{"mean": [[0], [0]], "std": [[1], [0]]}"#, ("std", 1)),
            (r#"{"mean": [[0]], "std": [[-1]]}"#, ("std", 0)),
            (r#"{"mean": [[0]], "std": [[1e300]]}"#, ("std", 0)),
            (r#"{"mean": [[0]], "std": [[1e-300]]}"#, ("std", 0)),
            (r#"{"mean": [[-1e39]], "std": [[1]]}"#, ("mean", 0)),
        ] {
            match fault(text) {
                LabelScaleFault::Value { part, layer, .. } => assert_eq!((part, layer), wrong),
                other => panic!("{text}: {other}"),
            }
        }
        assert!(LabelScale::new(vec![vec![f32::NAN]], vec![vec![1.0]]).is_err());
    }
}
