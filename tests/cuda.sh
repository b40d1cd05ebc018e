#!/bin/bash
# The suites of the device, of core and of the optimizer, which run on the host device otherwise,
# on the cuda device with the stub driver: the same order, bytes and errors are promised of both.
# The first two once more as on a real GPU, with device memory that the processor can't touch.
set -euo pipefail

tests=${OFL_BUILD_DIR:?}/tests
stub=$(cd "$tests" && pwd)/libcuda_stub.so
for name in test_device test_device_stream test_core test_core_homes test_core_faults; do
    echo "== $name"
    OFL_TEST_DEVICE=cuda "$tests/$name"
    # not under sanitizers as well
    [ -z "${OFL_TEST_LIGHT-}" ] || continue
    echo "== $name, device memory out of reach"
    OFL_TEST_DEVICE=cuda OFL_TEST_DRIVER=real OFL_CUDA_DRIVER=$stub OFL_STUB_PAGEABLE=1 OFL_STUB_OPAQUE=1 \
        "$tests/$name"
done
# It can fail: a kernel that takes device memory for its own does not survive.
if (ulimit -c 0 && OFL_TEST_DEVICE=cuda OFL_STUB_OPAQUE=1 "$tests/test_device") >/dev/null 2>&1; then
    echo "device memory can be reached"
    exit 1
fi
# The optimizer's kernels run on the CPU here: its suites once, one of them with fewer steps. Under
# sanitizers test_optimizer_cuda stands for it.
for name in test_optimizer_calls test_optimizer; do
    [ -z "${OFL_TEST_LIGHT-}" ] || [ $name = test_optimizer_calls ] || continue
    echo "== $name"
    OFL_TEST_LIGHT=1 OFL_TEST_DEVICE=cuda "$tests/$name"
done
