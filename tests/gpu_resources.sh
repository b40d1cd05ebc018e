#!/bin/bash
# Launch bounds, registers, shared memory and spills of the CUDA kernels agree, and docs/gpu-resources.md says what they
# are. Where the build has nvcc; no GPU is needed.
set -euo pipefail

# The build's own settings: what it was compiled with lies beside it.
if ! grep -q '^1 ' "${OFL_BUILD_DIR:?}/cuda_flags"; then
    echo "the build has no nvcc: no kernels to look at"
    exit 77
fi
make --no-print-directory gpu-resources-check B="$OFL_BUILD_DIR"
