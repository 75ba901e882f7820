"""The kernels around attention, in the simulator, against a few lines of NumPy."""

import numpy as np

# Of the largest score: f32 sums in another order, and a fast exponential.
SCORE_TOLERANCE = 3e-6
# Of bf16, which is rounded once, and a little for values near 0.
GATE_TOLERANCE = 2**-8
EPSILON = 1e-5
# Elements of a vector of the emitted norms and gate; src/emit_fused.rs names the same.
VECTOR = 4
# Elements of a vector of weights, and weight rows of a cube; src/emit_fused.rs and the kernel name the same.
WEIGHTS = 8
COLUMNS = 8
# Outputs that the emitted scores' kernel has; src/emit_fused.rs names the same.
OUTPUTS = 8


def selected(scores, before, start, count, window):
    """Every head's rows, sorted stably by pooled score."""
    kept = []
    for head, context in zip(scores, before):
        both = np.concatenate([context, head])
        both = np.where(np.isnan(both), -np.inf, both)
        reach = window // 2
        first = len(context)
        pooled = [both[max(first + i - reach, 0) : first + i + reach + 1].max() for i in range(start, len(head))]
        order = np.argsort(-np.array(pooled), kind="stable")[:count]
        kept.append(np.sort(order) + start)
    return np.array(kept, np.int32)


