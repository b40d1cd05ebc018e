#!/bin/bash
# Builds the Debian packages, has lintian look at them, and installs them in a new Debian 12 that knows nothing of this
# tree: the programs run there with what apt installs for them, as an ordinary user; C programs are built by pkg-config alone, with
# the shared library and the archive; once they are removed nothing of them is left.
# Wants root, debootstrap, debhelper, lintian and the network.
#
#     tools/check_deb.sh [BUILD_DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
tool=check_deb
# shellcheck source=tools/debian_root.bash
. tools/debian_root.bash

build=${1:-build}
root_wants debootstrap lintian dh dpkg-buildpackage
tools/deb.sh "$build"
echo "== lintian"
lintian --fail-on error,warning --tag-display-limit 0 "$build"/deb/*.changes

work=$(mktemp -d "$build/deb-root.XXXXXX")
trap 'root_remove "$work"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
root=$work/root

fail() {
    echo "check_deb: $*" >&2
    exit 1
}

there() {
    root_run --sys "$root" "$@"
}

user() {
    root_run --offline --sys --user user "$root" "$@"
}

apt() {
    there env DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "$@" >"$work/apt.log" 2>&1 || {
        tail -n 20 "$work/apt.log" >&2
        fail "apt-get $* failed"
    }
}

packages() { # NAME...: paths there of the packages of these names
    local name
    for name in "$@"; do
        printf '/packages/%s\n' "$(basename "$build"/deb/"$name"_*.deb)"
    done
}

echo "== a Debian 12 without anything"
root_make "$root"
there useradd --create-home user
mkdir "$root/packages"
cp "$build"/deb/*.deb "$root/packages"
apt update
there sh -c 'find / -xdev ! -path "/var/*" ! -path "/packages/*" ! -path "/etc/ld.so.cache" | sort' >"$work/before"

echo "== liboffload-tools"
mapfile -t files < <(packages liboffload-tools)
apt install "${files[@]}"
user ofl-bench probe | tee "$work/probe" | head -n 12
grep -q io_uring "$work/probe" || fail "ofl-bench probe says nothing of io_uring"
cp README.md docs/tutorial.md "$root/home/user/"
user sh -c 'cd && cat *.md >text && mkdir scratch &&
    ofl-finetune --preset tiny --data text --seq 128 --batch 2 --steps 4 --device-mem 6M --host-mem 6M --nvme scratch --out model &&
    ofl-generate --model model --prompt "The " --max-tokens 8 --device-mem 4M --host-mem 2M' || fail "the programs do not run"
# Its lists of tensors are installed with it.
user sh -c 'cd && ofl-bench nvme --dir scratch --tensors mixed --size 64M --repeat 1 --time-s 0.2 >replayed && tail -n 3 replayed' ||
    fail "ofl-bench nvme --tensors does not run"

echo "== liboffload-dev"
mapfile -t files < <(packages liboffload0 liboffload-dev liboffload-doc)
apt install gcc libc6-dev pkg-config "${files[@]}"
# shellcheck disable=SC2016  # expands there
user sh -ec 'cd
    doc=/usr/share/doc/liboffload-doc
    sed "s|\"include/offload.h\"|<offload.h>|" $doc/examples/hello.c >hello.c
    gcc -Wall -Werror hello.c $(pkg-config --cflags --libs offload) -o hello
    gcc -Wall -Werror -O2 $doc/examples/mlp.c $(pkg-config --cflags --libs offload) -lm -o mlp
    ldd hello | grep liboffload.so.0
    ./hello
    ./mlp | tail -n 1
    test -s $doc/docs/tutorial.md
    test -s /usr/share/man/man3/ofl_open.3.gz' || fail "programs of others do not build or run"
echo "== the archive"
mapfile -t files < <(dpkg-deb -f "$build"/deb/liboffload-dev_*.deb Recommends | tr -d ' ' | tr ',' '\n')
apt install "${files[@]}"
# shellcheck disable=SC2016
user sh -ec 'cd
    gcc hello.c $(pkg-config --cflags offload) -Wl,-Bstatic -loffload -Wl,-Bdynamic $(pkg-config --static --libs offload |
        sed "s/-loffload//") -o hello-static
    ! ldd hello-static | grep liboffload
    ./hello-static' || fail "a program does not link with the archive"

echo "== removed"
apt purge --autoremove liboffload-tools liboffload0 liboffload-dev liboffload-doc gcc libc6-dev pkg-config "${files[@]}"
there sh -c 'find / -xdev ! -path "/var/*" ! -path "/packages/*" ! -path "/etc/ld.so.cache" | sort' >"$work/after"
left=$(comm -13 "$work/before" "$work/after" | grep -E 'offload|ofl' | grep -v '^/home/user' || true)
[ -z "$left" ] || fail "purged, and left: $left"
echo "check_deb: installed, used and removed"
