"""The grid: what a model folder varies in, which values go together, and a covering set of folders."""

import itertools
import random

# The first value of each axis is the plain one.
AXES = {
    "arch": ["llama", "qwen2", "qwen3", "mistral"],
    "rope": ["default", "default_named", "linear", "dynamic", "llama3", "yarn", "yarn_mscale",
             "yarn_attention_factor", "yarn_betas", "yarn_no_truncate", "yarn_zero_fields"],
    "spelling": ["old_type", "old_rope_type", "new", "both_agree", "both_contradict", "new_type_only"],
    "theta": ["top", "inner", "both_agree", "both_differ", "absent"],
    "original": ["inside", "outside", "absent", "both_differ"],
    "context": ["scaled", "unscaled"],
    "prompt": ["short", "long", "control"],
    "heads": ["untied", "tied_none", "tied_equal", "tied_different", "tied_only_head"],
    "bias": ["none", "attention", "mlp", "attention_mlp"],
    "head_dim": ["absent", "null", "equal", "larger", "smaller"],
    "kv": ["half", "all", "one", "absent"],
    "dtype": ["F32", "F16", "BF16", "F64", "mixed"],
    "unused": ["none", "mtp", "v_head", "inv_freq", "zero_bias", "extra_layer", "all"],
    "shards": ["single", "two", "subfolder", "extra_tensors", "no_index_named_single"],
    "window": ["none", "max_window_layers", "layer_types", "null", "larger_than_prompt", "smaller_than_prompt"],
    "vocab": ["qwen2", "llama3", "qwen2_specials_first", "spm_metaspace", "spm_legacy"],
    "layout": ["full", "json_only", "added_tokens_decoder", "added_tokens_json", "special_tokens_map",
               "bos_in_map_only", "parts"],
    "tokenizer_class": ["fast", "absent", "native", "native_fast"],
    "template": ["config", "list", "dict", "jinja", "jinja_over_config", "none"],
    "style": ["chatml", "header", "inst"],
    "stop": ["generation", "generation_list", "config", "tokenizer", "template", "none"],
    "quirk": ["none", "bom", "nan", "infinity", "sampling", "generation_extreme", "absent_fields", "dtype_field"],
}

YARN = [rope for rope in AXES["rope"] if rope.startswith("yarn")]


def fit(spec):
    """Replaces values that do not go with the others by ones that do; the result is a folder that a user could have."""
    spec = dict(spec)
    arch, rope = spec["arch"], spec["rope"]
    if rope == "default":
        # No dictionary: nothing to spell or to contradict.
        spec["spelling"] = "old_type" if spec["spelling"] != "both_contradict" else "both_contradict"
        if spec["spelling"] == "both_contradict":
            spec["rope"] = rope = "yarn"
    if rope == "default" and spec["theta"] in ("inner", "both_agree", "both_differ"):
        spec["theta"] = "top"
    if rope not in YARN + ["llama3", "dynamic"]:
        spec["original"] = "absent"
    if rope == "llama3":
        # transformers warns, but computes: the original context must be below the new one to make sense.
        spec["context"] = "scaled"
        if spec["original"] == "absent":
            spec["original"] = "inside"
    if rope in ("default", "default_named"):
        spec["context"] = "scaled"
    if arch in ("qwen2", "mistral"):
        spec["bias"] = "none"
    if arch == "qwen3" and spec["bias"] in ("mlp", "attention_mlp"):
        spec["bias"] = "attention"
    if arch != "llama" and spec["kv"] == "absent":
        spec["kv"] = "half"
    if arch == "qwen3" and spec["head_dim"] == "null":
        spec["head_dim"] = "absent"
    if arch == "qwen2" and spec["head_dim"] == "null":
        spec["head_dim"] = "equal"
    if arch == "llama" and spec["window"] != "none":
        spec["window"] = "none"
    if arch == "mistral" and spec["window"] in ("max_window_layers", "layer_types"):
        spec["window"] = "null"
    if arch in ("qwen2", "qwen3") and spec["window"] == "null":
        spec["window"] = "max_window_layers"
    spm = spec["vocab"].startswith("spm")
    if spm and arch in ("qwen2", "qwen3"):
        # transformers gives these two Qwen2's tokenizer whatever the folder holds.
        spec["vocab"], spm = "qwen2", False
    if spec["vocab"] == "llama3" and arch in ("qwen2", "qwen3"):
        spec["vocab"] = "qwen2"
    if spec["layout"] == "parts":
        if arch == "mistral" and not spm:
            # transformers makes no tokenizer of vocab.json for it.
            spec["vocab"], spm = "spm_metaspace", True
        if spm:
            spec["tokenizer_class"] = "native"
        else:
            # vocab.json and merges.txt: only a class says how to split.
            spec["tokenizer_class"], spec["vocab"] = "native", "qwen2"
    if spec["layout"] == "json_only":
        if spec["template"] in ("config", "list", "dict", "jinja_over_config"):
            spec["template"] = "jinja"
        spec["tokenizer_class"] = "absent"
        if spec["stop"] == "tokenizer":
            spec["stop"] = "generation"
    if spec["template"] == "none" and spec["stop"] == "template":
        spec["stop"] = "generation"
    if spec["style"] == "inst" and spec["stop"] == "template":
        # Its turns end with the end-of-text token.
        spec["style"] = "chatml"
    if spec["layout"] == "bos_in_map_only":
        spec["style"] = "header" if spec["style"] == "chatml" else spec["style"]
    return spec


