"""Writes one model folder of the grid."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import vocabulary

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
                 "mistral": "MistralForCausalLM"}
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
# Tokens of the context that rope scaling stretches, and by how much.
ORIGINAL, FACTOR = 96, 4.0
BOM = b"\xef\xbb\xbf"


def rope_fields(spec):
    """`config.json`'s fields about positions."""
    rope, spelling = spec["rope"], spec["spelling"]
    stretched = int(ORIGINAL * FACTOR)
    context = {"default": 512, "default_named": 512}.get(rope, stretched if spec["context"] == "scaled" else ORIGINAL)
    fields = {"max_position_embeddings": context}
    kind = "yarn" if rope.startswith("yarn") else rope.removesuffix("_named")
    theta, other = 5000.0, 300.0
    if spec["theta"] in ("top", "both_agree"):
        fields["rope_theta"] = theta
    elif spec["theta"] == "both_differ":
        fields["rope_theta"] = other
    if rope == "default":
        return fields
    inner = {}
    if kind != "default":
        inner["factor"] = FACTOR
    if kind == "llama3":
        inner.update(low_freq_factor=1.0, high_freq_factor=4.0)
    inner.update({"yarn_mscale": {"mscale": 1.0, "mscale_all_dim": 0.7},
                  "yarn_attention_factor": {"attention_factor": 1.3},
                  "yarn_betas": {"beta_fast": 12, "beta_slow": 2},
                  "yarn_no_truncate": {"truncate": False, "beta_fast": 6.0},
                  "yarn_zero_fields": {"beta_fast": 0, "beta_slow": None, "mscale": 0, "mscale_all_dim": 1.0,
                                       "attention_factor": None}}.get(rope, {}))
    if spec["original"] in ("inside", "both_differ"):
        inner["original_max_position_embeddings"] = ORIGINAL
    if spec["original"] == "outside":
        fields["original_max_position_embeddings"] = ORIGINAL
    if spec["original"] == "both_differ":
        fields["original_max_position_embeddings"] = ORIGINAL // 2
    if spec["theta"] in ("inner", "both_agree", "both_differ"):
        inner["rope_theta"] = theta
    old = {"type": kind, **inner}
    new = {"rope_type": kind, **inner}
    if spelling == "old_type":
        fields["rope_scaling"] = old
    elif spelling == "old_rope_type":
        fields["rope_scaling"] = new
    elif spelling == "new":
        fields["rope_parameters"] = new
    elif spelling == "new_type_only":
        fields["rope_parameters"] = old
    elif spelling == "both_agree":
        fields["rope_scaling"], fields["rope_parameters"] = old, new
    else:
        # As a file written by transformers 5 and then edited after an older model card.
        fields["rope_scaling"] = old
        fields["rope_parameters"] = {"rope_type": "default" if kind != "default" else "linear",
                                     "rope_theta": fields.get("rope_theta", theta)}
        if kind == "default":
            fields["rope_parameters"]["factor"] = FACTOR
    return fields


