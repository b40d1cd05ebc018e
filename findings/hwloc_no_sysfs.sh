#!/bin/bash
# hwloc 2.9.0 (Debian 12): hwloc_topology_load succeeds where /sys is not mounted (a chroot, a small container), and
# writes a line to the program's stderr on the way. A guess would be that a library which returns a code says
# nothing, or that HWLOC_HIDE_ERRORS=1 keeps it quiet: only 2 does.
#
# Seen with 2.9.0-1: stderr has "failed to find sysfs cpu topology directory" unset and with 1, nothing with 2; exit
# status 0 each time. Exit 1 here if that changes; 77 where it can't be tried (needs root, for a mount of its own).
set -euo pipefail

version=2.9.0-1
[ "$(id -u)" = 0 ] || { echo 'needs root, to hide /sys in a mount namespace of its own'; exit 77; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download "hwloc=$version" "libhwloc15=$version" >/dev/null 2>&1 || { echo "no hwloc $version to be had"; exit 77; }
for package in *.deb; do dpkg -x "$package" x; done
libs=$(dirname "$(find x -name 'libhwloc.so.15' | head -n 1)")

count() { # value of HWLOC_HIDE_ERRORS, or nothing -> lines on stderr
    # shellcheck disable=SC2016  # $0 is the inner shell's
    unshare -m env ${1:+HWLOC_HIDE_ERRORS=$1} LD_LIBRARY_PATH="$work/$libs" sh -c \
        'mount -t tmpfs none /sys && exec "$0" -N core all' "$work/x/usr/bin/hwloc-calc" 2>err >cores || { cat err; exit 1; }
    [ "$(cat cores)" -ge 1 ]
    grep -c 'failed to find sysfs cpu topology' err || true
}

plain=$(count '') hidden=$(count 1) quiet=$(count 2)
echo "lines on stderr: $plain by default, $hidden with HWLOC_HIDE_ERRORS=1, $quiet with HWLOC_HIDE_ERRORS=2"
[ "$plain" -ge 1 ] && [ "$hidden" -ge 1 ] && [ "$quiet" -eq 0 ]
