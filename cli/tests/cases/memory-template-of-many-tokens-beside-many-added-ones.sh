# The time grows with the sum of both, not with their product.
#: seconds 30
python3 "$TOOLS/model.py" copy changed
python3 - <<'END'
import json
path = "changed/tokenizer.json"
tokenizer = json.load(open(path))
def add(text, at):
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    tokenizer["added_tokens"].append({"id": 259 + at, "content": text, "special": True, **flags})
for at in range(60000):
    add(f"<{at}>", at)
json.dump(tokenizer, open(path, "w"))
path = "changed/tokenizer_config.json"
config = json.load(open(path))
config["chat_template"] = "Be good. " * 1000 + config["chat_template"]
json.dump(config, open(path, "w"))
END
apb generate --model changed --document "$DOCUMENT" --query Why? --greedy --max-tokens 2 --allow-long --json >out
