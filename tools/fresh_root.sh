#!/bin/bash
# What README promises of a new machine: makes a Debian 12 that has `make` and `gcc`, clones this repository's HEAD into it, and runs
# `make demo` and `make check` there, as root and as an ordinary user. Prints the times of the four, and the tests passed, failed and
# skipped. Packages are fetched once: a later run, and all that runs in the root, is without network.
# Wants root, debootstrap and git. Whatever ends it, its root is removed; logs stay in BUILD_DIR/fresh.
#
#     tools/fresh_root.sh [OPTION...] [BUILD_DIR]
#
#     --only USER.GOAL   one of root.demo, root.check, user.demo, user.check; may be repeated (all four). What a user
#                        builds needs packages, which root's `make demo` installs: they are installed anyhow
#     --refetch          fetches the packages again
set -euo pipefail
cd "$(dirname "$0")/.."
tool=fresh_root
# shellcheck source=tools/debian_root.bash
. tools/debian_root.bash

usage() {
    sed -n '/^#     tools/,/^#     --refetch/s/^#  \{0,1\}//p' "$0" >&2
    exit 64
}

wanted=() refetch=0
while [[ ${1-} == --* ]]; do
    case $1 in
    --only)
        [[ ${2-} =~ ^(root|user)\.(demo|check)$ ]] || usage
        wanted+=("$2") && shift 2
        ;;
    --refetch) refetch=1 && shift ;;
    *) usage ;;
    esac
done
[ ${#wanted[@]} -gt 0 ] || wanted=(root.demo root.check user.demo user.check)
[ $# -le 1 ] || usage
build=${1:-build}
root_wants debootstrap git

logs=$build/fresh
base=$logs/base.tar
mkdir -p "$logs"
work=$(mktemp -d "$logs/root.XXXXXX")
trap 'root_remove "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
root=$work/root

# The root before anything was installed by us, with the files of the packages that will be.
fetch() {
    local -a list
    echo "== fetches a Debian 12 and the packages of a build"
    root_make "$root" make gcc
    root_run "$root" useradd --create-home --shell /bin/bash user
    mapfile -t list < <(tools/setup.sh --list)
    # shellcheck disable=SC2016  # expands there
    if ! root_run "$root" sh -c 'apt-get -q update && apt-get -q -y --no-install-recommends --download-only install "$@"' \
        fetch "${list[@]}" >"$work/apt.log" 2>&1; then
        tail -n 20 "$work/apt.log" >&2
        root_fail "packages could not be fetched"
    fi
    tar --one-file-system --numeric-owner -C "$root" -cf "$base.part" .
    mv "$base.part" "$base"
}

# In this root's own words: what USER's GOAL said is in the log.
run_goal() { # USER GOAL
    local home=/root status=0 start=$SECONDS log=$logs/$1-$2.log counts=
    [ "$1" = root ] || home=/home/$1
    root_run --offline --sys --user "$1" "$root" env ${OFL_DEMO_STEPS+OFL_DEMO_STEPS="$OFL_DEMO_STEPS"} \
        make -C "$home/liboffload" "$2" >"$log" 2>&1 || status=$?
    if [ "$2" = check ]; then
        counts=$(grep -E '^[0-9]+ passed, [0-9]+ failed, [0-9]+ skipped$' "$log" | tail -n 1 || true)
        counts=${counts:-no tests were counted}
    fi
    rows+=("$(printf '%-6s make %-6s %5d s  %-6s %s' "$1" "$2" $((SECONDS - start)) \
        "$([ $status -eq 0 ] && echo ok || echo FAILED)" "$counts")")
    echo "${rows[-1]}"
    [ $status -eq 0 ] || { tail -n 30 "$log" >&2 && failed=$((failed + 1)); }
}

[ $refetch -eq 0 ] || rm -f "$base"
if [ ! -e "$base" ]; then
    fetch
else
    mkdir "$root"
    tar --numeric-owner -C "$root" -xpf "$base"
fi
[ -z "$(git status --porcelain)" ] || echo "fresh_root: what is not committed is not in the clone" >&2
commit=$(git rev-parse --short HEAD)
git clone -q --no-hardlinks . "$root/root/liboffload"
git clone -q --no-hardlinks . "$root/home/user/liboffload"
root_run --offline "$root" chown -R user:user /home/user/liboffload

rows=() failed=0
# Without packages a user is told what to run.
if root_run --offline --sys --user user "$root" make -C /home/user/liboffload demo >"$logs/user-first.log" 2>&1 ||
    ! grep -q 'apt-get install -y --no-install-recommends .*libopenblas' "$logs/user-first.log"; then
    cat "$logs/user-first.log" >&2
    echo "fresh_root: a user without packages is not told how to install them" >&2
    failed=1
fi
[[ " ${wanted[*]} " == *" root."* ]] ||
    root_run --offline --sys "$root" /root/liboffload/tools/setup.sh --demo >"$logs/setup.log" 2>&1 ||
    root_fail "tools/setup.sh --demo failed: $logs/setup.log"
for goal in "${wanted[@]}"; do
    run_goal "${goal%.*}" "${goal#*.}"
done
printf '\n%s\n' "== $commit in a new Debian 12, $(nproc) cores; logs: $logs"
printf '%s\n' "${rows[@]}"
[ $failed -eq 0 ]
