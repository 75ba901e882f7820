"""Launches of emitted kernels in ptxsim."""

import json
import re
import struct
import subprocess

import numpy as np

# Rows of a cache behind the keys; they hold NaN and are never read.
SPARE = 7


def info(source, scalars):
    """The by-value struct that CubeCL passes behind the buffers: scalars by type, then lengths of
    buffers, which unchecked kernels do not read."""
    body = re.search(r"struct info_st \{(.*?)\};", source, re.S).group(1)
    packed = b""
    for kind, name, count in re.findall(r"(\w+) (\w+)\[(\d+)\];", body):
        values = list(scalars.get(name.removeprefix("scalars_"), []))
        values += [0] * (int(count) - len(values))
        code = {"float": "f", "int32_t": "i", "uint32_t": "I"}[kind]
        packed += struct.pack(f"<{count}{code}", *values)
    return packed


def plan(binary, cases):
    """The crate's own launches of problems."""
    lines = "\n".join(json.dumps(case) for case in cases)
    done = subprocess.run([binary, "plan"], input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def view(values, strided, spare, fill):
    """A buffer that holds `values` [batch, heads, seq, head_dim], and its strides in elements."""
    batch, heads, seq, head_dim = values.shape
    if not strided:
        return np.ascontiguousarray(values), [heads * seq * head_dim, seq * head_dim, head_dim, 1]
    buffer = np.full((batch, seq + spare, heads, head_dim), fill, values.dtype)
    buffer[:, :seq] = np.moveaxis(values, 1, 2)
    return buffer, [(seq + spare) * heads * head_dim, head_dim, heads * head_dim, 1]


class Kernel:
    """An emitted kernel in the simulator."""

    def __init__(self, ptxsim, facts, source, ptx):
        self.facts, self.source = facts, source
        self.module = ptxsim.Module(ptx)

    def launch(self, cubes, buffers, scalars, race):
        checks = {"race": race}
        if self.facts["architecture"] == "sm_90a":
            checks |= {"strict_wgmma": True, "proxy_fence": True}
        return self.module.launch(
            self.module.kernels[0],
            tuple(cubes),
            tuple(self.facts["block"]),
            [*buffers, info(self.source, scalars)],
            smem=self.facts["shared_bytes"],
            **checks,
        )


def attention(kernels, name, binary, case, inputs, elements, race):
    """out and lse in float64, as the kernel (and the merge of its parts) computes them, and the
    simulator's report."""
    kernel = kernels[name]
    head_dim = kernel.facts["head_dim"]
    encoded = [elements.encode(values) for values in inputs]
    q, q_strides = view(encoded[0], case.strided, 0, 0)
    k, k_strides = view(encoded[1], case.strided, SPARE, elements.encode(np.float32("nan")))
    v, v_strides = view(encoded[2], case.strided, SPARE, elements.encode(np.float32("nan")))
    shape = encoded[0].shape
    parts = kernel.facts["parts"]
    unwritten = np.full(shape, elements.encode(np.float32("nan")), elements.storage)
    out, out_strides = view(unwritten, case.strided, 0, 0)
    problem = dict(
        kernel=name,
        architecture=90,
        shared_bytes=232448,
        multiprocessors=3,
        dtype=elements.dtype,
        head_dim=head_dim,
        batch=case.batch,
        heads=case.heads,
        kv_heads=case.kv_heads,
        seq_q=case.seq_q,
        seq_kv=case.seq_kv,
        passing=case.passing,
        anchor=case.anchor,
        causal=case.causal,
        q=q_strides,
        k=k_strides,
        v=v_strides,
        out=view(unwritten, False, 0, 0)[1] if parts else out_strides,
    )
    (launch,) = plan(binary, [problem])
    lse = np.full(shape[:3], np.nan, np.float32)
    if parts:
        part_out = np.full((launch["splits"], *shape), np.nan, np.float32)
        part_lse = np.full((launch["splits"], *shape[:3]), np.nan, np.float32)
        report = kernel.launch(launch["cubes"], [q, k, v, part_out, part_lse], launch, race)
        merge = kernels[f"merge_{elements.dtype}_d{head_dim}"]
        rows = int(np.prod(shape[:3]))
        words = [stride // 4 for stride in out_strides[:3]]
        words += [launch["splits"], case.heads, case.seq_q, rows]
        units = merge.facts["block"][0]
        cubes = (-(-rows * head_dim // 4 // units), 1, 1)
        merge.launch(cubes, [part_out, part_lse, out, lse], {"u32": words}, race)
    else:
        report = kernel.launch(launch["cubes"], [q, k, v, out, lse], launch, race)
    values = elements.decode(out)
    return (np.moveaxis(values, 1, 2) if case.strided else values), lse.astype(np.float64), report
