#!/bin/bash
# Checks every #include against the order of the rooms:
#
#     base <- io, scheduler, mem, device, source, timeline <- store <- core <- optim, landing <- examples, bench
#             scheduler <- plan <- bench
#
# Rooms side by side don't know each other. Examples and benches see the public header
# only, and of the io room nobody but its own tests sees more than six headers. What a room may include is written in allowed(), below, and nowhere else.
#
#     tools/layers.sh [ROOT]        prints the lines that offend; exit 1 if there are any
#     tools/layers.sh --self-test   proves that planted violations are found
set -euo pipefail
set -f # the "*" of allowed() is no pattern of file names

# Prints what a file may include, as prefixes of paths; "*" is anything.
allowed() {
    local base='include/ base/'
    local io='io/io.h io/histogram.h io/drive.h io/profile.h io/smart.h io/gather.h' # what the room shows; the rest is its own
    local store="$base $io scheduler/ liboffload/mem/ liboffload/device/ liboffload/store/"
    local core="$store liboffload/source/ liboffload/timeline/ liboffload/core/"
    # Inside core, from the ground up; side by side: lease, work, home, ahead, commit.
    local c=liboffload/core/
    local ground="$store ${c}update.h ${c}pager.h" copy pump
    copy="$ground ${c}tile.h ${c}part.h ${c}place.h ${c}blame.h ${c}copy.h"
    pump="$copy ${c}slot.h ${c}wait.h ${c}lease.h ${c}work.h ${c}home.h ${c}hint.h ${c}ahead.h ${c}commit.h ${c}pump.h"
    case "$1" in
    include/*) echo include/ offload.h ;; # beside itself, as installed
    base/*) echo "$base" ;;
    io/*) echo "$base io/" ;;
    scheduler/*) echo "$base scheduler/" ;;
    liboffload/mem/*) echo "$base liboffload/mem/" ;;
    liboffload/device/*) echo "$base liboffload/device/" ;;
    liboffload/store/*) echo "$store" ;;
    liboffload/timeline/*) echo "$base liboffload/timeline/" ;;
    liboffload/source/*) echo "$base liboffload/source/" ;;
    liboffload/landing/*) echo "$base liboffload/device/device.h ${c}core.h ${c}update.h liboffload/landing/" ;;
    liboffload/core/update.h) echo 'include/' ;;
    liboffload/core/pager.h | liboffload/core/op.c) echo "$ground" ;;
    liboffload/core/slot.[ch]) echo "$ground ${c}slot.h" ;;
    liboffload/core/tile.[ch] | liboffload/core/tile_*.c) echo "$ground ${c}slot.h ${c}tile.h" ;;
    liboffload/core/part.[ch]) echo "$ground ${c}tile.h ${c}part.h" ;;
    liboffload/core/place.[ch] | liboffload/core/place_*) echo "$ground ${c}tile.h ${c}part.h ${c}place.h ${c}place_impl.h" ;;
    liboffload/core/blame.[ch]) echo "$ground ${c}blame.h" ;;
    liboffload/core/copy.[ch] | liboffload/core/copy_*.c) echo "$copy" ;;
    liboffload/core/wait.[ch]) echo "$copy ${c}wait.h" ;;
    liboffload/core/hold.[ch]) echo "$ground ${c}part.h ${c}hold.h" ;;
    liboffload/core/lease.[ch]) echo "$copy ${c}wait.h ${c}hold.h ${c}lease.h" ;;
    liboffload/core/work.[ch]) echo "$copy ${c}work.h" ;;
    liboffload/core/hint.[ch]) echo "$copy ${c}hold.h ${c}hint.h" ;;
    liboffload/core/ahead.[ch]) echo "$copy ${c}hint.h ${c}ahead.h" ;;
    liboffload/core/home.[ch]) echo "$copy ${c}slot.h ${c}home.h" ;;
    liboffload/core/commit.[ch]) echo "$copy ${c}slot.h ${c}commit.h" ;;
    liboffload/core/shape.[ch]) echo "$ground ${c}slot.h ${c}tile.h ${c}shape.h" ;;
    liboffload/core/pump.[ch]) echo "$pump" ;;
    liboffload/core/verify_copy.[ch]) echo "$pump ${c}verify_copy.h" ;;
    liboffload/core/verify.[ch]) echo "$pump ${c}verify_copy.h ${c}verify.h" ;;
    liboffload/core/record.[ch]) echo "$ground liboffload/timeline/ ${c}record.h" ;;
    liboffload/core/engine.[ch]) echo "$pump liboffload/timeline/ ${c}verify.h ${c}record.h ${c}engine.h" ;;
    liboffload/core/core.h) echo "include/ base/entry.h liboffload/device/device.h ${c}update.h" ;;
    liboffload/core/*) echo "$core" ;;
    # Of core it sees what is meant for it, of the pager nothing.
    liboffload/plan/check*) echo "$base liboffload/plan/record.h liboffload/plan/check" ;; # of a run it knows the records
    liboffload/plan/simulate* | liboffload/plan/world*) echo "$pump ${c}shape.h liboffload/plan/" ;;
    liboffload/plan/*) echo "$base scheduler/ liboffload/plan/" ;; # arithmetic: of core it knows the public calls
    liboffload/optim/*) echo "$base liboffload/device/device.h ${c}core.h ${c}update.h liboffload/optim/" ;;
    examples/*) echo 'include/ examples/' ;;
    bench/*)
        echo "include/offload.h include/offload_estimate.h include/offload_landing.h include/offload_update.h examples/common.h examples/common_bound.h" \
            "examples/common_budget.h examples/common_memory.h examples/common_options.h examples/common_predict.h" \
            "examples/model/ bench/ $io" \
            'liboffload/device/device.h liboffload/mem/mem.h liboffload/plan/ liboffload/store/kept.h'
        ;;
    tests/test_io* | tests/io_* | tests/mem_engine.*) echo '*' ;;
    tests/*) echo "$base $io scheduler/ liboffload/ examples/ bench/ tests/" ;;
    *) echo '' ;; # a folder that is not a room: no includes of ours
    esac
}

# The scheduler has no threads, no clock and no system calls.
scheduler_forbidden='pthread.h threads.h stdatomic.h time.h unistd.h fcntl.h sys/ linux/'

# Prints one line for each offending include under $1.
offences() {
    local file last='' number open name may prefix ok
    while IFS=$'\t' read -r file number open name; do
        [ "$file" = "$last" ] || may=$(allowed "$file")
        last=$file
        ok=
        if [ "$open" = '<' ]; then
            ok=1
            for prefix in include/ base/ io/ scheduler/ liboffload/ examples/ bench/ tests/; do
                [[ $name != "$prefix"* ]] || ok=
            done
            for prefix in $scheduler_forbidden; do
                [[ $file != scheduler/* || $name != "$prefix"* ]] || ok=
            done
        else
            for prefix in $may; do
                if [ "$prefix" = '*' ] || [[ $name == "$prefix"* && $name != *..* ]]; then
                    ok=1
                fi
            done
            # Helpers that show what the io room keeps to itself.
            case "$may:$name" in
            '*:'*) ;;
            *:tests/mem_engine.h | *:tests/io_model.h | *:tests/io_fake.h) ok= ;;
            esac
        fi
        [ -n "$ok" ] || echo "$file:$number: may not include $name (allowed here: ${may:-nothing of ours})"
    done < <(includes "$1")
}

# Prints file, line, '"' or '<' and name of each include under $1, with tabs between.
includes() {
    (cd "$1" && find include base io scheduler liboffload examples bench tests \
        -regex '.*\.\(c\|h\|cc\|cu\|cuh\)' -type f -print0 2>/dev/null | LC_ALL=C sort -z |
        xargs -0 -r grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*["<]' |
        sed -E 's/^([^:]*):([0-9]*):[^"<]*(["<])([^">]*).*/\1\t\2\t\3\t\4/')
}