def shape(spec, hidden=32):
    heads = 4
    equal = hidden // heads
    head_dim = {"larger": 2 * equal, "smaller": equal // 2}.get(spec["head_dim"], equal)
    if spec["arch"] == "qwen3" and spec["head_dim"] == "absent":
        head_dim = 128
    kv = {"half": 2, "all": 4, "one": 1, "absent": 4}[spec["kv"]]
    return hidden, heads, kv, head_dim


def config(spec, vocab, rows, layers, hidden):
    arch = spec["arch"]
    hidden, heads, kv, head_dim = shape(spec, hidden)
    result = {"architectures": [ARCHITECTURES[arch]], "model_type": arch, "vocab_size": rows, "hidden_size": hidden,
              "intermediate_size": 3 * hidden // 2, "num_hidden_layers": layers, "num_attention_heads": heads,
              "num_key_value_heads": kv, "hidden_act": "silu", "rms_norm_eps": 1e-6, "initializer_range": 0.02,
              "bos_token_id": vocab.id(vocab.bos), "use_cache": True, "attention_dropout": 0.0,
              "tie_word_embeddings": spec["heads"].startswith("tied"),
              "torch_dtype": {"F16": "float16", "BF16": "bfloat16", "F64": "float64"}.get(spec["dtype"], "float32"),
              "transformers_version": "4.46.0"}
    if spec["head_dim"] == "null":
        result["head_dim"] = None
    elif spec["head_dim"] != "absent":
        result["head_dim"] = head_dim
    if spec["kv"] == "absent":
        del result["num_key_value_heads"]
    if arch in ("llama", "qwen3"):
        result["attention_bias"] = spec["bias"].startswith("attention")
    if arch == "llama":
        result["mlp_bias"] = spec["bias"].endswith("mlp")
    window = spec["window"]
    if arch in ("qwen2", "qwen3"):
        result.update({"none": {"use_sliding_window": False, "sliding_window": 64, "max_window_layers": 1},
                       "max_window_layers": {"use_sliding_window": True, "sliding_window": 16,
                                             "max_window_layers": layers},
                       "layer_types": {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 0,
                                       "layer_types": ["full_attention"] * layers},
                       "larger_than_prompt": {"use_sliding_window": True, "sliding_window": 4096,
                                              "max_window_layers": 0},
                       "smaller_than_prompt": {"use_sliding_window": True, "sliding_window": 16,
                                               "max_window_layers": 1}}[window])
    if arch == "mistral":
        result["sliding_window"] = {"larger_than_prompt": 4096, "smaller_than_prompt": 16}.get(window)
    result.update(rope_fields(spec))
    if spec["quirk"] == "absent_fields":
        for field in ("rms_norm_eps", "hidden_act", "initializer_range", "torch_dtype", "use_cache", "attention_bias",
                      "mlp_bias"):
            if not (field.endswith("bias") and result.get(field)):
                result.pop(field, None)
        if not result["tie_word_embeddings"]:
            del result["tie_word_embeddings"]
    if spec["quirk"] == "dtype_field":
        result["dtype"] = result.pop("torch_dtype")
    if spec["quirk"] in ("nan", "infinity"):
        value = float("nan") if spec["quirk"] == "nan" else float("inf")
        result["router_aux_loss_coef"] = value
        result["initializer_range_of_heads"] = [value, -float("inf")]
    return result


def tensors(spec, rows, layers, hidden, seed):
    """Random weights, strong enough in the attention that a wrong position shows in the tokens."""
    rng = np.random.default_rng(seed)
    hidden, heads, kv, head_dim = shape(spec, hidden)
    inner = 3 * hidden // 2
    arch = spec["arch"]
    result = {}

    def matrix(name, out, into, gain=1.0):
        result[name] = rng.normal(0, gain / np.sqrt(into), (out, into))

    def vector(name, length, mean, spread):
        result[name] = rng.normal(mean, spread, length)

    result["model.embed_tokens.weight"] = rng.normal(0, 1, (rows, hidden))
    for layer in range(layers):
        at = f"model.layers.{layer}."
        matrix(at + "self_attn.q_proj.weight", heads * head_dim, hidden, 2.0)
        matrix(at + "self_attn.k_proj.weight", kv * head_dim, hidden, 2.0)
        matrix(at + "self_attn.v_proj.weight", kv * head_dim, hidden, 1.5)
        matrix(at + "self_attn.o_proj.weight", hidden, heads * head_dim, 2.0)
        matrix(at + "mlp.gate_proj.weight", inner, hidden)
        matrix(at + "mlp.up_proj.weight", inner, hidden)
        matrix(at + "mlp.down_proj.weight", hidden, inner)
        vector(at + "input_layernorm.weight", hidden, 1, 0.1)
        vector(at + "post_attention_layernorm.weight", hidden, 1, 0.1)
        if arch == "qwen3":
            vector(at + "self_attn.q_norm.weight", head_dim, 1.5, 0.2)
            vector(at + "self_attn.k_norm.weight", head_dim, 1.5, 0.2)
        if arch == "qwen2" or spec["bias"].startswith("attention"):
            for name, length in (("q", heads * head_dim), ("k", kv * head_dim), ("v", kv * head_dim)):
                vector(f"{at}self_attn.{name}_proj.bias", length, 0, 0.3)
        if spec["bias"].startswith("attention"):
            vector(at + "self_attn.o_proj.bias", hidden, 0, 0.3)
        if spec["bias"].endswith("mlp"):
            vector(at + "mlp.gate_proj.bias", inner, 0, 0.3)
            vector(at + "mlp.up_proj.bias", inner, 0, 0.3)
            vector(at + "mlp.down_proj.bias", hidden, 0, 0.3)
    vector("model.norm.weight", hidden, 1, 0.1)
    head = rng.normal(0, 1, (rows, hidden))
    if spec["heads"] in ("untied", "tied_different"):
        result["lm_head.weight"] = head
    if spec["heads"] == "tied_equal":
        result["lm_head.weight"] = result["model.embed_tokens.weight"].copy()
    if spec["heads"] == "tied_only_head":
        result["lm_head.weight"] = result.pop("model.embed_tokens.weight")
    unused = {}
    if spec["unused"] in ("mtp", "all"):
        unused["mtp.layers.0.mlp.gate_proj.weight"] = rng.normal(0, 1, (inner, hidden))
        unused["model.mtp_layers.0.norm.weight"] = rng.normal(0, 1, hidden)
    if spec["unused"] in ("v_head", "all"):
        unused["v_head.summary.weight"] = rng.normal(0, 1, (1, hidden))
        unused["v_head.summary.bias"] = rng.normal(0, 1, 1)
    if spec["unused"] in ("inv_freq", "all"):
        for layer in range(layers):
            unused[f"model.layers.{layer}.self_attn.rotary_emb.inv_freq"] = 1 / 100 ** np.arange(0, 1, 2 / head_dim)
    if spec["unused"] in ("zero_bias", "all"):
        for name, length in (("self_attn.o_proj.bias", hidden), ("mlp.down_proj.bias", hidden)):
            if f"model.layers.0.{name}" not in result:
                unused[f"model.layers.0.{name}"] = np.zeros(length)
    if spec["unused"] in ("extra_layer", "all"):
        unused[f"model.layers.{layers}.input_layernorm.weight"] = rng.normal(0, 1, hidden)
        unused[f"model.layers.{layers}.self_attn.q_proj.weight"] = rng.normal(0, 1, (heads * head_dim, hidden))
    cycle = [torch.bfloat16, torch.float64, torch.float16, torch.float32]
    done = {}
    for index, (name, value) in enumerate({**result, **unused}.items()):
        dtype = cycle[index % 4] if spec["dtype"] == "mixed" else DTYPES[spec["dtype"]]
        done[name] = torch.tensor(value).to(dtype).contiguous()
    return done


def write_weights(folder, spec, weights, dump):
    shards = spec["shards"]
    if shards == "single":
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(weights)
    half = len(names) // 2
    parts = [names[:half], names[half:]]
    if shards == "no_index_named_single":
        parts = [names]
    where = folder / "weights" if shards == "subfolder" else folder
    where.mkdir(exist_ok=True)
    index = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        held = {name: weights[name] for name in part}
        if shards == "extra_tensors" and number == 2:
            held["rotary.cache"] = torch.ones(3)
            held["optimizer.state"] = torch.ones(2, 2)
        save_file(held, where / file, metadata={"format": "pt"})
        for name in part:
            index[name] = f"weights/{file}" if shards == "subfolder" else file
    total = sum(t.numel() * t.element_size() for t in weights.values())
    dump(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


def stop_ids(spec, vocab):
    """The token under test that ends an answer; none where nothing does."""
    if spec["stop"] == "none":
        return None
    if spec["stop"] == "template":
        return vocab.id(vocabulary.TURN_END[spec["style"]])
    if spec["stop"] == "tokenizer":
        return vocab.id(vocab.eos)
    return vocab.id("<|extra|>")


def generation(spec, vocab):
    """`generation_config.json`; none where the folder has none."""
    stop = stop_ids(spec, vocab)
    unlike = vocab.id("<|end_header_id|>")
    if spec["stop"] in ("config", "none") and spec["quirk"] not in ("sampling", "generation_extreme"):
        return None
    result = {"bos_token_id": vocab.id(vocab.bos), "transformers_version": "4.46.0"}
    if spec["stop"] == "generation":
        result["eos_token_id"] = stop
    if spec["stop"] == "generation_list":
        result["eos_token_id"] = [unlike, stop]
    if spec["stop"] in ("tokenizer", "template"):
        result["eos_token_id"] = unlike
    if spec["quirk"] == "sampling":
        result.update(do_sample=True, temperature=0.6, top_k=20, top_p=0.95)
    if spec["quirk"] == "generation_extreme":
        result.update(do_sample=True, temperature=-1.0, top_k=-1, top_p=1.5, min_p=3, max_new_tokens=None,
                      repetition_penalty=1.0)
    if spec["quirk"] == "nan":
        result["typical_p"] = float("nan")
    return result


def write(folder, spec, vocab, seed, layers=2, hidden=32, swap=None):
    """Writes the folder. `swap` exchanges two rows of the output head, which makes a token come up."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def dump(path, value):
        # The vocabulary on one line: it is most of a small folder.
        indent = None if path.name in ("tokenizer.json", "vocab.json") else 1
        text = json.dumps(value, indent=indent, ensure_ascii=False).encode()
        path.write_bytes(BOM + text if spec["quirk"] == "bom" else text)

    rows = (vocab.size + 7) // 8 * 8
    raw = config(spec, vocab, rows, layers, hidden)
    if spec["stop"] == "config":
        raw["eos_token_id"] = [vocab.id("<|end_header_id|>"), stop_ids(spec, vocab)]
    elif spec["stop"] != "none":
        raw["eos_token_id"] = vocab.id("<|end_header_id|>")
    else:
        raw["eos_token_id"] = None
    dump(folder / "config.json", raw)
    made = generation(spec, vocab)
    if made is not None:
        dump(folder / "generation_config.json", made)
    vocabulary.write(folder, vocab, spec, dump)
    weights = tensors(spec, rows, layers, hidden, seed)
    if swap:
        name = "lm_head.weight" if "lm_head.weight" in weights else "model.embed_tokens.weight"
        a, b = swap
        weights[name][[a, b]] = weights[name][[b, a]]
        if spec["heads"] == "tied_equal":
            weights["model.embed_tokens.weight"] = weights[name].clone()
    write_weights(folder, spec, weights, dump)
