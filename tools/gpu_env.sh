# shellcheck shell=bash
# What gpu_check.sh and gpu_bench.sh share; sourced. build: the folder of the build, as given.
# OFL_CUDA_DRIVER in the environment stands for the GPU: so these scripts run on the stub, too.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
build=${1:?usage: $0 BUILD_DIR}
program=$(basename "$0" .sh)

say() { printf '%s: %s\n' "$program" "$*" >&2; }

# The GPU's name, as the driver's own program has it; fails with a sentence if there is none.
require_gpu() {
    local list
    if [ -n "${OFL_CUDA_DRIVER-}" ]; then
        [ -e "$OFL_CUDA_DRIVER" ] || { say "OFL_CUDA_DRIVER=$OFL_CUDA_DRIVER: no such file"; exit 1; }
        say "not on a GPU: the driver is $OFL_CUDA_DRIVER"
        gpu="driver $(basename "$OFL_CUDA_DRIVER")"
        return
    fi
    if ! command -v nvidia-smi >/dev/null; then
        say "no GPU: nvidia-smi, a part of NVIDIA's driver, is not installed; make check tests what can be tested without"
        exit 1
    fi
    if ! list=$(nvidia-smi --query-gpu=name --format=csv,noheader 2>&1) || [ -z "$list" ]; then
        say "no GPU: nvidia-smi: ${list:-it lists none}"
        exit 1
    fi
    # shellcheck disable=SC2034
    gpu=$(head -n 1 <<<"$list")
}

# Streams that wait must not share a hardware queue with those that they wait for (offload_cuda.h).
export CUDA_DEVICE_MAX_CONNECTIONS=${CUDA_DEVICE_MAX_CONNECTIONS:-32}

# cuBLAS of a Python package, where the machine has no other.
if [ -z "${OFL_CUBLAS-}" ] && ! ldconfig -p 2>/dev/null | grep -q 'libcublas\.so\.1[23]' &&
    ! compgen -G '/usr/local/cuda/lib64/libcublas.so.1[23]' >/dev/null; then
    for file in "${CUDA_HOME:-/usr/local/cuda}"/lib64/libcublas.so.1[23] \
        "$(python3 -c 'import site; print(site.getsitepackages()[0])' 2>/dev/null)"/nvidia/*/lib/libcublas.so.1[23]; do
        [ ! -e "$file" ] || export OFL_CUBLAS=$file
    done
fi

# Builds the given targets. Packages are installed only if something is missing: a machine
# without network may have all in OFL_SYSROOT.
build_all() {
    local make=${MAKE:-make}
    if ! $make --no-print-directory config B="$build" 2>/dev/null | grep -q '^missing  *nothing'; then
        tools/setup.sh || { say "libraries are missing; for a machine without network see tools/gpu_sysroot.sh"; exit 1; }
    fi
    $make --no-print-directory B="$build" "$@" >&2 || { say "the build failed"; exit 1; }
    build=$(cd "$build" && pwd)
}
