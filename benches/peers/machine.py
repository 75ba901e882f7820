"""What the measurements have in common: the machine's instruction sets, and memory as Linux counts it."""
import pathlib

# In the table's order: a name, and a flag of /proc/cpuinfo that stands for it.
SETS = {"avx512": "avx512f", "vnni": "avx512_vnni", "bf16": "avx512_bf16", "amx": "amx_int8"}


def instruction_set(cpuinfo="/proc/cpuinfo"):
    """The instruction sets that matter to products: `avx512 vnni bf16 amx`, `avx2` or `avx2 vnni`, say."""
    flags = set()
    for line in pathlib.Path(cpuinfo).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            flags = set(value.split())
            break
    if "avx512f" in flags:
        return " ".join(name for name, flag in SETS.items() if flag in flags)
    if "avx2" in flags:
        return "avx2 vnni" if "avx_vnni" in flags else "avx2"
    return " ".join(name for name in ("asimd", "asimddp", "i8mm", "bf16", "sve") if name in flags) or "unknown"


def memory(field):
    """A size of this process in bytes: VmRSS is what is resident now, VmHWM the most since `reset_peak`."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def reset_peak():
    """Begins the peak anew, as `apb bench prefill` does before each run; see /proc/pid/clear_refs in proc(5)."""
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass
