"""NVRTC, ptxas and nvdisasm from PyPI's packages: CUDA C++ to PTX, registers, spills and instruction counts."""

import ctypes
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

# Instructions whose number is held: tensor products, their loads, asynchronous copies, local memory.
HELD = ("HMMA", "HGMMA", "LDSM", "LDGSTS", "LDL", "STL")


class Toolchain:
    """The compilers under `nvidia/cu13` of the Python path."""

    def __init__(self):
        roots = (Path(p) / "nvidia" / "cu13" for p in sys.path if p)
        self.root = next((r for r in roots if list(r.glob("lib/libnvrtc.so*"))), None)
        if self.root is None:
            sys.exit("NVRTC is missing; scripts/test-cuda installs it")
        for builtins in self.root.glob("lib/libnvrtc-builtins.so*"):
            ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
        self.nvrtc = ctypes.CDLL(str(next(self.root.glob("lib/libnvrtc.so*"))))

    def _text(self, program, what):
        size = ctypes.c_size_t()
        getattr(self.nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(max(1, size.value))
        getattr(self.nvrtc, f"nvrtcGet{what}")(program, text)
        return text.value.decode()

    def ptx(self, source, architecture):
        """PTX of CUDA C++, with the options that CubeCL's runtime passes."""
        program = ctypes.c_void_p()
        if self.nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"kernel.cu", 0, None, None):
            sys.exit("NVRTC does not take the source")
        options = [f"--gpu-architecture={architecture}", "-lineinfo"]
        options += [f"--include-path={self.root}/{folder}" for folder in ("include", "include/cccl")]
        words = (ctypes.c_char_p * len(options))(*[o.encode() for o in options])
        if self.nvrtc.nvrtcCompileProgram(program, len(options), words):
            sys.exit(self._text(program, "ProgramLog"))
        ptx = self._text(program, "PTX")
        self.nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
        return ptx

    def _run(self, tool, *arguments):
        path = self.root / "bin" / tool
        path.chmod(0o755)
        done = subprocess.run([path, *arguments], capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{tool}: {done.stderr}")
        return done.stdout + done.stderr

    def resources(self, ptx, architecture):
        """Registers, spilled bytes, counts of the held instructions, and warnings of ptxas."""
        with tempfile.TemporaryDirectory() as folder:
            source, binary = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
            source.write_text(ptx)
            log = self._run("ptxas", f"-arch={architecture}", "-v", source, "-o", binary)
            sass = self._run("nvdisasm", "-c", binary)
        number = lambda pattern: int(re.search(pattern, log).group(1))
        opcodes = Counter(re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", sass))
        found = {
            "registers": number(r"Used (\d+) registers"),
            "spill_stores": number(r"(\d+) bytes spill stores"),
            "spill_loads": number(r"(\d+) bytes spill loads"),
        }
        found |= {opcode: opcodes[opcode] for opcode in HELD}
        # ptxas reports when it serialises wgmma, which would undo the overlap.
        found["warnings"] = sum("warning" in line or "serializ" in line for line in log.splitlines())
        return found
