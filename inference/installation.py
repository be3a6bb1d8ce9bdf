"""What this machine has for an execution provider, and what it lacks: which package, which library.

`onnxruntime` and `onnxruntime-gpu` are the same Python package under two names: installed together
they overwrite each other's files.
"""

import contextlib
import ctypes
import io
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

import onnxruntime as ort

from inference.assessment import Text
from inference.providers import CUDA, NAMES, SHOWN, TENSORRT, Provider

ONLY_CPU, WITH_GPU = "onnxruntime", "onnxruntime-gpu"
INSTALL_GPU = (
    "pip install 'overread[gpu]' && pip uninstall --yes onnxruntime onnxruntime-gpu"
    " && pip install --no-deps 'onnxruntime-gpu==1.31.*'"
)

CUDA_LIBRARIES = (
    "libcudart.so.13",
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
)
TENSORRT_LIBRARIES = ("libnvinfer.so.10", "libnvinfer_plugin.so.10", "libnvonnxparser.so.10")
"""ONNX Runtime 1.31 is built for CUDA 13 and TensorRT 10; what PyPI calls `tensorrt` is 11."""

CUDA_DRIVER = 13000
"""Least CUDA version, as cuDriverGetVersion counts, that the NVIDIA driver must know."""


@dataclass(frozen=True)
class Installation:
    """What there is: `driver` is the driver's CUDA version (13010 is 13.1), 0 where there is none.

    `packages` are those of ONNX Runtime, `providers` what they were built with, `missing` the
    libraries that cannot be loaded.
    """

    packages: frozenset[str]
    providers: frozenset[str]
    driver: int
    devices: int
    missing: frozenset[str]


@dataclass(frozen=True)
class Lack:
    """One thing that a provider needs and does not have, and how to get it."""

    reason: Text
    remedy: str


def lacks(provider: Provider, found: Installation) -> tuple[Lack, ...]:
    """What `provider` needs and `found` does not have; empty where it should work."""
    if provider == "cpu":
        return ()
    problems = [
        _package(provider, found),
        _driver(found),
        _libraries(CUDA_LIBRARIES, "CUDA", found),
    ]
    if provider == "tensorrt":
        problems.append(_libraries(TENSORRT_LIBRARIES, "TensorRT", found))
    return tuple(problem for problem in problems if problem is not None)


def _package(provider: Provider, found: Installation) -> Lack | None:
    if NAMES[provider] in found.providers:
        return None
    if {ONLY_CPU, WITH_GPU} <= found.packages:
        return Lack(
            Text(
                en="onnxruntime and onnxruntime-gpu are both installed and overwrite each other",
                zh="同时安装了 onnxruntime 与 onnxruntime-gpu,二者文件互相覆盖",
            ),
            INSTALL_GPU,
        )
    return Lack(
        Text(
            en=f"the installed ONNX Runtime has no {SHOWN[provider]} provider",
            zh=f"已安装的 ONNX Runtime 不含 {SHOWN[provider]}",
        ),
        INSTALL_GPU,
    )


def _driver(found: Installation) -> Lack | None:
    if not found.driver or not found.devices:
        return Lack(
            Text(en="no NVIDIA driver with a GPU answers", zh="未检测到 NVIDIA 驱动或 GPU"),
            "install the NVIDIA driver 580 or later; in a container, hand the GPU through",
        )
    if found.driver < CUDA_DRIVER:
        return Lack(
            Text(
                en=f"the NVIDIA driver knows CUDA up to {_dotted(found.driver)}, not 13.0",
                zh=f"NVIDIA 驱动仅支持到 CUDA {_dotted(found.driver)},需要 13.0",
            ),
            "install the NVIDIA driver 580 or later",
        )
    return None


def _libraries(needed: tuple[str, ...], whose: str, found: Installation) -> Lack | None:
    missing = ", ".join(name for name in needed if name in found.missing)
    if not missing:
        return None
    return Lack(
        Text(
            en=f"libraries of {whose} cannot be loaded: {missing}",
            zh=f"无法加载 {whose} 的库:{missing}",
        ),
        "pip install 'overread[gpu]'",
    )


def _dotted(cuda: int) -> str:
    return f"{cuda // 1000}.{cuda % 1000 // 10}"


def installation() -> Installation:
    """Look at this machine; loads the libraries of CUDA and TensorRT where there are any."""
    load_libraries()
    driver, devices = _ask_driver()
    return Installation(
        packages=frozenset(name for name in (ONLY_CPU, WITH_GPU) if _installed(name)),
        providers=frozenset(ort.get_available_providers()),
        driver=driver,
        devices=devices,
        missing=frozenset(
            name for name in (*CUDA_LIBRARIES, *TENSORRT_LIBRARIES) if not _loads(name)
        ),
    )


@cache
def load_libraries() -> None:
    """Load the libraries of the NVIDIA wheels, where the dynamic linker would not find them."""
    if CUDA in ort.get_available_providers():
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            ort.preload_dlls()
    if TENSORRT in ort.get_available_providers():
        wheel = find_spec("tensorrt_libs")
        folders = wheel.submodule_search_locations if wheel else None
        for folder in folders or ():
            for name in TENSORRT_LIBRARIES:
                _loads(str(Path(folder) / name))


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    except OSError:
        return False
    return True


def _ask_driver() -> tuple[int, int]:
    """CUDA version that the driver knows, and number of GPUs; zeros where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0, 0
    known, devices = ctypes.c_int(0), ctypes.c_int(0)
    if driver.cuInit(0) or driver.cuDriverGetVersion(ctypes.byref(known)):
        return 0, 0
    driver.cuDeviceGetCount(ctypes.byref(devices))
    return known.value, devices.value
