"""Attention problems, and what they give in float64."""

import json
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Case:
    """One problem. Keys are laid out [passing | anchor | local]."""

    name: str
    seq_q: int
    seq_kv: int
    passing: int = 0
    anchor: int = 0
    causal: bool = True
    batch: int = 1
    kv_heads: int = 1
    group: int = 2
    # Factor of the queries: large ones make one key win.
    heat: float = 1.0
    # Rows and heads swapped, keys in a cache with rows to spare, as a model holds them.
    strided: bool = False
    # (tensor, key, value) written over the inputs.
    poison: tuple = ()
    file: str = ""

    @property
    def heads(self):
        return self.kv_heads * self.group

    def visible(self):
        """[seq_q, seq_kv]: whether a row sees a key. See the crate's `Regions`."""
        position = np.arange(self.seq_q)[:, None] + self.seq_kv - self.seq_q
        key = np.arange(self.seq_kv)[None, :]
        seen = key <= position if self.causal else np.full((self.seq_q, self.seq_kv), True)
        anchor_row = (position + 1 <= self.passing + self.anchor) & (self.anchor > 0)
        return seen & ~(anchor_row & (key < self.passing))


NAN, INFINITE = float("nan"), float("inf")

REGIONS = Case("regions", 191, 268, 77, 41, group=2, strided=True)

GENERATED = [
    Case("causal", 150, 150, group=4, kv_heads=2),
    REGIONS,
    Case("regions, hot, aligned", 128, 256, 128, 64, group=1, heat=6.0),
    Case("regions, later chunk", 70, 193, 33, 70, group=3, strided=True),
    Case("anchor, no passing", 131, 131, 0, 41, group=1),
    Case("passing, no anchor", 90, 183, 93, 0, group=2),
    Case("regions, not causal", 90, 130, 40, 30, causal=False, group=2),
    Case("full", 37, 150, causal=False, group=2, batch=2),
    Case("decode", 1, 300, group=16, batch=2, kv_heads=2, strided=True),
    Case("question after regions", 9, 400, 100, 50, group=7),
    # Split, the first parts hold nothing that anchor rows see.
    Case("regions, many passing", 12, 700, 520, 176, group=2, batch=2),
    Case("more rows than keys", 90, 40, group=2),
    Case("one row, one key", 1, 1, group=1),
]

# Rows that see a poisoned key must show it, the others must not.
POISONED = [
    replace(REGIONS, name="poison: passing values", poison=(("v", 30, NAN),)),
    replace(REGIONS, name="poison: passing keys", poison=(("k", 76, NAN),)),
    replace(REGIONS, name="poison: anchor values", poison=(("v", 90, INFINITE),)),
    replace(REGIONS, name="poison: local both", poison=(("k", 200, NAN), ("v", 180, NAN))),
    replace(REGIONS, name="poison: last key", poison=(("k", 267, INFINITE), ("v", 267, NAN))),
    Case("poison: many passing", 12, 700, 520, 176, group=2, poison=(("v", 100, NAN), ("k", 699, NAN))),
    Case("poison: decode", 5, 200, group=3, poison=(("v", 198, NAN),)),
]


class Elements:
    """Conversions of an element type; 16-bit ones by their bits."""

    def __init__(self, dtype):
        self.dtype = dtype
        self.storage = np.float32 if dtype == "f32" else np.uint16

    def encode(self, values):
        values = np.ascontiguousarray(values, np.float32)
        if self.dtype == "f32":
            return values
        if self.dtype == "f16":
            return values.astype(np.float16).view(np.uint16)
        bits = values.view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
        return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)

    def decode(self, bits):
        if self.dtype == "f32":
            return bits.astype(np.float64)
        if self.dtype == "f16":
            return bits.view(np.float16).astype(np.float64)
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)

    def round(self, values):
        return self.decode(self.encode(values))


def reference(case, q, k, v):
    """out [batch, heads, seq_q, head_dim] and lse [batch, heads, seq_q] in float64, row by row over
    the visible keys alone."""
    out = np.zeros(q.shape)
    lse = np.full(q.shape[:3], -np.inf)
    scale = 1 / np.sqrt(q.shape[3])
    visible = case.visible()
    with np.errstate(invalid="ignore"):
        for b, h, row in np.ndindex(*q.shape[:3]):
            seen = visible[row]
            if not seen.any():
                continue
            keys, values = k[b, h // case.group, seen], v[b, h // case.group, seen]
            scores = keys @ q[b, h, row] * scale
            top = scores.max()
            weights = np.exp(scores - top)
            out[b, h, row] = weights @ values / weights.sum()
            lse[b, h, row] = top + np.log(weights.sum())
    return out, lse


def generate(case, elements, head_dim):
    """Random q, k, v in float64, exactly representable, shaped [batch, heads, seq, head_dim]."""
    random = np.random.default_rng(case.seq_q * 1000 + case.seq_kv)
    draw = lambda heads, rows, factor: elements.round(factor * random.standard_normal((case.batch, heads, rows, head_dim)))
    q = draw(case.heads, case.seq_q, case.heat)
    k, v = draw(case.kv_heads, case.seq_kv, 1), draw(case.kv_heads, case.seq_kv, 1)
    for tensor, key, value in case.poison:
        (k if tensor == "k" else v)[:, :, key] = value
    return q, k, v


def read_vectors(path, elements):
    """A case of the crate's float64 vectors, its q, k, v, and its out and lse."""
    data = Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + length])
    facts = {key: header["__metadata__"][key] for key in ("passing", "anchor")}

    def tensor(name):
        entry = header[name]
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if entry["dtype"] == "F32":
            values = np.frombuffer(data[begin:end], np.float32).astype(np.float64)
        else:
            values = elements.decode(np.frombuffer(data[begin:end], np.uint16))
        # [seq, heads, ...] to [1, heads, seq, ...]
        return np.moveaxis(values.reshape(entry["shape"]), 0, 1)[None]

    q, k, v, out, lse = (tensor(name) for name in ("q", "k", "v", "out", "lse"))
    case = Case(
        "vectors " + Path(path).stem.removeprefix("prefill_"),
        q.shape[2],
        k.shape[2],
        int(facts["passing"]),
        int(facts["anchor"]),
        kv_heads=k.shape[1],
        group=q.shape[1] // k.shape[1],
        strided=True,
        file=str(path),
    )
    return case, (q, k, v), (out, lse)
