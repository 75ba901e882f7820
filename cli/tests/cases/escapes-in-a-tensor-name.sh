# The global check refuses the escape itself; a line cannot be forged.
#: exit 2
#: not forged
python3 "$TOOLS/model.py" copy changed
python3 - <<'PY'
import json, struct
path = "changed/model.safetensors"
data = open(path, "rb").read()
length = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + length])
header["\x1b]0;title\x07\x1b[2J\nforged"[:-6] + "x\u202e\u009b31m"] = header.pop("model.norm.weight")
text = json.dumps(header).encode()
open(path, "wb").write(struct.pack("<Q", len(text)) + text + data[8 + length:])
PY
apb generate --model changed --document "$DOCUMENT" --query Why? --strict
apb generate --model changed --document "$DOCUMENT" --query Why? --json
