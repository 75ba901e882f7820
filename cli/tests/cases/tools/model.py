"""Copies of the small model with something changed.

    model.py copy TO                      the model as it is
    model.py set TO TENSOR INDEX VALUE    an element of a tensor
    model.py scale TO TENSOR FACTOR       a tensor times a factor
    model.py config TO KEY JSON ..        fields of config.json
    model.py added TO COUNT [LETTERS]     so many added tokens more: `<0>`, `<1>` .., or of so many letters each
"""

import array
import json
import os
import pathlib
import random
import shutil
import struct
import sys


def tensor(path, name, change):
    data = bytearray(path.read_bytes())
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    start, end = header[name]["data_offsets"]
    start, end = start + 8 + length, end + 8 + length
    values = array.array("f", bytes(data[start:end]))
    change(values)
    data[start:end] = values.tobytes()
    path.write_bytes(data)


what, to, *rest = sys.argv[1:]
to = pathlib.Path(to)
shutil.copytree(os.environ["MODEL"], to, copy_function=shutil.copyfile)
weights = to / "model.safetensors"
if what == "set":
    name, index, value = rest
    tensor(weights, name, lambda values: values.__setitem__(int(index), float(value)))
elif what == "scale":
    name, factor = rest

    def scale(values):
        for at, value in enumerate(values):
            values[at] = value * float(factor)

    tensor(weights, name, scale)
elif what == "config":
    config = json.loads((to / "config.json").read_text())
    for key, value in zip(rest[::2], rest[1::2]):
        config[key] = json.loads(value)
    (to / "config.json").write_text(json.dumps(config))
elif what == "added":
    letters, path = random.Random(1), to / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    flags = dict.fromkeys(["single_word", "lstrip", "rstrip", "normalized"], False)
    for at in range(int(rest[0])):
        text = "".join(letters.choices("abcdefghijklmnopqrstuvwxyz", k=int(rest[1]))) if rest[1:] else f"<{at}>"
        tokenizer["added_tokens"].append({"id": 259 + at, "content": text, "special": True, **flags})
    path.write_text(json.dumps(tokenizer))
