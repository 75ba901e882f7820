#: exit 2
#: seconds 20
#: mebibytes 2000
#: stderr expected at most 131072 added tokens of 2 MiB together, found 200003
python3 "$TOOLS/model.py" copy changed
python3 - <<'END'
import json
path = "changed/tokenizer.json"
tokenizer = json.load(open(path))
def add(text, at):
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    tokenizer["added_tokens"].append({"id": 259 + at, "content": text, "special": True, **flags})
for at in range(200000):
    add(f"<{at}>", at)
json.dump(tokenizer, open(path, "w"))
END
apb generate --model changed --document "$DOCUMENT" --query Why?
