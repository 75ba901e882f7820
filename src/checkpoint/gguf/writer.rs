//! The header of a GGUF file that is written: version 3, tensors aligned to 32 bytes.

use indexmap::IndexMap;

use super::kind::GgmlType;

/// Alignment of tensor data where the file does not name one, in bytes.
const ALIGNMENT: usize = 32;

/// Numbers of the value types.
mod number {
    pub(super) const U32: u32 = 4;
    pub(super) const I32: u32 = 5;
    pub(super) const F32: u32 = 6;
    pub(super) const BOOL: u32 = 7;
    pub(super) const TEXT: u32 = 8;
    pub(super) const ARRAY: u32 = 9;
}

/// Metadata as they are written, in order.
#[derive(Debug, Default)]
pub(crate) struct Entries(IndexMap<String, Vec<u8>>);

impl Entries {
    /// Adds a value as it lies in a file, its type in front; in the place of one that is there.
    pub(crate) fn put(&mut self, key: impl Into<String>, value: Vec<u8>) {
        self.0.insert(key.into(), value);
    }

    /// Adds all of `other`.
    pub(crate) fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn integer(&mut self, key: impl Into<String>, value: u32) {
        self.put(key, typed(number::U32, &value.to_le_bytes()));
    }

    pub(crate) fn float(&mut self, key: impl Into<String>, value: f32) {
        self.put(key, typed(number::F32, &value.to_le_bytes()));
    }

    pub(crate) fn flag(&mut self, key: impl Into<String>, value: bool) {
        self.put(key, typed(number::BOOL, &[u8::from(value)]));
    }

    pub(crate) fn text(&mut self, key: impl Into<String>, value: &str) {
        let mut bytes = number::TEXT.to_le_bytes().to_vec();
        put_text(&mut bytes, value);
        self.put(key, bytes);
    }

    pub(crate) fn texts<T: AsRef<str>>(&mut self, key: impl Into<String>, values: &[T]) {
        let mut bytes = array(number::TEXT, values.len());
        for value in values {
            put_text(&mut bytes, value.as_ref());
        }
        self.put(key, bytes);
    }

    pub(crate) fn integers(&mut self, key: impl Into<String>, values: &[i32]) {
        let mut bytes = array(number::I32, values.len());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.put(key, bytes);
    }

    pub(crate) fn floats(&mut self, key: impl Into<String>, values: &[f32]) {
        let mut bytes = array(number::F32, values.len());
        bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self.put(key, bytes);
    }
}

fn typed(number: u32, value: &[u8]) -> Vec<u8> {
    [&number.to_le_bytes(), value].concat()
}

fn array(number: u32, len: usize) -> Vec<u8> {
    let mut bytes = typed(number::ARRAY, &number.to_le_bytes());
    bytes.extend((len as u64).to_le_bytes());
    bytes
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
}

/// A tensor to be written.
pub(crate) struct Planned<'a> {
    pub name: &'a str,
    /// Outermost axis first.
    pub shape: &'a [usize],
    pub kind: GgmlType,
    /// Bytes of its data.
    pub bytes: u64,
}

/// The bytes in front of the first tensor's data; each tensor's data then has [`padding`] behind it.
pub(crate) fn header(entries: &Entries, tensors: &[Planned<'_>]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((entries.0.len() as u64).to_le_bytes());
    for (key, value) in &entries.0 {
        put_text(&mut bytes, key);
        bytes.extend(value);
    }
    let mut offset = 0u64;
    for tensor in tensors {
        put_text(&mut bytes, tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        for &axis in tensor.shape.iter().rev() {
            bytes.extend((axis as u64).to_le_bytes());
        }
        bytes.extend(tensor.kind.id().to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += tensor.bytes.next_multiple_of(ALIGNMENT as u64);
    }
    bytes.extend(padding(bytes.len() as u64));
    bytes
}

/// The zeros behind so many bytes.
pub(crate) fn padding(bytes: u64) -> &'static [u8] {
    const ZEROS: [u8; ALIGNMENT] = [0; ALIGNMENT];
    let missing = bytes.next_multiple_of(ALIGNMENT as u64) - bytes;
    &ZEROS[..missing as usize]
}

#[cfg(test)]
mod tests {
    use burn::tensor::FloatDType;

    use super::super::header::{GgufHeader, Value, places};
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut entries = Entries::default();
        entries.text("a", "x");
        entries.integer("b", 7);
        entries.float("c", 0.5);
        entries.flag("d", true);
        entries.texts("e", &["", "\u{e9}"]);
        entries.integers("f", &[-1, 2]);
        entries.floats("g", &[1.5]);
        entries.integer("b", 8);
        let kind = GgmlType::floats(FloatDType::F32);
        let tensor = |name, shape, bytes| Planned {
            name,
            shape,
            kind,
            bytes,
        };
        let tensors = [tensor("t", &[2, 3][..], 24), tensor("u", &[1], 4)];
        let mut file = header(&entries, &tensors);
        assert!(file.len().is_multiple_of(ALIGNMENT));
        let start = file.len();
        file.extend([1; 24]);
        file.extend(padding(24));
        file.extend([2; 4]);
        let header = GgufHeader::parse(&file).unwrap();
        let expected = [
            ("a", Value::Text("x".into())),
            ("b", Value::Unsigned(8)),
            ("c", Value::Float(0.5)),
            ("d", Value::Bool(true)),
            ("e", Value::Texts(vec![String::new(), "\u{e9}".into()])),
            ("f", Value::Integers(vec![-1, 2])),
            ("g", Value::Floats(vec![1.5])),
        ];
        assert_eq!(header.metadata.len(), expected.len());
        for (key, value) in expected {
            assert_eq!(header.metadata[key], value, "{key}");
        }
        assert_eq!(header.tensors[0].shape, [2, 3]);
        let starts: Vec<usize> = header.tensors.iter().map(|tensor| tensor.start).collect();
        assert_eq!(starts, [start, start + 32]);
        // The values as they lie there make the same metadata again.
        let mut copied = Entries::default();
        for (key, place) in places(&file).unwrap() {
            copied.put(key, file[place].to_vec());
        }
        assert_eq!(super::header(&copied, &tensors), file[..start]);
    }
}
