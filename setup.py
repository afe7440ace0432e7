"""Build the compiled core, if there is a compiler: everything else stands in pyproject.toml.

The core is a plain shared library with a C interface, loaded through ctypes. It is built twice on x86-64, for any
processor and for those with AVX2, and chosen at run time. `optional` lets the installation go on without it.
"""

import glob
import platform
import sys

from setuptools import Extension, setup

SOURCE = "implicit_layers/qp/native/core.cpp"
HEADERS = sorted(glob.glob("implicit_layers/qp/native/*.h"))
COMMON = ["-std=c++17", "-O3", "-fopenmp-simd", "-fno-math-errno", "-fvisibility=default", "-Wno-psabi", "-g0"]


def variant(name: str, *flags: str) -> Extension:
    """Describe one build of the core."""
    return Extension(
        f"implicit_layers.qp.native.{name}",
        [SOURCE],
        depends=HEADERS,
        extra_compile_args=[*COMMON, *flags],
        extra_link_args=["-pthread"],
        language="c++",
        optional=True,
    )


variants = [] if sys.platform == "win32" else [variant("core_portable")]
if variants and platform.machine() in ("x86_64", "AMD64"):
    variants.append(variant("core_v3", "-march=x86-64-v3"))
setup(ext_modules=variants)
