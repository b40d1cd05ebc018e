#!/bin/bash
# The suites of the device and of core, which run on the host device otherwise, on the cuda
# device with the stub driver: the same order, bytes and errors are promised of both.
set -euo pipefail

tests=${OFL_BUILD_DIR:?}/tests
for name in test_device test_device_stream test_core test_core_homes test_core_faults; do
    echo "== $name"
    OFL_TEST_DEVICE=cuda "$tests/$name"
done
