"""The folders of tests/fixtures/compat: one for several classes at once, small, with transformers' answers."""

import json
import shutil

import folder as folders
import grid
import reference
import vocabulary

# 256 bytes, some merges, the special tokens; one layer.
VOCABULARY, SIZE = 300, {"layers": 1, "hidden": 16}
CHOSEN = {
    "tokens_in_decoder": {"layout": "added_tokens_decoder", "heads": "tied_only_head", "stop": "template",
                          "dtype": "F16"},
    "yarn_old_spelling": {"arch": "qwen2", "rope": "yarn", "spelling": "old_type", "original": "absent",
                          "context": "unscaled", "prompt": "long", "unused": "all", "shards": "extra_tensors",
                          "dtype": "mixed", "heads": "tied_none", "tokenizer_class": "native"},
    "window_of_no_layer": {"arch": "qwen3", "window": "max_window_layers", "head_dim": "equal", "template": "dict",
                           "quirk": "generation_extreme", "stop": "generation_list", "dtype": "F16"},
    "sentencepiece_model": {"arch": "mistral", "vocab": "spm_metaspace", "layout": "parts", "style": "inst",
                            "shards": "subfolder", "window": "null", "dtype": "F16", "stop": "config"},
    "other_head_than_tied": {"layout": "special_tokens_map", "heads": "tied_different", "stop": "tokenizer",
                             "style": "header", "dtype": "F16", "vocab": "llama3"},
    "vocab_and_merges": {"arch": "qwen2", "layout": "parts", "quirk": "nan", "template": "jinja_over_config",
                         "dtype": "BF16", "rope": "linear", "spelling": "new", "theta": "both_agree"},
    "llama3_original_outside": {"rope": "llama3", "spelling": "new", "theta": "inner", "original": "outside",
                                "prompt": "long", "style": "header", "vocab": "llama3", "dtype": "BF16",
                                "bias": "attention_mlp", "kv": "absent", "layout": "added_tokens_json"},
    "marked_and_specials_first": {"arch": "qwen3", "quirk": "bom", "vocab": "qwen2_specials_first", "dtype": "F16",
                                  "head_dim": "larger", "rope": "yarn_mscale", "spelling": "both_agree",
                                  "original": "inside", "prompt": "long", "template": "list"},
}


def write(target, make, texts, question, count):
    """Writes every folder with `expected.json` beside its files. `make` writes a folder whose document is in `texts`."""
    # Beyond the original context, and within the stretched one although few merges make many tokens.
    texts["long"] = texts["long"][:430]
    for index, (name, values) in enumerate(CHOSEN.items()):
        spec = grid.fit({**grid.plain(), **values})
        changed = {axis: value for axis, value in values.items() if spec[axis] != value}
        assert not changed, f"{name}: {changed} do not go with the rest"
        vocab = vocabulary.Vocabulary(spec["vocab"], VOCABULARY)
        path = target / name
        shutil.rmtree(path, ignore_errors=True)
        answer = make(path, spec, vocab, 7000 + index, SIZE)
        if "refused" in answer or answer["gap"] < reference.GAP:
            raise SystemExit(f"{name}: {answer}")
        expected = {"reference": f"transformers {reference.transformers.__version__}, float32", "classes": values,
                    "document": texts[spec["prompt"]], "query": question, "max_tokens": count,
                    "prompt": answer["prompt"], "tokens": answer["tokens"], "stop": answer["stop"]}
        (path / "expected.json").write_text(json.dumps(expected) + "\n")
        size = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
        print(f"{name}: {size} bytes, {len(answer['prompt'])} tokens, answer {answer['tokens']}, stop {answer['stop']}")
