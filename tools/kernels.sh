#!/bin/bash
# Prints a C++ source that holds a .cu file and an EMULATE line for each kernel in it: what the stub
# driver's table of kernels is made of (tests/cuda_emulate.h). The preprocessor goes first, so kernels
# may be made by macros.
#
#     tools/kernels.sh FILE.cu CXX [FLAGS...]
set -euo pipefail

file=$1
shift
text=$("$@" -DEMULATE_LIST -E -P "$file")
echo "#include \"$file\""
# The kernel's name is the first word before a bracket, attributes aside.
tr '\n' ' ' <<<"$text" | grep -oE '\bEMULATE_KERNEL\b[^;{(]*\(' |
    sed -E 's/.*[^A-Za-z0-9_]([A-Za-z_][A-Za-z0-9_]*)[[:space:]]*\($/EMULATE(\1)/' | sort -u || true
