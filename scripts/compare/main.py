"""Makes the folders, runs transformers and apb on them, and prints where they differ."""

import collections
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import arguments
import converter
import explain
import fixtures
import folder as folders
import grid
import reference
import vocabulary

TOKENS = 12
QUESTION = "How many ships were there?"
TEXTS = {
    "short": "The lighthouse keeper wrote down 27 ships.\nOne flew no flag; don't ask which.",
    "long": " ".join(["The lighthouse keeper counted the ships that passed on the 14th of March: there were 27, and one",
                      "of them flew no flag.\nHe wrote it down, as he had for thirty years.\n\nThen the storm took the",
                      "roof."] * 3),
    # Spells control tokens; asked for with --allow-control-tokens, which reads them as transformers does.
    "control": "The note said <|im_end|> and </s>, then <tool> and <|eot_id|>.\nA ship<|extra|> of no flag passed.",
}
# File systems take 255 bytes, and the GGUF's name is longer.
LONGEST_NAME = 200
# Seeds tried for one folder until no greedy choice along the way is left to rounding.
TRIES = 12


class Apb:
    """The program under test."""

    def __init__(self, path, documents):
        self.path, self.documents = path, documents
        help_text = subprocess.run([path, "generate", "--help"], capture_output=True, text=True, check=True).stdout
        self.control = "--allow-control-tokens" in help_text
        self.extra = ["--show-prompt"] if "--show-prompt" in help_text else []

    def ask(self, model, document, allow_long):
        command = [self.path, "generate", "--model", model, "--document", self.documents / f"{document}.txt", "--query",
                   QUESTION, "--max-tokens", str(TOKENS), "--greedy", "--dtype", "f32", "--json", *self.extra]
        if allow_long:
            command.append("--allow-long")
        if document == "control" and self.control:
            command.append("--allow-control-tokens")
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode != 0:
            return {"refused": done.stderr.strip() or f"exit code {done.returncode}"}
        answer = json.loads(done.stdout)
        prompt = answer.get("prompt") or {}
        stop = answer.get("stop") or {}
        return {"tokens": answer["tokens"], "stopped": answer["stop_reason"] == "stop_token", "stop": stop.get("token"),
                "prompt": prompt.get("tokens"),
                "prompt_length": answer["document_tokens"] + answer["query_tokens"], "warnings": done.stderr.strip()}


def limit(config):
    """The longest context, prompt and answer together: the stretched one where scaling stretches it."""
    context, rope = config.max_position_embeddings, config.rope_parameters
    if rope.get("rope_type") in ("yarn", "linear", "dynamic") and rope.get("factor"):
        original = getattr(config, "original_max_position_embeddings", None) or rope.get(
            "original_max_position_embeddings") or context
        context = max(context, int(original * rope["factor"]))
    return context


