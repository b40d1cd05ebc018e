#!/bin/bash
# Installs the Debian packages that a build needs and this machine lacks. Says nothing when there is
# nothing to do. --ci: also what .ci/run needs beyond a build; --show: what make show does; --plan:
# what tools/plan_bytes.py does; --demo: where nobody has to be asked, what the demo's picture needs.
# --list: prints the packages of a build and a demo, --why PACKAGE...: what each is for; both install nothing.
# As root, or where sudo asks for no password, it installs; else it prints the command.
set -euo pipefail

optional=()
packages=(gcc g++ make pkg-config libc6-dev liburing-dev libhwloc-dev libnuma-dev libxxhash-dev libjansson-dev
    libopenblas-pthread-dev libcmocka-dev)

# why PACKAGE...: a line for each.
why() {
    local package what
    for package in "$@"; do
        case $package in
        gcc | make | pkg-config | libc6-dev) what="building" ;;
        g++) what="tests of the CUDA kernels, on the CPU" ;;
        liburing-dev) what="I/O by io_uring; without: threads, at more CPU time" ;;
        libhwloc-dev) what="drives, GPUs and NUMA nodes that are near each other; without: one node is assumed" ;;
        libnuma-dev) what="host memory on the node that is near; without: wherever the kernel puts it" ;;
        libxxhash-dev) what="the seal on every tile that goes to a drive" ;;
        libjansson-dev) what="checkpoints, configurations and reports: all JSON" ;;
        libopenblas-pthread-dev) what="matrix products of ofl-finetune and ofl-generate on the CPU" ;;
        libcmocka-dev) what="tests" ;;
        nvidia-cuda-toolkit) what="CUDA kernels, for NVIDIA GPUs" ;;
        ccache | clang | clang-format | libclang-rt-14-dev | shellcheck) what="builds and checks of .ci/run" ;;
        btrfs-progs | xfsprogs) what="tests on these file systems" ;;
        python3-dev) what="the Python package" ;;
        libopenmpi-dev | openmpi-bin) what="the example of gradients reduced over MPI" ;;
        python3-*) what="tools/plan_bytes.py" ;;
        librsvg2-bin) what="tests that look at pictures" ;;
        nvme-cli) what="the test that reads drives' own pages beside it" ;;
        strace) what="counting system calls" ;;
        fio) what="ofl-bench nvme --compare fio" ;;
        gnuplot-nox) what="pictures: of ofl-bench plot, and of make demo" ;;
        jq) what="make show's tables" ;;
        *) what="this compiler" ;;
        esac
        printf '    %-24s %s\n' "$package" "$what"
    done
}

case "${1-}" in
'') ;;
--why) why "${@:2}" && exit ;;
--list) printf '%s\n' "${packages[@]}" gnuplot-nox && exit ;;
--ci) packages+=(ccache clang clang-format libclang-rt-14-dev shellcheck strace fio gnuplot-nox librsvg2-bin nvme-cli btrfs-progs xfsprogs python3-dev libopenmpi-dev openmpi-bin) ;;
--show) packages+=(strace fio jq) ;;
--demo) optional+=(gnuplot-nox) ;;
--plan) packages+=(python3-numpy python3-scipy) ;;
*)
    echo "usage: tools/setup.sh [--ci|--show|--demo|--plan|--list|--why PACKAGE...]" >&2
    exit 2
    ;;
esac

# Elsewhere the names differ: the Makefile says which libraries are missing.
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || exit 0

installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p')
missing=()
free=0 # nobody has to be asked
if [ "$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }; then
    free=1
    packages+=("${optional[@]}")
fi
for package in "${packages[@]}"; do
    # pkgconf stands in for pkg-config.
    if ! grep -qxF -e "$package" <<<"$installed" &&
        ! { [ "$package" = pkg-config ] && grep -qxF pkgconf <<<"$installed"; }; then
        missing+=("$package")
    fi
done
[ ${#missing[@]} -gt 0 ] || exit 0

command="apt-get install -y --no-install-recommends ${missing[*]}"
if [ "$(id -u)" -eq 0 ]; then
    root=(env)
elif [ $free -eq 1 ]; then
    root=(sudo -n env)
else
    echo "These packages are missing:" >&2
    why "${missing[@]}" >&2
    echo "To install them:" >&2
    echo "    sudo $command" >&2
    command -v sudo >/dev/null && [ -t 0 ] && [ -t 2 ] || exit 1
    read -r -p "Run this now? [y/N] " answer
    [ "$answer" = y ] || exit 1
    root=(sudo env)
fi

apt() {
    local try
    for try in 1 2 3; do
        "${root[@]}" DEBIAN_FRONTEND=noninteractive apt-get -q -o Acquire::Retries=3 "$@" && return
        echo "setup: apt-get $1 failed, try $try of 3" >&2
        sleep $((try * 3))
    done
    return 1
}

echo "setup: installing ${missing[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# An update may fail in part, where one of several mirrors is down: the install decides.
apt update >"$log" 2>&1 || tail -n 5 "$log" >&2
if ! apt install -y --no-install-recommends "${missing[@]}" >"$log" 2>&1; then
    tail -n 30 "$log" >&2
    echo "setup: could not run: $command" >&2
    exit 1
fi