# Plants one include in a tree of its own, and expects it to be found (bad) or not (good).
expect() {
    local verdict=$1 file=$2 line=$3 tree found
    tree=$(mktemp -d)
    mkdir -p "$tree/$(dirname "$file")"
    printf '/* planted */\n%s\n' "$line" >"$tree/$file"
    found=$(offences "$tree" || true)
    rm -r "$tree"
    case "$verdict:${found:+found}" in
    bad:found)
        [[ $found == "$file:2: "* ]] && return
        ;;
    good:) return ;;
    esac
    echo "layers: self-test: $line in $file should be $verdict; reported: ${found:-nothing}" >&2
    return 1
}

self_test() {
    local failed=0
    expect bad base/a.c '#include "liboffload/mem/mem.h"' || failed=1
    expect bad base/a.c '#include "io/io.h"' || failed=1
    expect bad io/a.c '#include "scheduler/plan.h"' || failed=1
    expect bad io/a.h '#include "liboffload/device/device.h"' || failed=1
    expect bad scheduler/a.c '#include "io/io.h"' || failed=1
    expect bad scheduler/a.c '#  include <pthread.h>' || failed=1
    expect bad scheduler/a.c '#include <sys/mman.h>' || failed=1
    expect bad liboffload/mem/a.c '#include "liboffload/device/device.h"' || failed=1
    expect bad liboffload/device/a.c '#include "io/io.h"' || failed=1
    expect bad liboffload/store/a.c '#include "liboffload/core/core.h"' || failed=1
    expect bad liboffload/timeline/a.c '#include "liboffload/core/pager.h"' || failed=1
    expect bad liboffload/core/blame.c '#include "liboffload/timeline/timeline.h"' || failed=1
    expect bad liboffload/source/a.c '#include "io/io.h"' || failed=1
    expect bad liboffload/store/a.c '#include "liboffload/source/source.h"' || failed=1
    expect bad liboffload/core/a.c '#include "liboffload/optim/optim.h"' || failed=1
    expect bad liboffload/core/a.c '#include "../optim/optim.h"' || failed=1
    expect bad liboffload/core/a.c '#include <liboffload/optim/optim.h>' || failed=1
    expect bad liboffload/core/a.c '#include "core.h"' || failed=1
    expect bad examples/a.c '#include "base/error.h"' || failed=1
    expect bad examples/model/a.h '#include "io/io.h"' || failed=1
    expect bad examples/model/a.cu '#include "liboffload/core/core.h"' || failed=1
    expect bad examples/model/a.cuh '#include "tests/a.h"' || failed=1
    expect bad liboffload/optim/a.cu '#include "examples/model/cuda_kernel.cuh"' || failed=1
    expect bad liboffload/core/a.cc '#include "liboffload/optim/optim.h"' || failed=1
    expect bad bench/a.c '#include "io/queue.h"' || failed=1
    expect bad liboffload/store/a.c '#include "io/file.h"' || failed=1
    expect bad liboffload/core/a.c '#include "io/queue.h"' || failed=1
    expect bad liboffload/core/a.h '#include "io/engine.h"' || failed=1
    expect bad tests/test_store.c '#include "io/file.h"' || failed=1
    expect bad tests/sim/a.c '#include "io/queue.h"' || failed=1
    expect bad tests/test_core.c '#include "tests/mem_engine.h"' || failed=1
    expect bad tests/sim/a.c '#include "tests/io_fake.h"' || failed=1
    expect good tests/test_io_a.c '#include "io/queue.h"' || failed=1
    expect good tests/test_io_a.c '#include "tests/mem_engine.h"' || failed=1
    expect good tests/test_store.c '#include "io/io.h"' || failed=1
    expect good tests/test_core.c '#include "tests/io_fixture.h"' || failed=1
    expect bad include/a.h '#include "base/error.h"' || failed=1
    expect good base/a.c '#include "include/offload.h"' || failed=1
    expect good include/a.h '#include "offload.h"' || failed=1
    expect good io/a.c '#include "base/error.h"' || failed=1
    expect good io/a.c '#include <pthread.h>' || failed=1
    expect good scheduler/a.c '#include <stdint.h>' || failed=1
    expect good liboffload/store/a.c '#include "io/io.h"' || failed=1
    expect good liboffload/optim/a.c '#include "liboffload/core/core.h"' || failed=1
    expect bad liboffload/optim/a.c '#include "liboffload/core/pager.h"' || failed=1
    expect bad liboffload/core/tile.c '#include "liboffload/core/copy.h"' || failed=1
    expect bad liboffload/core/place.c '#include "liboffload/core/copy.h"' || failed=1
    expect bad liboffload/core/copy.c '#include "liboffload/core/lease.h"' || failed=1
    expect bad liboffload/core/lease.c '#include "liboffload/core/work.h"' || failed=1
    expect bad liboffload/core/lease.c '#include "liboffload/core/pump.h"' || failed=1
    expect bad liboffload/core/work.c '#include "liboffload/core/engine.h"' || failed=1
    expect bad liboffload/core/pump.c '#include "liboffload/core/context.h"' || failed=1
    expect good liboffload/core/pump.c '#include "liboffload/core/work.h"' || failed=1
    expect good liboffload/core/copy.c '#include "liboffload/core/tile.h"' || failed=1
    expect good liboffload/core/stream.c '#include "liboffload/core/pump.h"' || failed=1
    expect good examples/model/a.cu '#include "examples/model/cuda_kernel.cuh"' || failed=1
    expect good examples/a.c '#include "examples/model/model.h"' || failed=1
    expect good examples/a.c '#include <openblas/cblas.h>' || failed=1
    expect bad bench/a.c '#include "liboffload/device/cuda_driver.h"' || failed=1
    expect good bench/a.c '#include "io/io.h"' || failed=1
    expect good bench/a.c '#include "liboffload/device/device.h"' || failed=1
    expect good tests/a.c '#include "liboffload/core/core.h"' || failed=1
    [ $failed -eq 0 ] && echo 'layers: self-test passed'
}

if [ "${1-}" = --self-test ]; then
    self_test
    exit
fi
found=$(offences "${1:-$(dirname "$0")/..}")
if [ -n "$found" ]; then
    echo "$found"
    exit 1
fi
