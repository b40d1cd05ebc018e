"""The extension on the public header. The library is that of the build folder beside this one, if there is one, else what
pkg-config finds as offload."""
import glob
import os
import shlex
import subprocess

from setuptools import Extension, setup

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def flags(*what):
    return shlex.split(subprocess.run(["pkg-config", *what, "offload"], check=True, capture_output=True, text=True).stdout)


def extension():
    compile_args = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-fvisibility=hidden", "-I", ROOT]
    build = os.path.join(ROOT, "build", "liboffload.so.0")
    if "OFL_LINK" in os.environ:  # make wheel: the library is a part of it
        compile_args += ["-I", os.path.join(ROOT, "include")]
        link = shlex.split(os.environ["OFL_LINK"])
    elif os.path.exists(build):
        compile_args += ["-I", os.path.join(ROOT, "include")]
        link = [build, "-Wl,-rpath," + os.path.dirname(build)]
    else:
        compile_args += flags("--cflags")
        link = flags("--libs")
    return Extension("offload._core", sorted(glob.glob("offload/*.c")), py_limited_api=True, extra_compile_args=compile_args,
                     extra_link_args=link)


setup(ext_modules=[extension()], options={"bdist_wheel": {"py_limited_api": "cp39"}})
