#!/bin/bash
# Makes a folder with the libraries that a build needs, for a machine with a GPU but without
# network and packages: headers, pkg-config files, libraries and what those load. They are taken
# from Debian's or Ubuntu's packages on this machine, which needs network; the other one needs
# the same processor architecture and a glibc that is as new or newer, gcc and make.
#
#     tools/gpu_sysroot.sh DIR      DIR must not exist
#
# It can be moved. There, `make OFL_SYSROOT=DIR ...` uses it (tools/gpu.mk).
set -euo pipefail

packages=(
    liburing-dev liburing2 libhwloc-dev libhwloc15 libnuma-dev libnuma1 libxxhash-dev libxxhash0
    libjansson-dev libjansson4 libopenblas-pthread-dev libopenblas0-pthread
    libcmocka-dev libcmocka0
    libgfortran5 libquadmath0 libudev1 # loaded by openblas and hwloc
    pkgconf pkgconf-bin libpkgconf3
)

[ $# -eq 1 ] || {
    echo "usage: tools/gpu_sysroot.sh DIR" >&2
    exit 2
}
if [ -e "$1" ]; then
    echo "gpu_sysroot: $1 is there already" >&2
    exit 2
fi
for tool in apt-get dpkg dpkg-architecture; do
    command -v "$tool" >/dev/null || {
        echo "gpu_sysroot: no $tool: this needs Debian or Ubuntu with dpkg-dev" >&2
        exit 1
    }
done
triplet=$(dpkg-architecture -qDEB_HOST_MULTIARCH)
mkdir -p "$1"
root=$(cd "$1" && pwd)
debs=$(mktemp -d)
done=
trap 'rm -rf "$debs"; [ -n "$done" ] || rm -rf "$root"' EXIT

echo "gpu_sysroot: downloading ${#packages[@]} packages" >&2
chmod 755 "$debs" # apt drops its privileges
(cd "$debs" && apt-get -q -o Acquire::Retries=3 download "${packages[@]}" >log 2>&1) || {
    cat "$debs/log" >&2
    echo "gpu_sysroot: apt-get download failed; is 'apt-get update' needed?" >&2
    exit 1
}
for deb in "$debs"/*.deb; do
    dpkg -x "$deb" "$root"
done

# What a build does not need: static libraries (openblas's is 50 MB), words, tests.
rm -rf "${root:?}"/{etc,var,usr/share,usr/libexec,usr/lib/udev}
find "$root" -name '*.a' -delete

# Some packages have their library in /lib, with a link from /usr/lib.
lib=$root/usr/lib/$triplet
if [ -d "$root/lib/$triplet" ] && [ ! -L "$root/lib" ]; then
    cp -a "$root/lib/$triplet/." "$lib/"
    rm -rf "${root:?}/lib"
fi
find "$lib" -maxdepth 1 -type l -lname '/lib/*' -print0 | while IFS= read -r -d '' link; do
    ln -sf "$(basename "$(readlink "$link")")" "$link"
done

# What update-alternatives would link.
ln -sf openblas-pthread/libopenblas.so.0 "$lib/libopenblas.so.0"
ln -sf libopenblas.so.0 "$lib/libopenblas.so"
ln -sf ../openblas-pthread/pkgconfig/openblas.pc "$lib/pkgconfig/openblas.pc"
[ -e "$lib/pkgconfig/openblas.pc" ] || {
    echo "gpu_sysroot: openblas.pc is not where it was expected: $(find "$lib" -name '*openblas*.pc')" >&2
    exit 1
}
ln -sf pkgconf "$root/usr/bin/pkg-config"

# Paths from the place of each file, so that the folder can be moved. openblas's real file lies
# as deep in openblas-pthread/ as its link in pkgconfig/ would be one folder up: a copy instead.
cp --remove-destination "$lib/openblas-pthread/pkgconfig/openblas.pc" "$lib/pkgconfig/openblas.pc"
# shellcheck disable=SC2016
sed -i -E 's#(=|-I|-L)/usr(/|$)#\1${pcfiledir}/../../..\2#g' "$lib"/pkgconfig/*.pc

missing=0
for library in "$lib"/lib{uring,hwloc,numa,xxhash,jansson,openblas,cmocka}.so; do
    [ -e "$library" ] || {
        echo "gpu_sysroot: no $library" >&2
        missing=1
    }
    if LD_LIBRARY_PATH=$lib ldd "$library" 2>&1 | grep 'not found' >&2; then missing=1; fi
done
[ "$missing" -eq 0 ] || exit 1
done=1

cat <<WORDS
$root: $(du -sh "$root" | cut -f 1), to be packed with
    tar -C $(dirname "$root") -czf sysroot.tar.gz $(basename "$root")
On the other machine, with the folder's full path there:
    make OFL_SYSROOT=/path/to/$(basename "$root") all tests
    make OFL_SYSROOT=/path/to/$(basename "$root") gpu-check gpu-bench
or, for other builds:
    export PATH=\$OFL_SYSROOT/usr/bin:\$PATH
    export PKG_CONFIG_LIBDIR=\$OFL_SYSROOT/usr/lib/$triplet/pkgconfig
    export LIBRARY_PATH=\$OFL_SYSROOT/usr/lib/$triplet LD_LIBRARY_PATH=\$OFL_SYSROOT/usr/lib/$triplet
WORDS
