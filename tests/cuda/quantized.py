"""The kernels over quantised weights, in the simulator, against what a processor makes of the same blocks."""

import re

import numpy as np

# Of the largest output: bf16, which is rounded once.
TOLERANCE = 2**-8
# Elements of a row and of a unit's word; rows of the weight that a cube multiplies: src/emit_quantized.rs and the
# kernels name the same.
WIDTH, WORD, PIECE, COLUMNS = 1280, 8, 32, 2


def read(folder, name):
    """Blocks as words, bytes of a row, and their elements."""
    elements = np.fromfile(folder / f"{name}.elements", np.float32).reshape(-1, WIDTH)
    blocks = np.fromfile(folder / f"{name}.blocks", np.uint8)
    stride = blocks.size // len(elements)
    return np.pad(blocks, (0, -blocks.size % 4)).view(np.uint32), stride, elements


def same(got, expected):
    return bool((got.view(np.uint32) == expected.view(np.uint32)).all())


def check_all(kernels, folder, elements, random):
    """Names of cases, and whether they came out right."""
    for name, kernel in kernels.items():
        kind, _, name_of_format = name.partition("_")
        units = kernel.facts["block"][0]
        if kind == "dequantize":
            blocks, stride, expected = read(folder, name_of_format)
            words = expected.size // WORD
            out = np.full_like(expected, np.nan)
            scalars = {"usize": [words, WIDTH // PIECE, stride]}
            for race in (True, False):
                kernel.launch((-(-words // units), 1, 1), [blocks, out], scalars, race)
                yield name, same(out, expected)
        elif name.startswith("look_up"):
            blocks, stride, expected = read(folder, name.removeprefix("look_up_"))
            ids = np.array([3, -1, 0, 99], np.int32)
            last = len(expected) - 1
            expected = expected[[3, last, 0, last]]
            out = np.full_like(expected, np.nan)
            words = expected.size // WORD
            scalars = {"usize": [words, WIDTH // PIECE, stride, last + 1]}
            kernel.launch((-(-words // units), 1, 1), [blocks, ids, out], scalars, True)
            yield name, same(out, expected)
        elif kind == "product":
            of_name = re.fullmatch(r"product_(.*)_r(\d+)(_bias)?", name)
            blocks, stride, weight = read(folder, of_name[1])
            rows, outputs = int(of_name[2]), len(weight)
            x = elements.encode(random.standard_normal((rows, WIDTH)).astype(np.float32))
            bias = elements.encode(random.standard_normal(outputs).astype(np.float32) * np.abs(weight).max())
            expected = elements.decode(x).astype(np.float64) @ weight.astype(np.float64).T
            if of_name[3]:
                expected += elements.decode(bias)
            cubes = (-(-outputs // (kernel.facts["block"][1] * COLUMNS)), 1, 1)
            scalars = {"usize": [WIDTH // PIECE, outputs, stride]}
            for race in (True, False):
                out = np.full((rows, outputs), elements.encode(np.float32("nan")), elements.storage)
                kernel.launch(cubes, [x, blocks, bias, out], scalars, race)
                error = np.abs(elements.decode(out) - expected).max() / np.abs(expected).max()
                yield f"{name}: {error:.0e}", bool(error <= TOLERANCE)


def check(kernels, folder, elements):
    """Runs them all; True where all are right."""
    done = list(check_all(kernels, folder, elements, np.random.default_rng(7)))
    for name, right in done:
        if not right:
            print(f"{name}: WRONG", flush=True)
    print(f"{sum(right for _, right in done)} of {len(done)} launches over quantised weights are right")
    return all(right for _, right in done)
