//! A check of a pickle's instructions, none of which is executed.
//!
//! A pickle is a program for a stack machine, and a hostile one calls what it likes. The reader
//! behind this (see `pytorch`) executes nothing either, but it skips calls it does not know. Here
//! they are refused by name: a file of weights that asks for `os.system` is an attack, and its user
//! should know before another program executes it. Accepted is what `torch.save` writes for tensors
//! in dictionaries, about as with `torch.load(weights_only=True)`.

use pytorch_reader::OpCode;

use crate::quoted::Quoted;

/// The functions and types that a dictionary of tensors needs. Storages of types that no head can
/// have are among them, because the file may hold a whole model.
const ALLOWED: [&str; 14] = [
    "collections.OrderedDict",
    "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_tensor_v2",
    "torch.BFloat16Storage",
    "torch.BoolStorage",
    "torch.ByteStorage",
    "torch.CharStorage",
    "torch.DoubleStorage",
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.IntStorage",
    "torch.LongStorage",
    "torch.ShortStorage",
    "torch.Size",
];

/// Longest part of a name that a message repeats, in characters.
const SHOWN: usize = 80;

/// Why a pickle is not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// A call that a file of tensors does not need.
    #[error(
        "expected nothing but tensors in dictionaries, found a call for `{}`; nothing of it was run: do not load this file with Python unless you trust it, and ask for a plain state dict",
        Quoted(name)
    )]
    Global {
        /// The function or type, as `module.name`.
        name: String,
    },
    /// An instruction that `torch.save` does not write for tensors.
    #[error(
        "expected the instructions that torch.save writes for a state dict, found {name} at byte {at}; save the state dict again with torch.save and its default protocol"
    )]
    Instruction {
        /// Its name, or its byte.
        name: String,
        /// Its offset in bytes.
        at: usize,
    },
    /// It ends early.
    #[error(
        "expected a whole pickle, found one that breaks off after {len} bytes; fetch the file again"
    )]
    Truncated {
        /// Its length in bytes.
        len: usize,
    },
    /// A name that is not UTF-8.
    #[error("expected the name of a function or type at byte {at}, found bytes that are no text")]
    NotText {
        /// Its offset in bytes.
        at: usize,
    },
}

/// Checks every instruction of `pickle` up to its end; bytes behind it are never read.
pub(super) fn check(pickle: &[u8]) -> Result<(), PickleError> {
    let mut rest = Rest { pickle, at: 0 };
    loop {
        let at = rest.at;
        let byte = rest.take(1)?[0];
        let unknown = |name| PickleError::Instruction { name, at };
        let op = OpCode::try_from(byte).map_err(|byte| unknown(format!("byte {byte:#04x}")))?;
        match op {
            OpCode::Stop => return Ok(()),
            OpCode::Global => {
                let module = rest.line()?;
                let name = rest.line()?;
                let name = format!("{module}.{name}");
                if !ALLOWED.contains(&name.as_str()) {
                    let name = name.chars().take(SHOWN).collect();
                    return Err(PickleError::Global { name });
                }
            }
            OpCode::Mark
            | OpCode::None
            | OpCode::NewTrue
            | OpCode::NewFalse
            | OpCode::Reduce
            | OpCode::Build
            | OpCode::EmptyDict
            | OpCode::EmptyList
            | OpCode::EmptyTuple
            | OpCode::Dict
            | OpCode::Tuple
            | OpCode::Tuple1
            | OpCode::Tuple2
            | OpCode::Tuple3
            | OpCode::SetItem
            | OpCode::SetItems
            | OpCode::Append
            | OpCode::Appends
            | OpCode::BinPersId => {}
            OpCode::Proto | OpCode::BinInt1 | OpCode::BinGet | OpCode::BinPut => {
                rest.take(1)?;
            }
            OpCode::BinInt2 => {
                rest.take(2)?;
            }
            OpCode::BinInt | OpCode::LongBinGet | OpCode::LongBinPut => {
                rest.take(4)?;
            }
            OpCode::BinFloat => {
                rest.take(8)?;
            }
            OpCode::Long1 | OpCode::ShortBinString => {
                let len = rest.take(1)?[0];
                rest.take(len.into())?;
            }
            OpCode::BinUnicode => {
                let len = rest
                    .take(4)?
                    .first_chunk()
                    .map_or(0, |b| u32::from_le_bytes(*b));
                rest.take(usize::try_from(len).unwrap_or(usize::MAX))?;
            }
            other => return Err(unknown(format!("{other:?}"))),
        }
    }
}

