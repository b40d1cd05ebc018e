#!/bin/bash
# Proves that gradients reduced over MPI, as examples/mpi_reduce.c does it, give two processes the bits of one that does both
# shares of the batch. Wants mpicc and mpirun (Debian: libopenmpi-dev, openmpi-bin).
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash mpi
[ -x "$bin/mpi_reduce" ] || { echo "mpicc is missing, or this is a build with sanitizers"; verdict=1; exit 77; }
command -v mpirun >/dev/null || { echo "mpirun is missing"; verdict=1; exit 77; }

# One machine, whoever runs it, and however few cores there are.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
    OMPI_MCA_plm_rsh_agent=false OMPI_MCA_btl=self,vader OMPI_MCA_btl_vader_single_copy_mechanism=none
export TMPDIR=/tmp # of short names: sockets lie there

limited mpirun -n 1 "$bin/mpi_reduce" "$work"
wanted "one process"
cp "$work/out" "$work/one"
one=$(sed -n 's/^weights of process 0: //p' "$work/one")
[ ${#one} -eq 16 ] || complain "no weights"
limited mpirun -n 2 "$bin/mpi_reduce" "$work"
wanted "two processes"
[ "$(grep -c "^weights of process [01]: $one\$" "$work/out")" -eq 2 ] || complain "two processes end elsewhere than one with $one"
cmp -s <(grep ^step "$work/one") <(grep ^step "$work/out") || complain "other norms"
[ "$(grep -c ^step "$work/out")" -eq 5 ] || complain "no 5 steps"
# What it says of more processes than shares.
limited mpirun -n 3 "$bin/mpi_reduce" "$work"
[ "$status" -ne 0 ] || complain "three processes for two shares"
grep -q 'at most two processes' "$work/err" || complain "no reason"
finish
