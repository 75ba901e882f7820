//! The fields of a message in Protocol Buffers' wire format.
//!
//! Format: <https://protobuf.dev/programming-guides/encoding/>.

/// The value of a field; one of 64 bits is no number that is used here.
pub(super) enum Field<'a> {
    Number(u64),
    Word(u32),
    Bytes(&'a [u8]),
}

/// The fields of a message with their numbers; `None`, and nothing more, where it is damaged.
pub(super) fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Option<(u64, Field<'_>)>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = field(&mut bytes);
        if field.is_none() {
            bytes = &[];
        }
        Some(field)
    })
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Field<'a>)> {
    let tag = varint(bytes)?;
    let value = match tag & 7 {
        0 => Field::Number(varint(bytes)?),
        1 => Field::Bytes(take(bytes, 8)?),
        2 => {
            let len = usize::try_from(varint(bytes)?).ok()?;
            Field::Bytes(take(bytes, len)?)
        }
        5 => Field::Word(u32::from_le_bytes(take(bytes, 4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((tag >> 3, value))
}

fn take<'a>(bytes: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(taken)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..70).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        if shift < 64 {
            value |= u64::from(byte & 0x7f) << shift;
        }
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damaged_messages_end_with_none() {
        let count = |bytes: &[u8]| {
            let fields: Vec<bool> = fields(bytes).map(|field| field.is_some()).collect();
            (fields.len(), fields.iter().all(|whole| *whole))
        };
        assert_eq!(count(&[]), (0, true));
        assert_eq!(count(&[0x08, 0x96, 0x01, 0x12, 1, b'a']), (2, true));
        // A length beyond the end, a number that never ends, a wire type that is not used.
        assert_eq!(count(&[0x08, 1, 0x12, 9, b'a']), (2, false));
        assert_eq!(count(&[0x08, 0xff]), (1, false));
        assert_eq!(count(&[0xff; 11]), (1, false));
        assert_eq!(count(&[0x0b]), (1, false));
    }
}
