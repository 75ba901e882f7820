"""Reasons for differences that are meant to be. Each is checked against what apb printed or computed."""

SLIDING = "apb refuses a window shorter than the context: it computes full attention only"
DYNAMIC = ("dynamic scaling: transformers changes the frequencies at every token beyond the trained context and keeps "
           "keys rotated by earlier ones; apb fixes them for a session, and equals transformers with them fixed")
MARK = "transformers refuses a byte order mark; apb reads the folder as transformers reads it without"
NO_EMBEDDING = "the converter writes no token_embd.weight where only lm_head is stored; llama.cpp does not load that either"
BIASES = "apb refuses a GGUF with biases that no model has together, here all zero; it reads the folder and warns"


def folder(path, spec, difference, expected, found):
    """An outcome (equal, explained, refused by both, different), and the reason of an explained one."""
    if not difference:
        if expected.get("own_refusal"):
            return "explained", MARK
        return "equal", None
    if difference == "both":
        return "refused by both", None
    if difference == "refused":
        # The message without the folder's path, which names the values under test.
        said = found["refused"].split("apb: ")[-1].replace(str(path), "")
        if spec["window"] == "smaller_than_prompt" and "sliding_window`" in said and "not supported" in said:
            return "explained", SLIDING
    if "fixed_tokens" in expected and difference in ("tokens", "tokens, stop", "stop"):
        same = found["tokens"] == expected["fixed_tokens"] and found["stopped"] == (expected["fixed_stop"] is not None)
        if same:
            return "explained", DYNAMIC
    return "different", None


def gguf(spec, outcome, detail):
    """Why a GGUF differs from its folder, or cannot be made; empty where it is equal or no reason is known."""
    if outcome == "not converted":
        return [f"llama.cpp's converter does not take the folder: {detail[:90]}"]
    if outcome == "explained":
        return [f"the converter leaves out or changes {lost}" for lost in detail]
    if outcome == "refused" and spec["heads"] == "tied_only_head" and "no token_embd.weight" in detail:
        return [NO_EMBEDDING]
    if outcome == "refused" and spec["unused"] in ("zero_bias", "all") and "set of biases" in detail:
        return [BIASES]
    return []


def open_gguf(result):
    """Whether a GGUF differs without a reason."""
    return result.get("gguf") in ("different", "refused") and not result["gguf_reasons"]
