"""What transformers makes of a folder: the prompt, the greedy tokens, and where they end."""

import json
import logging
import warnings

import jinja2
import tokenizers
import torch

warnings.filterwarnings("ignore")
import transformers  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: E402
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: E402

transformers.logging.set_verbosity(logging.CRITICAL)
transformers.logging.disable_progress_bar()
torch.set_num_threads(1)

# A greedy choice closer than this to the next is left to chance by rounding, and the folder made again.
GAP = 2e-3


def turn_end(tokenizer):
    """The special token with which the chat template ends an assistant's turn, found by rendering one; or none."""
    if not tokenizer.chat_template:
        return []
    mark = "Mark\u20acanswer"
    messages = [{"role": "user", "content": "q"}, {"role": "assistant", "content": mark}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except (jinja2.TemplateError, ValueError):
        return []
    if text.count(mark) != 1:
        return []
    after = tokenizer(text.split(mark)[1].lstrip(), add_special_tokens=False).input_ids
    special = set(tokenizer.all_special_ids) | {
        i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return after[:1] if after and after[0] in special else []


class Reference:
    """A folder as transformers reads it."""

    def __init__(self, folder, rope=None, factors=None):
        """`rope` replaces the parameters of the folder's positions, and `factors` divide its frequencies."""
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder)
        if rope is not None:
            config.rope_parameters = rope
            # Outside of them, where it would be taken first.
            config.__dict__.pop("original_max_position_embeddings", None)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation="eager")
        self.model.eval()
        if factors is not None:
            self.model.model.rotary_emb.inv_freq /= torch.tensor(factors)

    def prompt(self, document, question):
        content = document + "\n\n" + question
        if not self.tokenizer.chat_template:
            ids = self.tokenizer(content).input_ids
            return content, ids
        messages = [{"role": "user", "content": content}]
        text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        encoded = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
        ids = encoded["input_ids"] if hasattr(encoded, "keys") else encoded
        return text, list(ids)

    def stops(self):
        """Ids by the file that names them. Only the first is what `generate` itself takes."""
        own = self.model.generation_config.eos_token_id
        named = {"generation": own, "config": self.model.config.eos_token_id if own is None else None,
                 "tokenizer": self.tokenizer.eos_token_id, "template": turn_end(self.tokenizer) or None}
        return {key: value if isinstance(value, list) else [value] for key, value in named.items() if value is not None}

    def prompt_of_file(self, held, document, question, spm):
        """The prompt's tokens with the chat template and special tokens that a GGUF holds, and what of them differs
        from the folder's."""
        changed = []
        if self.tokenizer.chat_template != held.template:
            changed.append("the chat template" if held.template is None else
                           "chat_template.jinja, for the template in tokenizer_config.json")
            self.tokenizer.chat_template = held.template
        if self.tokenizer.bos_token_id != held.bos:
            changed.append("that transformers passes over special_tokens_map.json here")
            self.tokenizer.bos_token = self.tokenizer.convert_ids_to_tokens(held.bos)
        text, ids = self.prompt(document, question)
        plain = not self.tokenizer.chat_template
        file = json.loads(self.tokenizer.backend_tokenizer.to_str())
        if any(token["content"] in held.text for token in file["added_tokens"]):
            file["added_tokens"] = [token for token in file["added_tokens"] if token["content"] not in held.text]
            without = tokenizers.Tokenizer.from_str(json.dumps(file)).encode(text, add_special_tokens=plain).ids
            if without != ids:
                changed.append("that a token which special_tokens_map.json names is a control token")
                ids = without
        if spm:
            # llama.cpp knows one way: a space before all text behind a special token.
            space = "\u2581"
            file["pre_tokenizer"], file["normalizer"] = None, {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": space}, {"type": "Replace", "pattern": {"String": " "}, "content": space}]}
            for token in file["added_tokens"]:
                token["normalized"] = False
            other = tokenizers.Tokenizer.from_str(json.dumps(file)).encode(text, add_special_tokens=plain).ids
            if other != ids:
                changed.append("how sentencepiece treats spaces")
                ids = other
        return ids, changed

    def greedy(self, ids, count, stops):
        """Tokens without the stop token, the stop token or none, and the smallest gap between the two best."""
        config = GenerationConfig(do_sample=False, max_new_tokens=count, eos_token_id=sorted(stops) or None,
                                  pad_token_id=0, output_logits=True, return_dict_in_generate=True)
        # `generate` fills what a configuration leaves out from the model's own.
        self.model.generation_config = GenerationConfig()
        with torch.no_grad():
            out = self.model.generate(torch.tensor([ids]), generation_config=config,
                                      attention_mask=torch.ones(1, len(ids), dtype=torch.long))
        tokens = out.sequences[0, len(ids):].tolist()
        gap = min(float(top.values[0, 0] - top.values[0, 1]) for top in (row.topk(2) for row in out.logits))
        if tokens and tokens[-1] in stops:
            return tokens[:-1], tokens[-1], gap
        return tokens, None, gap

    def fix_dynamic(self, context):
        """Frequencies of dynamic scaling for one length, as a session fixes them; says whether that is another model."""
        rotary = self.model.model.rotary_emb
        if rotary.rope_type != "dynamic":
            return False
        frequencies, scaling = ROPE_INIT_FUNCTIONS["dynamic"](self.model.config, None, seq_len=context)
        rotary.inv_freq, rotary.attention_scaling, rotary.rope_type = frequencies, scaling, "default"
        return True


def without_bom(folder, target):
    """The folder as transformers reads it: without byte order marks, which Python's text mode does not skip."""
    for path in folder.rglob("*"):
        into = target / path.relative_to(folder)
        if path.is_dir():
            into.mkdir(exist_ok=True, parents=True)
            continue
        into.parent.mkdir(exist_ok=True, parents=True)
        into.write_bytes(path.read_bytes().removeprefix(b"\xef\xbb\xbf"))
