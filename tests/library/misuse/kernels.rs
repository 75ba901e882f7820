//! Tensors of other shapes, dtypes and ranges.

use burn::tensor::{DType, Device, FloatDType, Int, Shape, Tensor};
use burn_apb::kernels::{
    AttentionOutput, BlockFormat, Regions, RowChoice, add_rms_norm, attention, dequantize,
    first_rows, gather_rows, linear, merge, on_workers, quantize_rows, quantized_attention,
    quantized_linear, quantized_rows, rms_norm, rotate, select_rows, silu_mul, silu_scores,
};

use super::{Calls, halves, ids, zeros};

/// Rows of blocks of zeros.
fn blocks(rows: usize, bytes: usize) -> Tensor<2, Int> {
    Tensor::zeros([rows, bytes], (&Device::flex(), DType::U8))
}

fn keys_and_values(calls: &mut Calls) {
    let name = "kernels::quantize_rows";
    calls.refused(name, || quantize_rows(zeros([1, 2, 3, 33])));
    for rows in [0, 1] {
        calls.call(name, || quantize_rows(halves([1, 2, rows, 32])));
        calls.call(name, || quantize_rows(zeros([1, 0, rows, 0])));
    }
    let name = "kernels::quantized_attention";
    let blocks =
        |shape: [usize; 4], dtype| Tensor::<4, Int>::zeros(shape, (&Device::flex(), dtype));
    let good = || blocks([1, 2, 5, 34], DType::U8);
    let query = || zeros([1, 4, 3, 32]);
    let full = Regions::full();
    for bad in [
        blocks([1, 2, 5, 33], DType::U8),
        blocks([1, 2, 5, 68], DType::U8),
        blocks([1, 2, 4, 34], DType::U8),
        blocks([1, 3, 5, 34], DType::U8),
        blocks([1, 2, 5, 34], DType::I32),
        blocks([1, 2, 5, 0], DType::U8),
    ] {
        calls.refused(name, || {
            quantized_attention(query(), bad.clone(), good(), full)
        });
        calls.refused(name, || quantized_attention(query(), good(), bad, full));
    }
    calls.refused(name, || {
        quantized_attention(zeros([1, 3, 3, 32]), good(), good(), full)
    });
    for rows in [0, 2, 60] {
        let regions = Regions {
            passing: 9,
            anchor: 0,
            causal: false,
        };
        calls.refused(name, || {
            quantized_attention(halves([1, 4, rows, 32]), good(), good(), regions)
        });
        calls.call(name, || {
            let none = || blocks([1, 2, 0, 34], DType::U8);
            quantized_attention(halves([1, 4, rows, 32]), none(), none(), full)
        });
    }
}

fn quantized(calls: &mut Calls, format: BlockFormat) {
    let (len, bytes) = (format.block_len(), format.block_bytes());
    let good = || blocks(3, bytes);
    let name = "kernels::quantized_linear";
    calls.refused(name, || {
        quantized_linear(zeros([2, len + 1]), good(), format, None)
    });
    calls.refused(name, || {
        quantized_linear(zeros([2, len]), blocks(3, bytes - 1), format, None)
    });
    calls.refused(name, || {
        quantized_linear(zeros([2, len]), good(), format, Some(zeros([4])))
    });
    calls.refused(name, || {
        let wide = Tensor::<2, Int>::zeros([3, bytes], (&Device::flex(), DType::I32));
        quantized_linear(zeros([2, len]), wide, format, None)
    });
    for rows in [0, 1, 9] {
        for width in [0, 1] {
            calls.call(name, || {
                let x = halves([rows, width * len]);
                quantized_linear(x, blocks(3, width * bytes), format, Some(zeros([3])))
            });
        }
        calls.call(name, || {
            quantized_linear(zeros([rows, len]), blocks(0, bytes), format, None)
        });
    }
    let name = "kernels::quantized_rows";
    for id in [-1, 3, i64::from(i32::MAX)] {
        calls.call(name, || {
            quantized_rows(good(), ids([2], id), format, FloatDType::BF16)
        });
    }
    calls.refused(name, || {
        quantized_rows(blocks(0, bytes), ids([2], 0), format, FloatDType::F32)
    });
    calls.refused(name, || {
        quantized_rows(good(), ids([2], 0), format, FloatDType::F64)
    });
    calls.refused("kernels::dequantize", || {
        dequantize(blocks(3, bytes + 1), format, FloatDType::F32)
    });
    calls.refused("kernels::dequantize", || {
        dequantize(good(), format, FloatDType::Flex32)
    });
    for size in [
        0,
        1,
        usize::MAX,
        usize::MAX / len * len,
        usize::MAX / bytes * bytes,
    ] {
        calls.call("kernels::BlockFormat::row_bytes", || format.row_bytes(size));
        calls.call("kernels::BlockFormat::row_elements", || {
            format.row_elements(size)
        });
    }
    for size in [0, 1, bytes - 1, bytes + 1] {
        let bytes = vec![0xff; size];
        calls.call("kernels::BlockFormat::first_not_finite", || {
            format.first_not_finite(&bytes)
        });
        calls.call("kernels::BlockFormat::dequantize", || {
            format.dequantize(&bytes, &mut [0.0; 7]);
            format.dequantize(&bytes, &mut vec![0.0; 3 * len]);
        });
    }
}

