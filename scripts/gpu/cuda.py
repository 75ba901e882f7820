"""Where CUDA's driver, compiler and headers are, as an environment for programs that open them at run time.

Looked for in CUDA_PATH, in the folders that PyPI's nvidia-* packages unpack to, and in the usual places."""
import glob
import os
import shutil
import subprocess
import sys
import sysconfig

# What kernels include; barriers come with CCCL, in a folder of its own since CUDA 13.
HEADERS = ["cuda_fp16.h", "cuda_bf16.h", "mma.h"]
DRIVER_FOLDERS = ["/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib64", "/usr/lib/x86_64-linux-gnu"]


def sites():
    """Where packages are, of this Python and of the python3 on the PATH."""
    found = [sysconfig.get_path("purelib")] + [p for p in sys.path if p.endswith("-packages")]
    python = shutil.which("python3")
    if python:
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        done = subprocess.run([python, "-c", code], capture_output=True, text=True)
        found += done.stdout.split()
    return list(dict.fromkeys(found))


def package_folders():
    """Folders of PyPI's nvidia packages."""
    # cu13 holds all of CUDA 13; CUDA 12 has a folder for each part.
    return [path for site in sites() for path in sorted(glob.glob(os.path.join(site, "nvidia", "*")), reverse=True)]


def tool(name):
    """A program of CUDA; PyTorch brings ptxas with Triton. None where there is none."""
    folders = [os.path.join(root, "bin") for root in roots()]
    folders += [os.path.join(site, "triton", "backends", "nvidia", "bin") for site in sites()]
    paths = [shutil.which(name)] + [os.path.join(folder, name) for folder in folders]
    return next((path for path in paths if path and os.path.isfile(path)), None)


def roots():
    named = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME")]
    nvcc = shutil.which("nvcc")
    if nvcc:
        named.append(os.path.dirname(os.path.dirname(os.path.realpath(nvcc))))
    usual = ["/usr/local/cuda"] + sorted(glob.glob("/usr/local/cuda-*"), reverse=True) + ["/opt/cuda"]
    folders = [folder for folder in named + usual + package_folders() if folder and os.path.isdir(folder)]
    return list(dict.fromkeys(folders))


def has_headers(root):
    return all(os.path.isfile(os.path.join(root, "include", header)) for header in HEADERS)


def has_barriers(root):
    include = os.path.join(root, "include")
    return any(os.path.exists(os.path.join(include, folder, "cuda", "barrier")) for folder in ["", "cccl"])


def gathered(folder, found):
    """A root of links, where the parts of CUDA are in folders of their own."""
    include = os.path.join(folder, "cuda", "include")
    os.makedirs(include, exist_ok=True)
    for root in reversed(found):
        for path in glob.glob(os.path.join(root, "include", "*")):
            link = os.path.join(include, os.path.basename(path))
            if os.path.lexists(link):
                os.unlink(link)
            os.symlink(path, link)
    return os.path.join(folder, "cuda")


def library_folder(name, folders):
    for folder in folders:
        if glob.glob(os.path.join(folder, name + ".so*")):
            return folder
    return None


def loader_knows(name):
    ldconfig = shutil.which("ldconfig") or "/sbin/ldconfig"
    try:
        return name + ".so" in subprocess.run([ldconfig, "-p"], capture_output=True, text=True).stdout
    except OSError:
        return False


def environment(scratch):
    """The environment for programs, and lines that say what was found and what is missing."""
    found = roots()
    lines, missing, paths = [], [], []
    whole = [root for root in found if has_headers(root) and has_barriers(root)]
    root = whole[0] if whole else gathered(scratch, found) if found else None
    if root and has_headers(root):
        lines.append(f"headers   {root}/include" + ("" if has_barriers(root) else ", without CCCL"))
    else:
        missing.append("CUDA headers (cuda_fp16.h): set CUDA_PATH, or install nvidia-cuda-runtime and nvidia-cuda-cccl")
    # The compiler of the headers' own folder first: the two must be of one version.
    places = [os.path.join(r, lib) for r in [root or ""] + found for lib in ["lib64", "lib"]]
    compiler = library_folder("libnvrtc", places)
    if compiler:
        paths.append(compiler)
    if compiler or loader_knows("libnvrtc"):
        lines.append(f"libnvrtc  {compiler or 'known to the loader'}")
    else:
        missing.append("libnvrtc: install the CUDA toolkit or nvidia-cuda-nvrtc")
    # Products are Burn's where it is missing.
    products = library_folder("libcublasLt", places)
    if products:
        paths.append(products)
    if products or loader_knows("libcublasLt"):
        lines.append(f"cublasLt  {products or 'known to the loader'}")
    # Only ranks with a GPU each need it; their tests say so where it is missing.
    nccl = library_folder("libnccl", places)
    if nccl:
        paths.append(nccl)
    if nccl or loader_knows("libnccl"):
        lines.append(f"libnccl   {nccl or 'known to the loader'}")
    existing = [folder for folder in os.environ.get("LD_LIBRARY_PATH", "").split(":") if folder]
    driver = library_folder("libcuda", existing + DRIVER_FOLDERS)
    if driver and not loader_knows("libcuda"):
        paths.append(driver)
    if driver or loader_knows("libcuda"):
        lines.append(f"libcuda   {driver or 'known to the loader'}")
    else:
        missing.append("libcuda: there is no NVIDIA driver here")
    env = dict(os.environ)
    env["LD_LIBRARY_PATH"] = ":".join(dict.fromkeys(existing + paths))
    if root:
        env["CUDA_PATH"] = root
    return env, lines, missing
