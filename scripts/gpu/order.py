#!/usr/bin/env python3
"""Whether the driver orders streams that do not know each other, by events of their whole context.

Work on a non-blocking stream, an event of the context, and a second stream that waits for it; then the way back. One
JSON object on stdout: whether both orders held, and the host's microseconds a call."""
import ctypes
import json
import sys
import time

ELEMENTS = 1 << 20
# Device clocks that the first stream spends before it writes: far longer than the host needs.
CLOCKS = 400_000_000
CALLS = 1000


def main():
    try:
        import torch
    except ImportError as error:
        print(f"order.py: no PyTorch: {error}", file=sys.stderr)
        return 3
    torch.cuda.init()
    cuda = ctypes.CDLL("libcuda.so.1")
    context, device = ctypes.c_void_p(), ctypes.c_int()
    assert cuda.cuDeviceGet(ctypes.byref(device), 0) == 0
    assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == 0
    assert cuda.cuCtxSetCurrent(context) == 0

    def event():
        made = ctypes.c_void_p()
        assert cuda.cuEventCreate(ctypes.byref(made), 2) == 0
        return made

    def checked(code, what):
        if code != 0:
            raise RuntimeError(f"{what}: CUDA error {code}")

    def record(made):
        checked(cuda.cuCtxRecordEvent(context, made), "cuCtxRecordEvent")

    def wait(made):
        checked(cuda.cuCtxWaitEvent(context, made), "cuCtxWaitEvent")

    def stream_wait(stream, made):
        checked(cuda.cuStreamWaitEvent(ctypes.c_void_p(stream.cuda_stream), made, 0), "cuStreamWaitEvent")

    theirs, ours = torch.cuda.Stream(), torch.cuda.Stream()
    x, y, z = (torch.zeros(ELEMENTS, device="cuda") for _ in range(3))

    def copied(ordered):
        for tensor in [x, y, z]:
            tensor.zero_()
        torch.cuda.synchronize()
        first, second = event(), event()
        started = time.perf_counter()
        with torch.cuda.stream(theirs):
            torch.cuda._sleep(CLOCKS)
            x.fill_(1)
        if ordered:
            record(first)
            stream_wait(ours, first)
        with torch.cuda.stream(ours):
            y.copy_(x)
            torch.cuda._sleep(CLOCKS)
            y.add_(1)
        if ordered:
            checked(cuda.cuEventRecord(second, ctypes.c_void_p(ours.cuda_stream)), "cuEventRecord")
            wait(second)
        with torch.cuda.stream(theirs):
            z.copy_(y)
        queued = time.perf_counter() - started
        torch.cuda.synchronize()
        return {"there": float(y.min()), "back": float(z.min()), "queued_ms": queued * 1e3,
                "total_ms": (time.perf_counter() - started) * 1e3}

    copied(False)
    result = {"unordered": copied(False), "ordered": copied(True)}
    result["holds"] = result["ordered"]["there"] == 2.0 and result["ordered"]["back"] == 2.0
    made = event()
    started = time.perf_counter()
    for _ in range(CALLS):
        record(made)
        stream_wait(ours, made)
        checked(cuda.cuEventRecord(made, ctypes.c_void_p(ours.cuda_stream)), "cuEventRecord")
        wait(made)
    torch.cuda.synchronize()
    result["microseconds"] = (time.perf_counter() - started) / CALLS * 1e6
    version = ctypes.c_int()
    cuda.cuDriverGetVersion(ctypes.byref(version))
    print(json.dumps({**result, "driver": version.value, "torch": torch.__version__}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
