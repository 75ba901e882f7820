"""Small vocabularies as real ones are built, and the layouts in which folders hold them."""

import copy
import json
import re
import tempfile
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = """The lighthouse keeper counted the ships that passed on the 14th of March: there were 27, and one of them
flew no flag. He wrote it down, as he had written down every ship for thirty years. The storm that followed took the
roof off the boat house, and the keeper's ledger lay in the rain. When the harbour master asked about the ship, only
the number was left on the page: 27, and next to it a small cross. Nobody knew what the cross stood for.\n\n
def count(ships):\n    return sum(1 for ship in ships if not ship.flag)\n\n
Der Leuchtturm stand auf einem Felsen; das Meer war ruhig. C'est la vie, n'est-ce pas? I've said it, don't you see.\n"""

# As their models publish them.
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")

BYTE_SPECIALS = ["<|endoftext|>", "<|begin_of_text|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>",
                 "<|end_header_id|>", "<|eot_id|>", "<|extra|>"]
SPM_ADDED = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|extra|>"]


def added(token, index, special=True):
    return {"id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special}


class Vocabulary:
    """A tokenizer.json, the tokens that stand beside it, and what a folder needs to say of them."""

    def __init__(self, kind, size):
        self.kind = kind
        self.is_spm = kind.startswith("spm")
        self.spm_model = None
        build = self._spm if self.is_spm else self._byte_level
        self.json = build(size)
        self.size = 1 + max([*self.json["model"]["vocab"].values(), *(t["id"] for t in self.json["added_tokens"])])
        self.bos, self.eos = ("<s>", "</s>") if self.is_spm else ("<|begin_of_text|>", "<|endoftext|>")

    def id(self, token):
        for entry in self.json["added_tokens"]:
            if entry["content"] == token:
                return entry["id"]
        return self.json["model"]["vocab"][token]

    def _byte_level(self, size):
        tokenizer = Tokenizer(models.BPE())
        regex = LLAMA3 if self.kind == "llama3" else QWEN2
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)])
        tokenizer.decoder = decoders.ByteLevel()
        if self.kind.startswith("qwen2"):
            tokenizer.normalizer = normalizers.NFC()
        first = self.kind.endswith("specials_first")
        specials = BYTE_SPECIALS if first else []
        trainer = trainers.BpeTrainer(vocab_size=max(size - (0 if first else len(BYTE_SPECIALS)), 256 + len(specials)),
                                      special_tokens=specials, show_progress=False,
                                      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
        tokenizer.train_from_iterator([TEXT] * 2, trainer)
        model = json.loads(tokenizer.to_str())
        if not first:
            start = max(model["model"]["vocab"].values()) + 1
            model["added_tokens"] = [added(t, start + i) for i, t in enumerate(BYTE_SPECIALS)]
        # One that is no special token, between them.
        model["added_tokens"].append(added("<tool>", 1 + max(
            [*model["model"]["vocab"].values(), *(t["id"] for t in model["added_tokens"])]), False))
        if self.kind == "llama3":
            bos = next(t["id"] for t in model["added_tokens"] if t["content"] == "<|begin_of_text|>")
            model["post_processor"] = {"type": "Sequence", "processors": [
                {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                {"type": "TemplateProcessing",
                 "single": [{"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}},
                            {"Sequence": {"id": "A", "type_id": 0}}],
                 "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                 "special_tokens": {"<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [bos],
                                                          "tokens": ["<|begin_of_text|>"]}}}]}
        return model

    def _spm(self, size):
        import sentencepiece
        from transformers.convert_slow_tokenizer import SentencePieceExtractor

        with tempfile.TemporaryDirectory() as folder:
            prefix = str(Path(folder) / "m")
            sentencepiece.SentencePieceTrainer.train(
                sentence_iterator=iter(re.split(r"(?<=[.:])\s", TEXT) * 4), model_prefix=prefix, model_type="bpe",
                vocab_size=max(size - len(SPM_ADDED), 330), byte_fallback=True, normalization_rule_name="identity",
                remove_extra_whitespaces=False, split_digits=True, add_dummy_prefix=True, minloglevel=2)
            self.spm_model = Path(prefix + ".model").read_bytes()
            extractor = SentencePieceExtractor(prefix + ".model")
            extracted = extractor.extract(models.BPE)
        vocab = extracted["vocab"]
        vocab = vocab if isinstance(vocab, dict) else {token: i for i, (token, _) in enumerate(vocab)}
        merges = [list(m) if not isinstance(m, str) else m.split(" ") for m in extracted["merges"]]
        start = len(vocab)
        legacy = self.kind == "spm_legacy"
        space = "\u2581"
        return {
            "version": "1.0", "truncation": None, "padding": None,
            "added_tokens": [added(t, i) for i, t in enumerate(["<unk>", "<s>", "</s>"])]
            + [added(t, start + i) for i, t in enumerate(SPM_ADDED)],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": space},
                {"type": "Replace", "pattern": {"String": " "}, "content": space}]} if legacy else None,
            "pre_tokenizer": None if legacy else {"type": "Metaspace", "replacement": space, "prepend_scheme": "first",
                                                  "split": False},
            "post_processor": {"type": "TemplateProcessing",
                               "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                                          {"Sequence": {"id": "A", "type_id": 0}}],
                               "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                               "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": space}, "content": " "}, {"type": "ByteFallback"},
                {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
                      "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
                      "vocab": vocab, "merges": merges},
        }


STYLES = {
    "chatml": "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
              "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "header": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n"
              "{{ m['content'] | trim }}<|eot_id|>{% endfor %}"
              "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
    "inst": "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
            "{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}",
}
TURN_END = {"chatml": "<|im_end|>", "header": "<|eot_id|>", "inst": None}
# A template that a folder holds beside the one that counts.
OTHER = "WRONG{% for m in messages %}{{ m['content'] }}{% endfor %}"


def write(folder, vocabulary, spec, dump):
    """Writes the tokenizer's files of a layout. `dump` writes a JSON file."""
    layout, model = spec["layout"], copy.deepcopy(vocabulary.json)
    config = {"bos_token": vocabulary.bos, "eos_token": vocabulary.eos, "clean_up_tokenization_spaces": False,
              "model_max_length": float("inf") if spec["quirk"] == "infinity" else 1e30}
    if vocabulary.is_spm:
        config.update(unk_token="<unk>", add_bos_token=True, add_eos_token=False)
        config["legacy"] = vocabulary.kind == "spm_legacy"
    else:
        config["pad_token"] = "<|endoftext|>"
    native = "LlamaTokenizer" if vocabulary.is_spm else "Qwen2Tokenizer"
    name = {"fast": "PreTrainedTokenizerFast", "native": native, "native_fast": native + "Fast"}.get(
        spec["tokenizer_class"])
    if name:
        config["tokenizer_class"] = name
    decoder = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in model["added_tokens"]}
    beside = [t for t in model["added_tokens"] if t["content"] not in model["model"]["vocab"]]
    keep = [t for t in model["added_tokens"] if t["content"] in model["model"]["vocab"]]
    if layout == "full":
        config["added_tokens_decoder"] = decoder
    elif layout == "added_tokens_decoder":
        config["added_tokens_decoder"] = decoder
        model["added_tokens"] = keep
    elif layout in ("added_tokens_json", "special_tokens_map"):
        model["added_tokens"] = keep
        dump(folder / "added_tokens.json", {t["content"]: t["id"] for t in beside})
        if layout == "special_tokens_map":
            specials = [t["content"] for t in beside if t["special"]]
            dump(folder / "special_tokens_map.json", {
                "bos_token": {"content": config.pop("bos_token"), "lstrip": False, "normalized": False,
                              "rstrip": False, "single_word": False},
                "eos_token": config.pop("eos_token"), "additional_special_tokens": specials})
        else:
            config["additional_special_tokens"] = [t["content"] for t in beside if t["special"]]
    elif layout == "bos_in_map_only":
        config["added_tokens_decoder"] = decoder
        dump(folder / "special_tokens_map.json", {"bos_token": config.pop("bos_token"), "eos_token": vocabulary.eos})
    elif layout == "parts":
        config["added_tokens_decoder"] = decoder
    template = STYLES[spec["style"]]
    where = spec["template"]
    if where == "config" or where == "jinja_over_config":
        config["chat_template"] = template if where == "config" else OTHER
    if where == "list":
        config["chat_template"] = [{"name": "tool_use", "template": OTHER}, {"name": "default", "template": template}]
    if where == "dict":
        config["chat_template"] = {"rag": OTHER, "default": template}
    if where in ("jinja", "jinja_over_config"):
        (folder / "chat_template.jinja").write_text(template)

    if layout != "json_only":
        dump(folder / "tokenizer_config.json", config)
    if layout == "parts":
        if vocabulary.is_spm:
            (folder / "tokenizer.model").write_bytes(vocabulary.spm_model)
        else:
            dump(folder / "vocab.json", model["model"]["vocab"])
            merges = [m if isinstance(m, str) else " ".join(m) for m in model["model"]["merges"]]
            (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    else:
        dump(folder / "tokenizer.json", model)