/// More numbers than can be counted in 64 bits, together with another dimension.
const HUGE: usize = (1 << 62) + 1;

/// One number, or a few, in a shape that no memory holds.
fn spread<const D: usize>(few: [usize; D], shape: [usize; D]) -> Tensor<D> {
    zeros(few).expand(Shape::from(shape))
}

/// Views and empty tensors, which need no memory, in shapes whose elements nothing holds: an application may have no
/// checks of overflow, so that their number would wrap.
fn sizes(calls: &mut Calls) {
    let full = Regions::full();
    let empty = |shape: [usize; 4]| Tensor::<4, Int>::zeros(shape, (&Device::flex(), DType::U8));
    calls.refused("kernels::attention", || {
        // 2^64 + 1 rows, whose number wraps to 1.
        let q = spread([1, 1, 1, 8], [274_177, 1, 67_280_421_310_721, 8]);
        let keys = || spread([1, 1, 1, 8], [274_177, 1, 1, 8]);
        attention(q, keys(), keys(), full)
    });
    calls.refused("kernels::attention", || {
        let none = || zeros([HUGE, 2, 0, 8]);
        attention(none(), none(), none(), full)
    });
    calls.refused("kernels::quantized_attention", || {
        let keys = || empty([HUGE, 1, 0, 34]);
        quantized_attention(zeros([HUGE, 1, 0, 32]), keys(), keys(), full)
    });
    calls.refused("kernels::quantize_rows", || {
        quantize_rows(spread([1, 1, 1, 32], [HUGE, 1, 1, 32]))
    });
    calls.refused("kernels::first_rows", || {
        first_rows(spread([1, 1, 1, 8], [HUGE, 4, 1, 8]), 1)
    });
    calls.refused("kernels::gather_rows", || {
        let keys = || spread([1, 1, 1, 1], [1, 1, 1, 1 << 62]);
        gather_rows(keys(), keys(), ids([1, 1, 4], 0))
    });
    calls.refused("kernels::linear", || {
        linear(zeros([HUGE, 0]), zeros([0, 4]), None)
    });
    calls.refused("kernels::linear", || {
        linear(zeros([1, 0]), zeros([0, HUGE]), None)
    });
    let format = BlockFormat::Q8_0;
    calls.refused("kernels::quantized_linear", || {
        quantized_linear(zeros([HUGE, 0]), blocks(4, 0), format, None)
    });
    calls.refused("kernels::quantized_rows", || {
        quantized_rows(blocks(HUGE, 0), ids([2], 0), format, FloatDType::F32)
    });
    calls.refused("kernels::dequantize", || {
        dequantize(blocks(HUGE, 0), format, FloatDType::F32)
    });
    calls.refused("kernels::merge", || {
        merge([AttentionOutput {
            out: zeros([HUGE, 2, 0, 8]),
            lse: zeros([HUGE, 2, 0]),
        }])
    });
    calls.refused("kernels::rms_norm", || {
        rms_norm(zeros([HUGE, 2, 0]), zeros([0]), 1e-5)
    });
    calls.refused("kernels::add_rms_norm", || {
        let x = || spread([1, 1, 8], [HUGE, 2, 8]);
        add_rms_norm(x(), x(), zeros([8]), 1e-5)
    });
    calls.refused("kernels::rotate", || {
        let table = || zeros([1, 2]);
        rotate(spread([1, 1, 4], [HUGE, 1, 4]), table(), table(), 1)
    });
    let choice = |rows, window| RowChoice {
        selectable: 0..rows,
        count: 2,
        window,
    };
    calls.refused("kernels::select_rows", || {
        select_rows(zeros([HUGE, 2, 0]), None, choice(0, 1))
    });
    calls.refused("kernels::select_rows", || {
        let before = spread([1, 1, 1], [1, 1, 1 << 31]);
        select_rows(zeros([1, 1, 6]), Some(before), choice(6, 1))
    });
    calls.call("kernels::select_rows", || {
        select_rows(zeros([1, 1, 6]), None, choice(6, usize::MAX))
    });
    calls.refused("kernels::silu_mul", || {
        let x = || spread([1, 1], [HUGE, 4]);
        silu_mul(x(), x())
    });
    calls.refused("kernels::silu_scores", || {
        silu_scores(zeros([HUGE, 1, 0]), zeros([0, 4]))
    });
}

