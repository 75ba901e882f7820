#!/usr/bin/env python3
"""Makes a folder with random weights in a model's shape: config.json, model.safetensors in bf16, tokenizer.json. Holds
some rows of one tensor in memory at a time.

usage: random_model.py SHAPE FOLDER TOKENIZER.json [SEED]     SHAPE: qwen2.5-0.5b, qwen2.5-1.5b"""
import json, math, os, pathlib, shutil, struct, sys

import numpy as np

QWEN = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 151936,
    "max_position_embeddings": 32768, "rope_theta": 1000000.0, "rms_norm_eps": 1e-06, "hidden_act": "silu",
    "tie_word_embeddings": True, "use_sliding_window": False, "sliding_window": 32768, "attention_dropout": 0.0,
    "initializer_range": 0.02, "bos_token_id": 151643, "eos_token_id": 151645, "torch_dtype": "bfloat16",
    "use_cache": True,
}
SHAPES = {
    "qwen2.5-0.5b": {**QWEN, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
                     "max_window_layers": 21, "num_attention_heads": 14, "num_key_value_heads": 2},
    "qwen2.5-1.5b": {**QWEN, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
                     "max_window_layers": 21, "num_attention_heads": 12, "num_key_value_heads": 2},
}
# Elements drawn at a time.
BLOCK = 1 << 22


def shapes(config):
    """Name and shape of every tensor."""
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    key = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", [config["vocab_size"], hidden]
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}."
        yield at + "input_layernorm.weight", [hidden]
        for name, rows in (("q", hidden), ("k", key), ("v", key)):
            yield at + f"self_attn.{name}_proj.weight", [rows, hidden]
            yield at + f"self_attn.{name}_proj.bias", [rows]
        yield at + "self_attn.o_proj.weight", [hidden, hidden]
        yield at + "post_attention_layernorm.weight", [hidden]
        yield at + "mlp.gate_proj.weight", [mlp, hidden]
        yield at + "mlp.up_proj.weight", [mlp, hidden]
        yield at + "mlp.down_proj.weight", [hidden, mlp]
    yield "model.norm.weight", [hidden]


def bf16(values):
    """The upper halves of f32 values, rounded to nearest, ties to even."""
    bits = values.astype("<f4", copy=False).view("<u4")
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def write(config, path, seed):
    header, offset = {}, 0
    for name, shape in shapes(config):
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    generator = np.random.Generator(np.random.SFC64(seed))
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for name, shape in shapes(config):
            left = math.prod(shape)
            while left:
                count = min(left, BLOCK)
                if name.endswith("norm.weight"):
                    values = np.ones(count, np.float32)
                else:
                    values = generator.standard_normal(count, np.float32) * np.float32(config["initializer_range"])
                file.write(bf16(values).tobytes())
                left -= count


def main():
    if len(sys.argv) not in (4, 5) or sys.argv[1] not in SHAPES:
        sys.exit(__doc__)
    shape, folder, tokenizer = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
    config = SHAPES[shape]
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copyfile(tokenizer, partial / "tokenizer.json")
    write(config, partial / "model.safetensors", int(sys.argv[4]) if len(sys.argv) > 4 else 0)
    os.replace(partial, folder)


if __name__ == "__main__":
    main()
