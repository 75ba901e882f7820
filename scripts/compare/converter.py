"""GGUF files of the grid's folders, made by llama.cpp's own converter."""

import contextlib
import dataclasses
import io
import logging
import math
import os
import re
import sys

import numpy as np


# Of the names that llama.cpp takes for ends of answers, those that the grid's vocabularies hold.
ENDINGS = {"</s>", "<|im_end|>", "<|eot_id|>", "<|endoftext|>"}


class Refused(Exception):
    """The converter does not take the folder."""


@dataclasses.dataclass
class Held:
    """What of a folder a GGUF holds: positions as transformers spells them, divisors of their frequencies, ids of stop
    tokens, the chat template, the first token's id, the tokens that are text, and words for what is lost of the positions."""

    rope: dict
    factors: object
    stops: set
    template: str | None
    bos: int | None
    text: set
    lost: list


class Converter:
    """llama.cpp's convert_hf_to_gguf.py, as the sources of llama-cpp-python hold it."""

    def __init__(self, sources):
        # Its own gguf package belongs to it.
        sys.path[:0] = [str(sources), str(sources / "gguf-py")]
        os.environ.setdefault("NO_LOCAL_GGUF", "1")
        import conversion
        import gguf

        logging.disable(logging.WARNING)
        self.gguf = gguf
        self.conversion, self.f32 = conversion, gguf.LlamaFileType.ALL_F32

    def convert(self, folder, into, pre):
        """Writes `into`, in f32. A random vocabulary's hash is in no list, so the pre-tokenizer's name is `pre`."""
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                hparams = self.conversion.ModelBase.load_hparams(folder, False)
                name = self.conversion.get_model_architecture(hparams, self.conversion.ModelType.TEXT)
                model = self.conversion.get_model_class(name)(folder, self.f32, into, eager=True)
                model.get_vocab_base_pre = lambda tokenizer: pre
                model.write()
        except (Exception, SystemExit) as error:
            into.unlink(missing_ok=True)
            raise Refused(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error

    def held(self, file, folder):
        """What a file holds, and what of the folder's positions it does not."""
        from transformers import AutoConfig

        reader = self.gguf.GGUFReader(file)
        fields = {key: field.contents() for key, field in reader.fields.items()}
        arch = fields["general.architecture"]
        names = {"factor": "factor", "original_max_position_embeddings": "original_context_length",
                 "attention_factor": "yarn_attn_factor", "beta_fast": "yarn_beta_fast", "beta_slow": "yarn_beta_slow"}
        rope = {"rope_type": fields.get(f"{arch}.rope.scaling.type", "default").replace("none", "default"),
                "rope_theta": fields.get(f"{arch}.rope.freq_base", 10000.0)}
        for ours, theirs in names.items():
            if (value := fields.get(f"{arch}.rope.scaling.{theirs}")) is not None:
                rope[ours] = value
        config = AutoConfig.from_pretrained(folder)
        config.standardize_rope_params()
        whole = config.rope_parameters
        factors = next((tensor.data.copy() for tensor in reader.tensors if tensor.name == "rope_freqs.weight"), None)
        lost = []
        if factors is not None:
            if not np.allclose(factors, self.factors(config), rtol=1e-4):
                lost.append("original_max_position_embeddings outside of the rope fields")
        elif whole["rope_type"] != rope["rope_type"]:
            lost.append(f"{whole['rope_type']} scaling")
        elif any(not math.isclose(rope.get(key) or 0, whole[key], rel_tol=1e-5) for key in names if whole.get(key)):
            lost.append("original_max_position_embeddings outside of the rope fields")
        lost += [f"yarn's {key}" for key in ("mscale", "truncate") if whole.get(key) is not None]
        if fields["tokenizer.ggml.model"] == "llama":
            # What llama.cpp takes where a sentencepiece vocabulary does not say.
            fields = {"tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, **fields}
        ids = {value for key, value in fields.items() if re.fullmatch(r"tokenizer\.ggml\.(eos|eot|eom)_token_id", key)}
        return Held(rope, factors, ids, fields.get("tokenizer.chat_template"), fields.get("tokenizer.ggml.bos_token_id"),
                    # llama.cpp reads a token that ends answers, by id or by name, as a control token whatever its type.
                    {token for index, (token, kind) in enumerate(zip(
                        fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]))
                     if kind == self.gguf.TokenType.NORMAL and index not in ids and token not in ENDINGS}, lost)

    @staticmethod
    def factors(config):
        """What transformers' llama3 scaling divides the frequencies by."""
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        frequencies = ROPE_INIT_FUNCTIONS["llama3"](config, None)[0].double().numpy()
        dim = 2 * len(frequencies)
        return config.rope_parameters["rope_theta"] ** (-np.arange(0, dim, 2) / dim) / frequencies
