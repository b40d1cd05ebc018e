#!/bin/bash
# Installs the Debian packages that a build needs and this machine lacks. Says nothing when there is
# nothing to do. --ci: also what .ci/run needs beyond a build; --show: what make show does; --plan:
# what tools/plan_bytes.py does.
# As root, or where sudo asks for no password, it installs; else it prints the command.
set -euo pipefail

packages=(gcc g++ make pkg-config libc6-dev liburing-dev libhwloc-dev libnuma-dev libxxhash-dev libjansson-dev
    libopenblas-pthread-dev libcmocka-dev)
case "${1-}" in
'') ;;
--ci) packages+=(ccache clang clang-format libclang-rt-14-dev shellcheck strace fio gnuplot-nox librsvg2-bin nvme-cli btrfs-progs xfsprogs python3-dev) ;;
--show) packages+=(strace fio jq) ;;
--plan) packages+=(python3-numpy python3-scipy) ;;
*)
    echo "usage: tools/setup.sh [--ci|--show|--plan]" >&2
    exit 2
    ;;
esac

# Elsewhere the names differ: the Makefile says which libraries are missing.
command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || exit 0

installed=$(dpkg-query -W -f='${db:Status-Status} ${Package}\n' 2>/dev/null | sed -n 's/^installed //p')
missing=()
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
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    root=(sudo -n env)
else
    echo "These packages are missing. To install them:" >&2
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
