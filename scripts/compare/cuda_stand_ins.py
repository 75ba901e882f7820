"""Makes torch import on a machine without CUDA's libraries, which its wheel links even where only the CPU computes: for
each that is missing, a library of the same name whose functions only return an error."""

import glob
import re
import subprocess
import sys
import tempfile
from pathlib import Path

# cudaErrorNoDevice
ERROR = 100


def imports():
    return subprocess.run([sys.executable, "-c", "import torch; torch.ones(2).sum()"], capture_output=True).returncode == 0


def read(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main():
    if imports():
        return
    lib = Path(glob.glob(f"{sys.prefix}/lib/python3*/site-packages/torch/lib")[0])
    needed, undefined, defined, owner = set(), set(), set(), {}
    for file in lib.glob("*.so*"):
        needed |= set(re.findall(r"NEEDED.*\[(.*)\]", read("readelf", "-dW", file)))
        current = None
        for line in read("readelf", "-VW", file).splitlines():
            if found := re.search(r"File: (\S+)", line):
                current = found[1]
            if (found := re.search(r"Name: (\S+)\s+Flags", line)) and current:
                owner[found[1]] = current
        for line in read("readelf", "--dyn-syms", "-W", file).splitlines():
            fields = line.split()
            if len(fields) >= 8 and fields[0].endswith(":"):
                (undefined if fields[6] == "UND" else defined).add(fields[7])
    defined = {symbol.split("@")[0] for symbol in defined}
    missing = sorted(n for n in needed if re.match(r"lib(cu|nv|nccl)", n) and not (lib / n).exists())
    symbols, versions, loose = {name: set() for name in missing}, {}, set()
    for symbol in undefined:
        versioned = re.match(r"(\w+)@([\w.]+)", symbol)
        library = owner.get(versioned[2]) if versioned else None
        if library in symbols:
            symbols[library].add(versioned[1])
            versions[library] = versioned[2]
        elif "@" not in symbol and symbol not in defined and re.match(r"_?_?(cu|nccl|nv)", symbol):
            loose.add(symbol)
    with tempfile.TemporaryDirectory() as work:
        for index, (name, functions) in enumerate(symbols.items()):
            source, script = Path(work) / "stand_in.c", Path(work) / "stand_in.map"
            every = functions | (loose if index == 0 else set())
            source.write_text("\n".join(f"int {f}(void) {{ return {ERROR}; }}" for f in sorted(every))
                              or f"int stand_in_{index};")
            command = ["cc", "-w", "-fno-builtin", "-shared", "-fPIC", "-o", lib / name, f"-Wl,-soname,{name}", source]
            if functions:
                listed = "".join(f"{f};" for f in sorted(functions))
                script.write_text(f"{versions[name]} {{ global: {listed} }};\n")
                command.append(f"-Wl,--version-script={script}")
            subprocess.run(command, check=True)
    if not imports():
        sys.exit("torch does not import; install one that computes on this machine's CPU, and run again")


if __name__ == "__main__":
    main()
