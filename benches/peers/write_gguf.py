#!/usr/bin/env python3
"""Writes a GGUF file from a Llama or Qwen2 folder, as llama.cpp's own converter would.

usage: write_gguf.py MODEL GGUF DTYPE     f32, bf16, q8_0, q4_0, q4_1, q5_0, q5_1 or q4_k

Matrices have the type that DTYPE says, vectors stay f32. q4_k is what llama.cpp's quantiser makes of the bf16 file as
Q4_K_M, by llama-cpp-python. Needs the Python packages gguf, numpy and tokenizers."""
import json, os, pathlib, struct, sys

import gguf
import numpy as np

DTYPES = {
    "f32": (None, gguf.LlamaFileType.ALL_F32),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    **{name.lower(): (gguf.GGMLQuantizationType[name], gguf.LlamaFileType["MOSTLY_" + name])
       for name in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")},
}
# llama.cpp's name of the words' pre-tokenizer.
PRE_TOKENIZERS = {"llama": "smollm", "qwen2": "qwen2"}
NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}
TOP = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
       "lm_head.weight": "output.weight"}


def tensors(folder):
    """Name and f32 array of each tensor of a folder's safetensors files."""
    for path in sorted(folder.glob("*.safetensors")):
        data = np.memmap(path, dtype=np.uint8, mode="r")
        (header,) = struct.unpack("<Q", data[:8].tobytes())
        for name, entry in json.loads(data[8 : 8 + header].tobytes()).items():
            if name != "__metadata__":
                begin, end = (8 + header + offset for offset in entry["data_offsets"])
                raw = data[begin:end]
                if entry["dtype"] == "BF16":
                    array = (raw.view("<u2").astype("<u4") << 16).view("<f4")
                else:
                    array = raw.view({"F32": "<f4", "F16": "<f2"}[entry["dtype"]]).astype("<f4")
                yield name, array.reshape(entry["shape"])


def gguf_name(name):
    if name in TOP:
        return TOP[name]
    _, _, layer, rest = name.split(".", 3)
    module, _, kind = rest.rpartition(".")
    return f"blk.{layer}.{NAMES[module]}.{kind}"


def interleave(weight, heads):
    """llama.cpp's row order of a Llama's q and k for its rotary embedding."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def add_words(w, folder, config):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = {id: token for token, id in tokenizer["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    words.update(special)
    count = config["vocab_size"]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(PRE_TOKENIZERS[config["model_type"]])
    w.add_token_list([words.get(id, f"[unused {id}]") for id in range(count)])
    kinds = (gguf.TokenType.CONTROL if id in special else gguf.TokenType.NORMAL for id in range(count))
    w.add_token_types([int(kind) for kind in kinds])
    merges = tokenizer["model"]["merges"]
    w.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    w.add_bos_token_id(config["bos_token_id"])
    w.add_eos_token_id(config["eos_token_id"])


def write(folder, path, dtype):
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] not in PRE_TOKENIZERS:
        sys.exit(f"{folder}: model_type is {config['model_type']}; {' and '.join(PRE_TOKENIZERS)} are written")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    kind, file_type = DTYPES[dtype]
    partial = f"{path}.partial"
    # Tensors wait in a temporary file, not in memory.
    w = gguf.GGUFWriter(partial, config["model_type"], use_temp_file=True)
    w.add_context_length(config["max_position_embeddings"])
    w.add_embedding_length(config["hidden_size"])
    w.add_block_count(config["num_hidden_layers"])
    w.add_feed_forward_length(config["intermediate_size"])
    w.add_head_count(heads)
    w.add_head_count_kv(kv_heads)
    w.add_rope_dimension_count(head_dim)
    w.add_rope_freq_base(config["rope_theta"])
    w.add_layer_norm_rms_eps(config["rms_norm_eps"])
    w.add_vocab_size(config["vocab_size"])
    w.add_file_type(file_type)
    add_words(w, folder, config)
    for name, array in tensors(folder):
        if config["model_type"] == "llama" and ".q_proj." in name:
            array = interleave(array, heads)
        if config["model_type"] == "llama" and ".k_proj." in name:
            array = interleave(array, kv_heads)
        array = np.ascontiguousarray(array)
        if array.ndim == 2 and kind is not None:
            w.add_tensor(gguf_name(name), gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            w.add_tensor(gguf_name(name), array)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    os.replace(partial, path)


def quantize(source, path):
    """Q4_K_M by llama.cpp."""
    import llama_cpp
    # It prints a line a tensor.
    quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(quiet, None)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    params.nthread = int(os.environ.get("THREADS", "2"))
    partial = f"{path}.partial"
    if llama_cpp.llama_model_quantize(str(source).encode(), partial.encode(), params):
        sys.exit(f"llama.cpp does not quantise {source}")
    os.replace(partial, path)


def main():
    folder, path, dtype = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
    if dtype != "q4_k":
        write(folder, path, dtype)
        return
    source = pathlib.Path(f"{path}.bf16")
    write(folder, source, "bf16")
    try:
        quantize(source, path)
    finally:
        source.unlink()


if __name__ == "__main__":
    main()
