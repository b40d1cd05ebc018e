#!/bin/bash
# Builds the Debian packages of debian/ from a copy of the tree, in BUILD_DIR/deb: nothing is written beside the sources.
# Suites are not run (make check does), unless DEB_BUILD_OPTIONS is set, if to nothing.
#
#     tools/deb.sh [BUILD_DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
build=${1:-build}

fail() {
    echo "deb: $*" >&2
    exit 1
}

for program in dpkg-buildpackage dh; do
    command -v $program >/dev/null || fail "$program is missing. On Debian: apt-get install dpkg-dev debhelper"
done
header=$(sed -n 's/^.define OFL_VERSION_[MP][A-Z]* \([0-9]*\)$/\1/p' include/offload.h | paste -sd.)
version=$(dpkg-parsechangelog -S Version)
[ "$version" = "$header" ] || fail "debian/changelog says $version, include/offload.h $header: dch -v $header"
soversion=$(sed -n 's/^SOVERSION := //p' Makefile)
grep -qx "Package: liboffload$soversion" debian/control ||
    fail "the Makefile's SOVERSION is $soversion, and debian/control has no liboffload$soversion"

at=$build/deb
source=$at/liboffload-$version
rm -rf "$at"
mkdir -p "$source"
tar --exclude=./.git --exclude='./build' --exclude='./build-*' --exclude=__pycache__ -cf - . | tar -xf - -C "$source"
log=$at/build.log
status=0
# Not with what the make that runs this was told: a build of packages has its own flags.
(cd "$source" && env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL DEB_BUILD_OPTIONS="${DEB_BUILD_OPTIONS-nocheck parallel=$(nproc)}" \
    dpkg-buildpackage --no-sign --build=binary) >"$log" 2>&1 || status=$?
if [ $status -ne 0 ]; then
    tail -n 30 "$log" >&2
    fail "dpkg-buildpackage ended with $status; all that it said: $log"
fi
rm -rf "$source"
ls -1 "$at"/*.deb
