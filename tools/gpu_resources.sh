#!/bin/bash
# What each kernel takes of a GPU, as a table, and whether its launch bounds agree with it. `make gpu-resources`
# runs it.
#
#     tools/gpu_resources.sh write|check TABLE LAUNCHES RELEASE REPORT...
#
# TABLE: the kept table; written anew, or compared. LAUNCHES: a program that prints what launches ask for.
# RELEASE: of nvcc. REPORT: X.sm_ARCH.txt, what the compiler says of X.cu for ARCH.
# Fails where bounds claim more blocks than fit, where a launch has more threads than its bounds or more shared memory than
# a block may have, and, with the nvcc that the kept table is of, where a kernel spills that tools/gpu_spills.txt
# does not list with a reason, or where the table differs. Other compilers spill elsewhere: told, no failure.
set -euo pipefail

mode=$1 kept=$2 launches=$3 release=$4
shift 4
table=$(mktemp) problems=$(mktemp)
trap 'rm -f "$table" "$problems"' EXIT

same=0
if [ "$mode" = write ] || grep -qF "nvcc $release," "$kept" 2>/dev/null; then
    same=1
fi

# The library's own launches have no dynamic shared memory.
launched() {
    local optim=liboffload/optim
    "$launches"
    sed -nE 's/^#define OPTIM_LANES +([0-9]+)u.*/optim_sum_kernel \1 0/p' $optim/update_math.h
    sed -nE -e 's/^#define NORM_THREADS +([0-9]+)u.*/optim_norm_kernel \1 0/p' \
        -e 's/^#define UPDATE_THREADS +([0-9]+)u.*/optim_adamw_kernel \1 0\noptim_adam_kernel \1 0\noptim_sgd_kernel \1 0\noptim_lion_kernel \1 0/p' $optim/optimizer_cuda.c
    sed -nE 's/^#define THREADS +([0-9]+)u.*/landing_blocks_kernel \1 0/p' liboffload/landing/landing_cuda.c
}

rows() {
    awk -v same="$same" -v problems="$problems" '
    # Of a multiprocessor: shared memory, threads, blocks ("Technical Specifications per Compute Capability" in the
    # CUDA C++ Programming Guide). 64 Ki registers, of which a warp takes whole 256; 1 KiB of each
    # block is the system'"'"'s, and the most that one may have is what then is left.
    BEGIN {
        split("80 164 2048 32 89 100 1536 24 90 228 2048 32 100 228 2048 32 120 100 1536 24", l, " ")
        for (i = 1; i <= 20; i += 4) { shared[l[i]] = l[i+1] * 1024; threads[l[i]] = l[i+2]; most[l[i]] = l[i+3] }
    }
    function problem(text) { print text >problems }
    function min(a, b) { return a < b ? a : b }
    FILENAME == "tools/gpu_spills.txt" { if ($1 !~ /^#/) { key = $1 " " $2; $1 = $2 = ""; sub(/^ +/, ""); reason[key] = $0 } next }
    FILENAME == "-" { asked[$1] = $2; dynamic[$1] = $3; next }
    FNR == 1 { arch = FILENAME; sub(/.*\.sm_/, "", arch); sub(/\..*/, "", arch); entry = "" }
    /^\.entry/ { entry = $2; bound[entry] = 0; claim[entry] = 0; next }
    /^\.maxntid/ { bound[entry] = $2 + 0; next }
    /^\.minnctapersm/ { claim[entry] = $2 + 0; next }
    /Compiling entry function/ { split($0, part, "\047"); name = part[2]; next }
    /bytes spill stores/ { stores = loads = 0; for (i = 3; i <= NF; i++) if ($i == "spill") { if ($(i+1) ~ /stores/) stores = $(i-2); else loads = $(i-2) } next }
    /Used [0-9]+ registers/ {
        static = 0
        for (i = 2; i <= NF; i++) { if ($i ~ /^registers/) regs = $(i-1); if ($i ~ /^smem/) static = $(i-2) }
        if (!(name in asked)) { problem(name ": tools/gpu_launches.c has no launch of it"); next }
        warps = int((asked[name] + 31) / 32)
        by_regs = int(int(16384 / (int((regs + 7) / 8) * 8 * 32)) * 4 / warps)
        bytes = int((static + dynamic[name] + 1024 + 127) / 128) * 128
        by_shared = int(shared[arch] / bytes)
        by_threads = min(int(threads[arch] / (warps * 32)), most[arch])
        fit = min(min(by_regs, by_shared), by_threads)
        where = name " on sm_" arch
        if (claim[name] > fit) problem(where ": bounds claim " claim[name] " blocks, " fit " fit")
        if (fit < 1) problem(where ": not one block fits")
        if (bound[name] && asked[name] > bound[name]) problem(where ": launched with " asked[name] " threads, bounds say " bound[name])
        spilled = stores + loads > 0
        if (spilled && !((name " " arch) in reason)) problem((same ? "" : "note: ") where ": spills, " stores " bytes stored and " loads " loaded")
        if (same && !spilled && (name " " arch) in reason) problem(where ": listed in tools/gpu_spills.txt, and does not spill")
        printf "%03d %s| %s | %d | %d | %s | %d | %d | %d | %d | %d | %d | %s |\n", arch, name, name, asked[name], regs,
            spilled ? stores " / " loads : "-", static, dynamic[name], by_regs, by_shared, by_threads, fit, claim[name] ? claim[name] : "-"
    }' tools/gpu_spills.txt - "$@" < <(launched) | LC_ALL=C sort
}

head='| kernel | threads | registers | spilled | static | dynamic | by registers | by shared | by threads | blocks | claimed |'
rule='|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|'
{
    echo "# What the CUDA kernels take of a GPU"
    echo
    cat <<END
Made by \`make gpu-resources\` with nvcc $release, from what the compiler reports: no GPU is needed. \`make check\` compares it.
Threads and dynamic shared memory (bytes of a block) are the most that any launch asks for; spilled: bytes stored / loaded.
Blocks: so many fit a multiprocessor, by its registers (64 Ki), by its shared memory (KiB: 164, 100, 228, 228, 100 on sm_80,
89, 90, 100, 120, less 1 for each block) and by its threads and slots for blocks; the least of these; what the launch bounds claim.
END
    last=
    while IFS= read -r row; do
        if [ "${row%% *}" != "$last" ]; then
            last=${row%% *}
            printf '\n## sm_%d\n%s\n%s\n' "$((10#$last))" "$head" "$rule"
        fi
        printf '|%s\n' "${row#*|}"
    done < <(rows "$@")
    printf '\n## Spills that stay\n'
    # shellcheck disable=SC2016  # Markdown's, not the shell's
    sed -nE 's/^([a-z][a-z0-9_]*) ([0-9]+) (.*)/- `\1`, sm_\2: \3/p' tools/gpu_spills.txt
    echo
    cat tools/gpu_notes.md
} >"$table"

status=0
cat "$problems"
if grep -qv '^note: ' "$problems"; then
    status=1
fi
if [ "$mode" = write ]; then
    cat "$table" >"$kept"
elif [ "$same" = 0 ]; then
    echo "$kept is not of nvcc $release: bounds checked only"
elif ! diff -u "$kept" "$table"; then
    echo "$kept differs: make gpu-resources"
    status=1
fi
exit $status