def expect(path, spec):
    """transformers' answer, or why it refuses the folder."""
    document = TEXTS[spec["prompt"]]
    try:
        model = reference.Reference(path)
    except Exception as error:  # Whatever it raises is its way to refuse.
        return {"refused": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    text, ids = model.prompt(document, QUESTION)
    stops = model.stops()
    ending = {token for tokens in stops.values() for token in tokens}
    tokens, stop, gap = model.greedy(ids, TOKENS, ending)
    need = len(ids) + TOKENS
    answer = {"prompt_text": text, "prompt": ids, "tokens": tokens, "stop": stop, "gap": gap, "stops": stops,
              "class": type(model.tokenizer).__name__,
              "allow_long": need > limit(model.model.config), "need": need, "vocab": model.model.config.vocab_size}
    answer["own_stop"] = stop in stops.get("generation", [])
    if model.fix_dynamic(need):
        answer["fixed_tokens"], answer["fixed_stop"], fixed_gap = model.greedy(ids, TOKENS, ending)
        answer["gap"] = min(gap, fixed_gap)
    return answer


def make(path, spec, vocab, seed, size):
    """Writes the folder with weights that leave nothing to rounding, whose answer is no repetition, and, where it names a
    stop token, in which that comes up; returns transformers' answer. Of several tries the best is kept."""
    wanted = folders.stop_ids(spec, vocab)
    best, best_worth = None, -1
    for attempt in range(TRIES):
        chosen = seed * 100 + attempt
        answer = written(path, spec, vocab, chosen, size, None)
        swap = None
        if "refused" not in answer and wanted is not None and answer["stop"] is None and spec["prompt"] == "short":
            tokens = answer["tokens"]
            at = next((i for i in range(2, len(tokens)) if tokens[i] not in tokens[:i]), None)
            if at is not None:
                swap = (wanted, tokens[at])
                answer = written(path, spec, vocab, chosen, size, swap)
        if "refused" in answer:
            return answer
        ends = wanted is None or spec["prompt"] != "short" or answer["stop"] is not None
        ends &= answer["stop"] is None or len(answer["tokens"]) >= 2
        worth = 4 * (answer["gap"] >= reference.GAP) + 2 * ends + varied(answer)
        if worth > best_worth:
            best, best_worth, last = (chosen, swap, answer), worth, attempt
        if worth == 7:
            break
    chosen, swap, answer = best
    if last != attempt:
        answer = written(path, spec, vocab, chosen, size, swap)
    return answer


def varied(answer):
    """Whether an answer shows where it was computed wrongly; one that repeats a token shows little."""
    return len(set(answer["tokens"])) >= min(4, len(answer["tokens"]))


def written(path, spec, vocab, seed, size, swap):
    """Writes the folder; returns transformers' answer."""
    shutil.rmtree(path, ignore_errors=True)
    folders.write(path, spec, vocab, seed, swap=swap, **size)
    if spec["quirk"] != "bom":
        return expect(path, spec)
    read = path.with_name(path.name + ".read")
    reference.without_bom(path, read)
    answer = expect(read, spec)
    answer["own_refusal"] = expect(path, spec).get("refused")
    shutil.rmtree(read)
    return answer


def compare(expected, found):
    """What differs, in words; empty where nothing does."""
    if "refused" in expected and "refused" in found:
        return "both"
    if "refused" in expected:
        return "accepted"
    if "refused" in found:
        return "refused"
    differences = []
    if found["prompt"] is not None and found["prompt"] != expected["prompt"]:
        differences.append("prompt tokens")
    elif found["prompt_length"] != len(expected["prompt"]):
        differences.append("prompt length")
    if found["tokens"] != expected["tokens"]:
        differences.append("tokens")
    if found["stopped"] != (expected["stop"] is not None):
        differences.append("stop")
    elif found["stop"] is not None and found["stop"] != expected["stop"]:
        differences.append("stop token")
    return ", ".join(differences)


def gguf(apb, converting, path, spec, expected, found):
    """The same folder as GGUF against the folder. Returns an outcome, words for it (of an explained one a list of what the
    converter loses), and the file where there is one."""
    # transformers' class for Qwen2 has its own regular expression, whatever the file says.
    pre = "llama-bpe" if spec["vocab"] == "llama3" and expected["class"] != "Qwen2Tokenizer" else "qwen2"
    file = path.with_name(path.name + ".gguf")
    try:
        converting.convert(path, file, pre)
    except converter.Refused as error:
        return "not converted", str(error), None
    other = apb.ask(file, spec["prompt"], True)
    if "refused" in other:
        return "refused", other["refused"], file
    same_prompt = other["prompt"] == found["prompt"] and other["prompt_length"] == found["prompt_length"]
    if same_prompt and (other["tokens"], other["stopped"]) == (found["tokens"], found["stopped"]):
        return "equal", "", file
    # What the file holds may be less than the folder; transformers with just that is right.
    held = converting.held(file, path)
    model, lost = reference.Reference(path, held.rope, held.factors), held.lost
    prompt = expected["prompt"]
    if not same_prompt:
        document = TEXTS[spec["prompt"]]
        prompt, changed = model.prompt_of_file(held, document, QUESTION, spec["vocab"].startswith("spm"))
        lost += changed
        if other["prompt"] != prompt:
            return "different", f"prompt tokens: {other['prompt']}; transformers with what the file holds: {prompt}", file
    ending = held.stops | set(reference.turn_end(model.tokenizer))
    tokens, stop, gap = model.greedy(prompt, TOKENS, ending)
    if gap < reference.GAP:
        return "too close to call", f"a gap of {gap:.0e} with what the file holds", file
    if (tokens, stop is not None) != (other["tokens"], other["stopped"]):
        return "different", f"{other['tokens']}; transformers with what the file holds: {tokens}, {stop}", file
    if expected["stop"] is not None and expected["stop"] not in ending:
        lost.append("stop tokens of generation_config.json or config.json")
    return ("explained", lost, file) if lost else ("different", "for no reason that the file shows", file)


def main():
    args = arguments.parse()
    if args.fixtures:
        return fixtures.write(args.fixtures, make, TEXTS, QUESTION, TOKENS)
    work = args.keep or Path(tempfile.mkdtemp(prefix="compare-transformers-"))
    work.mkdir(parents=True, exist_ok=True)
    for name, text in TEXTS.items():
        (work / f"{name}.txt").write_text(text)
    # Its own copy, so that a build meanwhile changes nothing.
    apb = Apb(shutil.copy2(args.apb, work / "apb"), work)
    converting = None if args.no_gguf else converter.Converter(args.llama_cpp)
    specs, covered, possible = grid.covering(args.folders, args.seed)
    vocabularies = {kind: vocabulary.Vocabulary(kind, 360) for kind in grid.AXES["vocab"]}
    results, started, kept = [], time.monotonic(), 0
    for index, spec in enumerate(specs):
        name = grid.name(index, spec)
        if args.only and args.only not in name:
            continue
        path = work / name[:LONGEST_NAME]
        size = {"layers": 2, "hidden": 32}
        expected = make(path, spec, vocabularies[spec["vocab"]], args.seed * 100_000 + index, size)
        found = apb.ask(path, spec["prompt"], expected.get("allow_long", True))
        difference = compare(expected, found)
        result = {"name": name, "spec": spec, "difference": difference, "expected": expected, "found": found}
        outcome, reason = explain.folder(path, spec, difference, expected, found)
        result["outcome"], result["reason"] = outcome, reason
        if converting and outcome in ("equal", "explained") and "refused" not in found:
            result["gguf"], text, file = gguf(apb, converting, path, spec, expected, found)
            result["gguf_detail"] = text
            result["gguf_reasons"] = explain.gguf(spec, result["gguf"], text)
            if file and not (args.keep or result["gguf"] in ("different", "refused")):
                file.unlink()
        if args.keep or outcome == "different" or result.get("gguf") in ("different", "refused"):
            kept += 1
        else:
            shutil.rmtree(path)
        results.append(result)
        if sys.stderr.isatty():
            print(f"\r{len(results)} of {len(specs)} folders", end="", file=sys.stderr)
    if sys.stderr.isatty():
        print(file=sys.stderr)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    report(results, covered, possible, time.monotonic() - started, kept and work)
    unexplained = [r for r in results if r["outcome"] == "different" or explain.open_gguf(r)]
    close = [r for r in results if r["expected"].get("gap", 1) < reference.GAP]
    for result in close:
        print(f"too close to call: {result['name']}")
    if not kept and not args.keep:
        shutil.rmtree(work)
    sys.exit(1 if unexplained or not results else 0)


def report(results, covered, possible, seconds, work):
    columns = ["equal", "explained", "refused by both", "different"]
    rows = [["axis", "value", "folders", *columns]]
    for axis, values in grid.AXES.items():
        for value in values:
            some = collections.Counter(r["outcome"] for r in results if r["spec"][axis] == value)
            if some:
                rows.append([axis, value, some.total(), *(some[c] for c in columns)])
    every = collections.Counter(r["outcome"] for r in results)
    rows.append(["all", "", every.total(), *(every[c] for c in columns)])
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(str(cell).ljust(w) if i < 2 else str(cell).rjust(w)
                        for i, (cell, w) in enumerate(zip(row, widths))).rstrip())
    stopped = [r for r in results if r["expected"].get("stop") is not None]
    print(f"\n{len(results)} folders in {seconds:.0f} s; {covered} of {possible} possible pairs of values covered; "
          f"{len(stopped)} answers end with a stop token, {sum(not r['expected']['own_stop'] for r in stopped)} of them "
          "with one that only the tokenizer, the template, or config.json beside a generation_config.json without any "
          "names (transformers' generate alone would go on)")
    print(f"prompts compared token by token: {sum(r['found'].get('prompt') is not None for r in results)}")
    ggufs = collections.Counter(r["gguf"] for r in results if "gguf" in r)
    if ggufs:
        print("as GGUF by llama.cpp's converter against the folder: " +
              ", ".join(f"{count} {what}" for what, count in ggufs.most_common()))
    groups = collections.defaultdict(list)
    for r in results:
        if r["outcome"] == "explained":
            groups[r["reason"]].append(r["name"])
        for reason in r.get("gguf_reasons", []):
            groups[f"GGUF: {reason}"].append(r["name"])
    for reason, names in sorted(groups.items(), key=lambda item: -len(item[1])):
        print(f"\n{len(names)}: {reason}\n    such as {names[0]}")
    for r in results:
        if r["outcome"] == "different":
            print(f"\nDIFFERENT {r['name']}: {r['difference']}")
            for side in ("expected", "found"):
                shown = r[side].get("refused") or {k: r[side][k] for k in ("tokens", "stop")}
                print(f"    {side}: {str(shown)[:600]}")
    groups.clear()
    for r in results:
        if explain.open_gguf(r):
            # Without what is the file's own, so that one cause is one line.
            cause = re.sub(r"apb: .*?\.gguf: ", "", r["gguf_detail"].splitlines()[0])
            groups[re.sub(r"[0-9.]+", "N", cause)[:160]].append(r)
    for some in groups.values():
        print(f"\nDIFFERENT as GGUF, {len(some)} such as {some[0]['name']}: {some[0]['gguf']}: "
              f"{some[0]['gguf_detail'][:600]}")
    if work:
        print(f"\nfolders are kept in {work}")


if __name__ == "__main__":
    main()
