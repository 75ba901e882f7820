#: exit 2
python3 - <<'PY'
import struct
def text(value):
    value = value.encode()
    return struct.pack("<Q", len(value)) + value
keys = [(text("general.architecture"), struct.pack("<I", 8) + text("\x1b[31mllama\x07\n\u009b")),
        (text("\x1b]0;x\x07key\n"), struct.pack("<I", 99))]
open("model.gguf", "wb").write(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + b"".join(k + v for k, v in keys))
PY
apb generate --model model.gguf --document "$DOCUMENT" --query Why?
