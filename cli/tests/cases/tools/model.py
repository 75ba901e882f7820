"""Copies of the small model with something changed.

    model.py copy TO                      the model as it is
    model.py set TO TENSOR INDEX VALUE    an element of a tensor
    model.py scale TO TENSOR FACTOR       a tensor times a factor
    model.py config TO KEY JSON ..        fields of config.json
"""

import array
import json
import os
import pathlib
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
