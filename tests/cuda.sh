#!/bin/bash
# The suites of the device, of core and of the optimizer, which run on the host device otherwise,
# on the cuda device with the stub driver: the same order, bytes and errors are promised of both.
# The first two once more as on a real GPU, with device memory that the processor can't touch.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash cuda
stub=$bin/tests/libcuda_stub.so

# suite NAME [VARIABLE=VALUE...]: passes on the cuda device; one skipped as a whole is no success.
suite() {
    local name=$1
    shift
    limited env OFL_TEST_DEVICE=cuda "$@" "$bin/tests/$name"
    [ "$status" -eq 0 ] || complain "$name $*: $(grep -hE '^\[  FAILED  \] [a-z_0-9]+$' "$work/out" "$work/err" | sort -u | tr '\n' ' ')"
    grep -hq '^\[  PASSED  \] [1-9]' "$work/out" "$work/err" || complain "$name $*: no test passed"
}

for name in test_device test_device_stream test_core test_core_homes test_core_faults test_core_upload test_timeline; do
    rounds=()
    [ $name != test_core_homes ] || rounds=(OFL_TEST_LIGHT=1) # as many as on the host take four times as long
    suite $name "${rounds[@]}"
    # not under sanitizers as well
    [ -z "${OFL_TEST_LIGHT-}" ] || continue
    suite $name OFL_TEST_LIGHT=1 OFL_TEST_DRIVER=real OFL_CUDA_DRIVER="$stub" OFL_STUB_PAGEABLE=1 OFL_STUB_OPAQUE=1
done
# It can fail: a kernel that takes device memory for its own does not survive.
ulimit -S -c 0
limited env OFL_TEST_DEVICE=cuda OFL_STUB_OPAQUE=1 "$bin/tests/test_device"
[ "$status" -ne 0 ] || complain "device memory can be reached"
# The optimizer's kernels run on the CPU here: its suites once, one of them with fewer steps. Under
# sanitizers test_optimizer_cuda stands for it.
for name in test_optimizer_calls test_optimizer; do
    [ -z "${OFL_TEST_LIGHT-}" ] || [ $name = test_optimizer_calls ] || continue
    suite $name OFL_TEST_LIGHT=1
done
finish