/// The part of a pickle that has not been checked.
struct Rest<'a> {
    pickle: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], PickleError> {
        let end = self.at.checked_add(count);
        let part = end.and_then(|end| self.pickle.get(self.at..end));
        let part = part.ok_or(PickleError::Truncated {
            len: self.pickle.len(),
        })?;
        self.at += count;
        Ok(part)
    }

    /// Text up to the end of the line.
    fn line(&mut self) -> Result<&'a str, PickleError> {
        let at = self.at;
        let end = self.pickle[at..].iter().position(|&b| b == b'\n');
        let line = self.take(end.map_or(usize::MAX, |end| end + 1))?;
        std::str::from_utf8(&line[..line.len() - 1]).map_err(|_| PickleError::NotText { at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `{}` with what `torch.save` puts around a tensor.
    const GOOD: &[u8] =
        b"\x80\x02}q\x00(X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\nq\x01\
        ((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04\
        tQK\x00K\x02K\x02\x86K\x02K\x01\x86\x89ccollections\nOrderedDict\n)RtRu.";

    #[test]
    fn a_dictionary_of_tensors_passes() {
        assert_eq!(check(GOOD), Ok(()));
        assert_eq!(
            check(&[GOOD, b"\xff\xff"].concat()),
            Ok(()),
            "behind the end"
        );
    }

    #[test]
    fn calls_are_refused_by_name() {
        let call = |pickle: &[u8]| match check(pickle) {
            Err(PickleError::Global { name }) => name,
            other => panic!("{other:?}"),
        };
        let system = b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.";
        assert_eq!(call(system), "os.system");
        assert_eq!(call(b"cbuiltins\neval\n."), "builtins.eval");
        // A name that looks like an allowed one when its parts are put together.
        assert_eq!(
            call(b"ctorch\n_utils._rebuild_tensor\n."),
            "torch._utils._rebuild_tensor"
        );
        let long = [b"c".as_slice(), &[b'x'; 500], b"\ny\n."].concat();
        assert_eq!(call(&long).len(), SHOWN);
    }

    #[test]
    fn other_instructions_are_refused_by_name() {
        let found = |pickle: &[u8]| check(pickle).unwrap_err().to_string();
        for (pickle, name) in [
            (
                &b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00."[..],
                "Frame",
            ),
            (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "ShortBinUnicode"),
            (b"\x80\x02\x81.", "NewObj"),
            (b"\x80\x02\x82\x01.", "Ext1"),
            (b"(ios\nsystem\n.", "byte 0x69"),
            (b"(o.", "byte 0x6f"),
            (b"Pid\n.", "PersId"),
            (b"2.", "Dup"),
        ] {
            assert!(found(pickle).contains(name), "{}", found(pickle));
        }
        assert!(matches!(
            check(b"c\xff\xff\nx\n."),
            Err(PickleError::NotText { at: 1 })
        ));
    }

    #[test]
    fn every_truncation_is_refused() {
        for len in 0..GOOD.len() {
            let found = check(&GOOD[..len]);
            assert_eq!(found, Err(PickleError::Truncated { len }), "{len}");
        }
        let long = check(b"X\xff\xff\xff\xff.");
        assert!(matches!(long, Err(PickleError::Truncated { .. })));
    }
}