#[test]
fn kernels() {
    let mut calls = Calls::default();
    let causal = Regions::causal();
    let name = "kernels::attention";
    let good = || zeros([1, 2, 4, 8]);
    calls.refused(name, || {
        attention(zeros([1, 3, 4, 8]), good(), good(), causal)
    });
    calls.refused(name, || {
        attention(good(), zeros([1, 2, 4, 9]), good(), causal)
    });
    calls.refused(name, || {
        attention(good(), good(), zeros([1, 2, 5, 8]), causal)
    });
    calls.refused(name, || {
        attention(good(), zeros([2, 2, 4, 8]), good(), causal)
    });
    calls.refused(name, || {
        attention(good(), zeros([1, 0, 4, 8]), zeros([1, 0, 4, 8]), causal)
    });
    calls.call(name, || {
        attention(zeros([1, 2, 5, 8]), good(), good(), causal)
    });
    calls.refused(name, || {
        attention(good(), halves([1, 2, 4, 8]), good(), causal)
    });
    calls.call(name, || {
        attention(halves([1, 2, 4, 8]), good(), good(), causal)
    });
    for size in [5, usize::MAX] {
        let regions = Regions {
            passing: size,
            anchor: size,
            causal: true,
        };
        calls.refused(name, || attention(good(), good(), good(), regions));
        calls.refused("kernels::Regions::validate", || regions.validate(4, 4));
        for row in [0, 3, 4, usize::MAX] {
            calls.call("kernels::Regions::visible_keys", || {
                regions.visible_keys(row, 4, 4)
            });
            calls.call("kernels::Regions::visible_keys", || {
                causal.visible_keys(row, 5, 4)
            });
        }
    }
    calls.call(name, || {
        attention(zeros([1, 2, 0, 8]), good(), good(), causal)
    });
    calls.call(name, || {
        let empty = || zeros([1, 2, 4, 0]);
        attention(empty(), empty(), empty(), causal)
    });

    calls.refused("kernels::first_rows", || first_rows(good(), 5));
    calls.call("kernels::first_rows", || first_rows(good(), 0));

    let name = "kernels::gather_rows";
    for id in [-1, 4, i64::from(i32::MAX)] {
        calls.call(name, || gather_rows(good(), good(), ids([1, 2, 1], id)));
    }
    calls.refused(name, || gather_rows(good(), good(), ids([1, 3, 1], 0)));
    calls.refused(name, || {
        gather_rows(good(), zeros([1, 2, 3, 8]), ids([1, 2, 1], 0))
    });

    let name = "kernels::linear";
    let rows = || zeros([1, 3, 8]);
    calls.refused(name, || linear(rows(), zeros([9, 4]), None));
    calls.refused(name, || linear(rows(), zeros([8, 4]), Some(zeros([5]))));
    calls.call(name, || linear(halves([1, 3, 8]), zeros([8, 4]), None));
    calls.call(name, || linear(zeros([1, 0, 8]), zeros([8, 4]), None));
    calls.call(name, || linear(zeros([1, 3, 0]), zeros([0, 4]), None));

    sizes(&mut calls);
    keys_and_values(&mut calls);
    for &format in BlockFormat::ALL {
        quantized(&mut calls, format);
    }

    let part = |rows, lse| AttentionOutput {
        out: zeros([1, 2, rows, 8]),
        lse: zeros([1, 2, lse]),
    };
    calls.refused("kernels::merge", || merge([part(4, 4), part(5, 5)]));
    calls.refused("kernels::merge", || merge([part(4, 4), part(4, 5)]));
    calls.refused("kernels::merge", || merge([part(4, 5)]));
    calls.refused("kernels::merge", || merge([]));

    calls.call("kernels::on_workers", || on_workers(&Device::flex(), || ()));

    let name = "kernels::rms_norm";
    calls.refused(name, || rms_norm(rows(), zeros([9]), 1e-5));
    calls.call(name, || rms_norm(halves([1, 3, 8]), zeros([8]), 1e-5));
    for eps in [f64::NAN, -1.0, 0.0, f64::INFINITY] {
        calls.call(name, || rms_norm(rows(), zeros([8]), eps));
    }
    calls.call(name, || rms_norm(zeros([1, 3, 0]), zeros([0]), 1e-5));

    let name = "kernels::add_rms_norm";
    let norm = |x, residual, gamma| add_rms_norm(x, residual, gamma, 1e-5);
    calls.refused(name, || norm(rows(), zeros([1, 2, 8]), zeros([8])));
    calls.refused(name, || norm(rows(), halves([1, 3, 8]), zeros([8])));
    calls.refused(name, || norm(rows(), rows(), zeros([7])));
    calls.call(name, || {
        norm(zeros([1, 0, 8]), zeros([1, 0, 8]), zeros([8]))
    });
    calls.call(name, || add_rms_norm(rows(), rows(), zeros([8]), f64::NAN));

    let name = "kernels::rotate";
    let table = || zeros([3, 2]);
    calls.refused(name, || rotate(rows(), table(), table(), 3));
    calls.refused(name, || rotate(rows(), table(), table(), 0));
    calls.refused(name, || rotate(rows(), zeros([4, 2]), table(), 2));
    calls.refused(name, || rotate(rows(), table(), zeros([3, 1]), 2));
    calls.refused(name, || rotate(rows(), table(), table(), usize::MAX));

    let name = "kernels::select_rows";
    let scores = || zeros([1, 2, 6]);
    let choice = |selectable, count, window| RowChoice {
        selectable,
        count,
        window,
    };
    calls.refused(name, || select_rows(scores(), None, choice(0..7, 2, 5)));
    #[expect(clippy::reversed_empty_ranges, reason = "a wrong argument")]
    calls.refused(name, || select_rows(scores(), None, choice(4..2, 2, 5)));
    calls.refused(name, || select_rows(scores(), None, choice(0..6, 2, 4)));
    calls.refused(name, || select_rows(scores(), None, choice(0..6, 2, 0)));
    calls.refused(name, || {
        select_rows(scores(), Some(zeros([1, 3, 2])), choice(0..6, 2, 5))
    });
    calls.call(name, || {
        select_rows(scores(), None, choice(0..6, usize::MAX, 5))
    });
    calls.call(name, || select_rows(scores(), None, choice(3..3, 0, 1)));
    calls.call(name, || {
        let nothing: Tensor<3> = zeros([1, 2, 6]) / 0.0;
        select_rows(nothing, None, choice(0..6, 2, 5))
    });

    calls.refused("kernels::silu_mul", || silu_mul(rows(), zeros([1, 3, 9])));
    calls.refused("kernels::silu_mul", || silu_mul(halves([1, 3, 8]), rows()));
    calls.refused("kernels::silu_scores", || {
        silu_scores(rows(), zeros([9, 2]))
    });
    calls.call("kernels::silu_scores", || {
        silu_scores(halves([1, 3, 8]), zeros([8, 2]))
    });
    calls.call("kernels::silu_scores", || {
        silu_scores(rows(), zeros([8, 0]))
    });
    calls.finish(&["kernels"], &[]);
}
