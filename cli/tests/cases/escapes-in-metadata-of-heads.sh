#: exit 2
python3 - <<'PY'
import json, os, struct
data = open(os.environ["HEADS"], "rb").read()
length = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + length])
header.setdefault("__metadata__", {}).update({"base_model": "\x1b[31mevil\x07\u009b", "model": "\x1b[2J"})
for name in [name for name in header if "fc2" in name][:1]:
    header[name + "\x1b[5m"] = header.pop(name)
text = json.dumps(header).encode()
open("heads.safetensors", "wb").write(struct.pack("<Q", len(text)) + text + data[8 + length:])
PY
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method apb --ranks 2 --heads heads.safetensors