def select(kernels, scores, before, start, count, window, race):
    """What the two kernels of a selection write."""
    heads, rows = scores.shape
    context = before.shape[1]
    selectable = rows - start
    keys = np.zeros((heads, selectable), np.uint32)
    # As the crate does: without rows before, the scores stand in for the buffer.
    stand_in = np.ascontiguousarray(before) if context else scores
    pool = kernels["pool_scores"]
    units = pool.facts["block"][0]
    scalars = {"usize": [keys.size, rows, context, start, selectable, window // 2]}
    pool.launch((-(-keys.size // units), 1, 1), [scores, stand_in, keys], scalars, race)
    out = np.full((heads, count), -1, np.int32)
    kernels["select_rows"].launch((heads, 1, 1), [keys, out], {"usize": [selectable, count, start]}, race)
    return out


def selections(kernels, random):
    """Names of cases, and whether they came out right."""
    kinds = {
        "normal": lambda shape: random.standard_normal(shape),
        "ties": lambda shape: random.integers(-2, 3, shape),
        "equal": lambda shape: np.zeros(shape) * random.choice([-1, 1], shape),
        "holes": lambda shape: np.where(random.random(shape) < 0.3, np.nan, random.standard_normal(shape)),
        "infinite": lambda shape: random.choice([-np.inf, 0.5, np.inf], shape),
    }
    for kind, make in kinds.items():
        for rows, context, start, count, window in [(6, 0, 0, 2, 5), (300, 2, 17, 40, 5), (900, 1, 0, 900, 1), (513, 2, 1, 1, 7)]:
            scores = make((3, rows)).astype(np.float32)
            before = make((3, context)).astype(np.float32)
            expected = selected(scores, before, start, count, window)
            for race in (True, False):
                got = select(kernels, scores, before, start, count, window, race)
                yield f"select {kind} {count} of {rows - start}", bool((got == expected).all())


def scores(kernels, elements, random):
    """Names of cases, and whether they came out right."""
    kernel = kernels[f"silu_scores_{elements.dtype}"]
    _, tile = kernel.facts["block"]
    for batch, rows, width in [(1, 5, 64), (2, 11, 200), (1, 8, 17)]:
        hidden = elements.encode(random.standard_normal((batch, rows, width)).astype(np.float32))
        weight = elements.encode(random.standard_normal((OUTPUTS, width)).astype(np.float32))
        x, w = (elements.decode(a).astype(np.float64) for a in (hidden, weight))
        expected = np.einsum("brw,ow->bor", x / (1 + np.exp(-x)), w)
        out = np.full((batch, OUTPUTS, rows), np.nan, np.float32)
        cubes = (-(-batch * rows // tile), 1, 1)
        for race in (True, False):
            out[:] = np.nan
            kernel.launch(cubes, [hidden, weight, out], {"usize": [batch * rows, rows, width]}, race)
            error = np.abs(out - expected).max() / np.abs(expected).max()
            yield f"scores {elements.dtype} {rows} x {width}: {error:.0e}", bool(error <= SCORE_TOLERANCE)


def products(kernels, elements, random):
    """Names of cases, and whether they came out right: within the rounding of their type."""
    for rows in (1, 3):
        for width, outputs, pitch in [(64, 5, 64), (2048, 17, 2056), (1400, 9, 1400)]:
            x, weight, bias = (
                elements.encode(random.standard_normal(shape).astype(np.float32))
                for shape in ((rows, width), (outputs, pitch), outputs)
            )
            x64, weight64, bias64 = (elements.decode(a).astype(np.float64) for a in (x, weight[:, :width], bias))
            expected = x64 @ weight64.T + (bias64 if rows == 3 else 0)
            scalars = {"usize": [width // WEIGHTS, outputs, pitch // WEIGHTS]}
            for race in (True, False):
                out = np.full((rows, outputs), elements.encode(np.float32("nan")), elements.storage)
                cubes = (-(-outputs // COLUMNS) + 1, 1, 1)
                kernels[f"few_rows_{rows}"].launch(cubes, [x, weight, bias, out], scalars, race)
                error = np.abs(elements.decode(out) - expected)
                right = error <= GATE_TOLERANCE * (np.abs(expected) + 1e-2)
                yield f"product {rows} x {width} x {outputs}", bool(right.all())


def query(kernels, elements, random):
    """Names of cases, and whether they came out right: f32 sums in another order."""
    for heads, rows, width, spare in [(2, 5, 64, 0), (3, 300, 128, 7)]:
        keys = elements.encode(random.standard_normal((heads, rows + spare, width)).astype(np.float32))
        keys64 = elements.decode(keys).astype(np.float64)[:, :rows]
        question = elements.encode(random.standard_normal((heads, 9, width)).astype(np.float32))
        mean = elements.decode(question).astype(np.float64).mean(1)
        scores = np.einsum("hrw,hw->hr", keys64, mean) * 0.125
        units = kernels["query_scores"].facts["block"][0]
        for race in (True, False):
            got = np.full((heads, width), np.nan, np.float32)
            kernels["mean_rows"].launch((-(-got.size // units), 1, 1), [question, got], {"usize": [got.size, 9, width]}, race)
            yield f"mean {heads} x {width}", bool(np.abs(got - mean).max() <= SCORE_TOLERANCE * np.abs(mean).max())
            out = np.full((heads, rows), np.nan, np.float32)
            sizes = [out.size, rows, width // VECTOR, (rows + spare) * width // VECTOR]
            cubes = (-(-out.size // units), 1, 1)
            kernels["query_scores"].launch(cubes, [keys, got, out], {"usize": sizes, "f32": [0.125]}, race)
            yield f"query {heads} x {rows}", bool(np.abs(out - scores).max() <= SCORE_TOLERANCE * np.abs(scores).max())


def finite(kernels, elements, random):
    """Names of cases, and whether they came out right."""
    heads, rows, width, spare = 2, 40, 64, 3
    units = kernels["not_finite"].facts["block"][0]
    total = heads * rows * width
    for value in (0.0, np.nan, np.inf, -np.inf):
        # What lies between the heads is not looked at.
        x = np.full((heads, rows + spare, width), np.nan, np.float32)
        x[:, :rows] = random.standard_normal((heads, rows, width))
        x[1, rows - 1, width - 1] = value
        found = np.zeros(1, np.int32)
        sizes = [total, rows * width, (rows + spare) * width, units]
        kernels["not_finite"].launch((1, 1, 1), [elements.encode(x), found], {"usize": sizes}, True)
        yield f"finite beside {value}", bool(found[0] == (0 if value == 0 else 1))


def norms_and_gate(kernels, elements, random):
    """Names of cases, and whether they came out right: within the rounding of their type."""
    def wide(shape):
        encoded = elements.encode(random.standard_normal(shape).astype(np.float32))
        return encoded, elements.decode(encoded).astype(np.float64)

    def close(got, expected):
        return bool((np.abs(elements.decode(got) - expected) <= GATE_TOLERANCE * (np.abs(expected) + 1e-2)).all())

    for rows, width in [(3, 64), (2, 576), (1, 4096)]:
        (x, x64), (residual, residual64), (gamma, gamma64) = wide((rows, width)), wide((rows, width)), wide(width)
        norm = lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * gamma64
        scalars = {"usize": [rows, width // VECTOR], "f32": [EPSILON]}
        for race in (True, False):
            total, out = np.zeros_like(x), np.zeros_like(x)
            kernels["rms_norm"].launch((rows + 1, 1, 1), [x, gamma, out], scalars, race)
            yield f"norm {rows} x {width}", close(out, norm(x64))
            kernels["add_rms_norm"].launch((rows + 1, 1, 1), [x, residual, gamma, total, out], scalars, race)
            sum64 = elements.decode(total).astype(np.float64)
            yield f"sum {rows} x {width}", close(total, x64 + residual64)
            yield f"norm of the sum {rows} x {width}", close(out, norm(sum64))
            units = kernels["silu_mul"].facts["block"][0]
            cubes = (-(-x.size // VECTOR // units), 1, 1)
            kernels["silu_mul"].launch(cubes, [x, residual, out], {"usize": [x.size // VECTOR]}, race)
            yield f"gate {rows} x {width}", close(out, x64 / (1 + np.exp(-x64)) * residual64)


def check(kernels, elements):
    """Runs them all; True where all are right."""
    random = np.random.default_rng(5)
    done = list(selections(kernels, random))
    for kind in elements:
        done += scores(kernels, kind, random)
        if kind.dtype == "bf16":
            done += norms_and_gate(kernels, kind, random)
            done += products(kernels, kind, random)
            done += query(kernels, kind, random)
            done += finite(kernels, kind, random)
    for name, right in done:
        if not right:
            print(f"{name}: WRONG", flush=True)
    print(f"{sum(right for _, right in done)} of {len(done)} selections, scores, norms, gates, products and searches are right")
    return all(right for _, right in done)
