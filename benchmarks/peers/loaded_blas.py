"""Which BLAS a library stands on in this process: prints {"blas": name, "file": where it lies}.

    python benchmarks/peers/loaded_blas.py libscalapack-openmpi.so.2.2

A system's libblas.so.3 is whatever was installed last, so its name says nothing. Asked is the file
in which the dynamic linker finds sgemm, by what only one of the implementations has.
"""

import ctypes
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

__all__ = ["REFERENCE", "blas_name", "file_at"]

REFERENCE = "reference BLAS"
MARKS = {  # what only this BLAS has
    "OpenBLAS": "openblas_get_config",
    "BLIS": "bli_info_get_version_str",
    "MKL": "MKL_Get_Version",
    "ATLAS": "ATL_buildinfo",
    "FlexiBLAS": "flexiblas_current_backend",
}


def blas_name(file: str, has: Callable[[str], bool]) -> str:
    """The BLAS in a file of which `has` tells whether it, or what it needs, has a symbol.

    One that is not known is called after its file, unless that has the name that Netlib's has.
    """
    for name, mark in MARKS.items():
        if has(mark):
            return name
    stem = Path(file).name.partition(".so")[0]
    return REFERENCE if stem in ("libblas", "librefblas") else stem


def file_at(maps: str, address: int) -> str:
    """The file that is mapped at an address, by the text of /proc/self/maps."""
    for line in maps.splitlines():
        span, *_, file = [*line.split(maxsplit=5), ""][:6]
        start, stop = (int(end, 16) for end in span.split("-"))
        if file and start <= address < stop:
            return file
    raise LookupError(f"no file is mapped at {address:#x}")


def main() -> None:
    library = ctypes.CDLL(sys.argv[1], mode=os.RTLD_GLOBAL | os.RTLD_NOW)
    address = ctypes.cast(library.sgemm_, ctypes.c_void_p).value
    file = file_at(Path("/proc/self/maps").read_text(), address)
    blas = ctypes.CDLL(file)
    name = blas_name(file, lambda symbol: hasattr(blas, symbol))
    if name == "OpenBLAS":
        blas.openblas_get_config.restype = ctypes.c_char_p
        words = blas.openblas_get_config().decode().split()
        name = " ".join(words[:2])  # OpenBLAS 0.3.21 NO_LAPACKE DYNAMIC_ARCH ...
    elif name == "BLIS":
        blas.bli_info_get_version_str.restype = ctypes.c_char_p
        name = f"BLIS {blas.bli_info_get_version_str().decode()}"
    print(json.dumps({"blas": name, "file": file}))


if __name__ == "__main__":
    main()
