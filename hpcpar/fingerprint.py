"""What the bits depend on: the numerics fingerprint.

Two runs give the same bits when their fingerprints, their configuration and their data are the
same. The fingerprint holds everything outside this package that chooses how a sum is rounded: the
BLAS and the kernels that it picked for this processor, NumPy and the SIMD level that it dispatches
to, the threads a rank, the precision, and on a GPU its model, driver and libraries.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy

import hpcpar
from hpcpar.device import Array, Device, to_host

__all__ = ["differences", "fingerprint", "weights_sha256"]


def fingerprint(device: Device, threads: int, precision: str = "float32") -> dict[str, str]:
    """The fingerprint of this process, as short strings by name."""
    from threadpoolctl import threadpool_info  # imported by programs only, not with the package

    found = [info for info in threadpool_info() if info["user_api"] == "blas"]
    blas: dict[str, Any] = found[0] if found else {}
    facts = {
        "hpcpar": hpcpar.__version__,
        "numpy": numpy.__version__,
        "simd": _simd_level(),
        "blas": f"{blas.get('internal_api', 'unknown')} {blas.get('version', '')}".strip(),
        "blas_kernel": str(blas.get("architecture", "unknown")),
        "threads": str(threads),
        "precision": precision,
        "device": device.kind,
    }
    if device.kind == "cuda":
        facts |= _gpu_facts(device)
    return facts


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Each name in which two fingerprints differ, as ``name: one, other``."""
    names = [name for name in one if name in other] + sorted(one.keys() ^ other.keys())
    return [
        f"{name}: {one.get(name, 'absent')}, {other.get(name, 'absent')}"
        for name in names
        if one.get(name) != other.get(name)
    ]


def weights_sha256(weights: Mapping[str, Array]) -> str:
    """The hash of every parameter in name order, each as little-endian float32 in C order.

    The names themselves and the layout do not enter, so it is one value for any number of ranks.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(numpy.ascontiguousarray(to_host(weights[name]), dtype="<f4").data)
    return digest.hexdigest()


def _simd_level() -> str:
    # The dispatch targets that NumPy found usable here, beyond its compiled baseline.
    simd = numpy.show_config(mode="dicts")["SIMD Extensions"]
    return " ".join(simd.get("found", [])) or "baseline"


def _gpu_facts(device: Device) -> dict[str, str]:
    runtime = device.xp.cuda.runtime
    properties = runtime.getDeviceProperties(device.index)
    return {
        "gpu": properties["name"].decode(),
        "cuda": str(runtime.runtimeGetVersion()),
        "driver": str(runtime.driverGetVersion()),
        "cublas": str(device.xp.cuda.cublas.getVersion(device.xp.cuda.device.get_cublas_handle())),
        "cupy": device.xp.__version__,
    }
