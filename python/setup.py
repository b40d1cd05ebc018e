"""The extension on the public header: found by pkg-config (offload), or in a build tree (OFL_BUILD_DIR)."""
import os
import shlex
import subprocess

from setuptools import Extension, setup

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def flags(*what):
    return shlex.split(subprocess.run(["pkg-config", *what, "offload"], check=True, capture_output=True, text=True).stdout)


def extension():
    common = {"py_limited_api": True, "extra_compile_args": ["-std=gnu11", "-O2", "-Wall", "-Wextra"]}
    build = os.environ.get("OFL_BUILD_DIR")
    if build is None and os.path.exists(os.path.join(ROOT, "build", "liboffload.so.0")):
        build = os.path.join(ROOT, "build")
    if build:
        build = os.path.abspath(build)
        common["extra_compile_args"] += ["-I", os.path.join(ROOT, "include")]
        link = [os.path.join(build, "liboffload.so.0"), "-Wl,-rpath," + build]
    else:
        common["extra_compile_args"] += flags("--cflags")
        link = flags("--libs")
    return Extension("offload._core", ["offload/_core.c"], extra_link_args=link, **common)


setup(ext_modules=[extension()], options={"bdist_wheel": {"py_limited_api": "cp39"}})
