#: exit 2
#: stderr is NaN at [0, 3]
#: stderr heads.safetensors
python3 - <<'PY'
import json, os, struct
data = bytearray(open(os.environ["HEADS"], "rb").read())
length = struct.unpack("<Q", data[:8])[0]
header = json.loads(data[8:8 + length])
name = sorted(key for key in header if key != "__metadata__")[0]
at = 8 + length + header[name]["data_offsets"][0]
kind = header[name]["dtype"]
nan = {"F32": struct.pack("<f", float("nan")), "F16": b"\x00\x7e", "BF16": b"\xc0\x7f"}[kind]
data[at + 3 * len(nan):at + 4 * len(nan)] = nan
open("heads.safetensors", "wb").write(data)
PY
apb generate --model "$MODEL" --document "$DOCUMENT" --query Why? --method apb --ranks 2 --heads heads.safetensors