def plain():
    return {axis: values[0] for axis, values in AXES.items()}


def covering(count, seed):
    """At least `count` folders: first each value by itself, then rows until every pair of values that can go
    together has been seen, then random ones."""
    chosen = random.Random(seed)
    folders, seen = [], set()

    def add(spec):
        spec = fit(spec)
        key = tuple(spec.values())
        if key in seen:
            return False
        seen.add(key)
        folders.append(spec)
        return True

    add(plain())
    for axis, values in AXES.items():
        for value in values[1:]:
            add({**plain(), axis: value})
    for arch in AXES["arch"]:
        for rope in AXES["rope"]:
            add({**plain(), "arch": arch, "rope": rope, "prompt": "long", "spelling": "old_rope_type"})
    for rope in ("linear", "dynamic", "llama3", "yarn"):
        for spelling in AXES["spelling"]:
            for original in AXES["original"]:
                add({**plain(), "rope": rope, "spelling": spelling, "original": original, "prompt": "long",
                     "arch": chosen.choice(AXES["arch"]), "theta": chosen.choice(AXES["theta"]),
                     "context": chosen.choice(AXES["context"])})

    def pairs(spec):
        return set(itertools.combinations(spec.items(), 2))

    covered = set()
    for spec in folders:
        covered |= pairs(spec)
    misses = 0
    while misses < 400 or len(folders) < count:
        best, best_new = None, 0
        for _ in range(20):
            spec = fit({axis: chosen.choice(values) for axis, values in AXES.items()})
            new = len(pairs(spec) - covered)
            if new > best_new:
                best, best_new = spec, new
        if len(folders) >= count:
            break
        if best is None:
            misses += 1
            best = fit({axis: chosen.choice(values) for axis, values in AXES.items()})
        if add(best):
            covered |= pairs(best)
    possible = set()
    probe = random.Random(seed + 1)
    for _ in range(4000):
        possible |= pairs(fit({axis: probe.choice(values) for axis, values in AXES.items()}))
    return folders, len(covered & possible), len(possible)


def name(index, spec):
    """A folder's number, the architecture and the values that are not plain."""
    base = fit(plain())
    parts = [f"{axis}={value}" for axis, value in spec.items() if value != base[axis] and axis != "arch"]
    return ",".join([f"{index:03}-{spec['arch']}"] + parts)
