"""Makes torch believe in a CUDA device. To be imported before torch, which looks for devices once."""

import ctypes
import hashlib
import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from evagen.errors import UserError
from evagen.kernels.files import cache_folder

SOURCE = Path(__file__).with_name("guard.cpp")


def load() -> None:
    """Compiles guard.cpp with the machine's C++ compiler at first use, some seconds, and loads it. Raises UserError
    without a compiler, with a torch that has CUDA, or where torch was imported already."""
    found = importlib.util.find_spec("torch")
    if "torch" in sys.modules or found is None or found.origin is None:
        raise UserError("a GPU can be pretended in a process that has not imported torch yet")
    root = Path(found.origin).parent
    if (root / "lib" / "libtorch_cuda.so").exists():
        raise UserError("a GPU is pretended beside a torch without CUDA only; this one has it")
    compiler = shutil.which("c++")
    if compiler is None:
        raise UserError("to pretend a GPU a C++ compiler is needed (c++ on the PATH): apt-get install g++")
    about = SOURCE.read_bytes() + (root / "version.py").read_bytes()
    library = cache_folder() / f"pretended_{hashlib.sha256(about).hexdigest()[:16]}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        built = library.with_suffix(".new.so")
        command = [compiler, "-shared", "-fPIC", "-std=c++20", "-O1", str(SOURCE), "-o", str(built)]
        command += [f"-I{root / 'include'}", f"-L{root / 'lib'}", "-lc10", "-ltorch_cpu"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"the pretended GPU did not compile: {done.stderr[-1000:]}")
        built.replace(library)
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(root / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL).use_pretended_device()
