# A Debian 12 in a folder, for scripts that want a machine with nothing installed: made by debootstrap, entered in
# namespaces of its own, which take mounts and processes with them however they end, and removed without leaving its file
# system. Nothing outside of the folder is written. Wants root and, where packages are fetched, the network.
# A script sets `tool`, its name in messages, and calls root_remove, or root_stop, when it ends.

root_child=

root_fail() {
    echo "${tool:-debian_root}: $*" >&2
    exit 2
}

# root_wants PROGRAM...: all that is missing in one sentence.
root_wants() {
    local program
    local -a missing=()
    [ "$(id -u)" -eq 0 ] || root_fail "wants root, for debootstrap and chroot"
    for program in "$@"; do
        command -v "$program" >/dev/null || missing+=("$program")
    done
    [ ${#missing[@]} -eq 0 ] || root_fail "missing: ${missing[*]}. On Debian: apt-get install ${missing[*]}"
}

# In the background, so that a signal to the script is acted on at once. bash stays, as the process that waits for
# orphans. root_stop ends all in it.
root_unshare() { # [--net] SCRIPT ARGUMENT...
    local -a net=()
    local status=0
    [ "$1" != --net ] || { net=(--net) && shift; }
    unshare --mount --pid --fork --kill-child "${net[@]}" bash -ec "$@" </dev/null &
    root_child=$!
    wait "$root_child" || status=$?
    root_child=
    return $status
}

root_stop() {
    [ -n "$root_child" ] || return 0
    kill -KILL "$root_child" 2>/dev/null || true
    wait "$root_child" 2>/dev/null || true
    root_child=
}

# root_make DIR [PACKAGE...]: a Debian 12 with these packages beside the least one; the way to others is this machine's.
root_make() {
    local root=$1 mirror packages
    packages=$(IFS=, && echo "${*:2}")
    mirror=$(grep -rhoE 'https?://[^ ]+/debian/?( |$)' /etc/apt/sources.list /etc/apt/sources.list.d 2>/dev/null | head -n 1 || true)
    # What it mounts on its way goes with the namespace.
    # shellcheck disable=SC2016  # expands in the shell that it is given to
    root_unshare 'debootstrap "$@"; exit' debootstrap --variant=minbase ${packages:+--include="$packages"} bookworm "$root" \
        "${mirror:-http://deb.debian.org/debian}" >"$root.log" 2>&1 || {
        tail -n 20 "$root.log" >&2
        root_fail "debootstrap could not make $root"
    }
    rm "$root.log"
    cp -L /etc/resolv.conf "$root/etc/"
    grep -hs -i proxy /etc/apt/apt.conf.d/* /etc/apt/apt.conf >"$root/etc/apt/apt.conf.d/proxy" || true
}

# root_run [--offline] [--sys] [--user NAME] DIR COMMAND...: runs it there, with nothing of this environment. /proc shows what
# runs in it, /dev has what programs need and no drive; --sys: /sys, read only; --offline: no network.
root_run() {
    local sys=0 user=root home=/root root
    local -a net=()
    while [[ $1 == --* ]]; do
        case $1 in
        --offline) net=(--net) ;;
        --sys) sys=1 ;;
        --user) user=$2 home=/home/$2 && shift ;;
        esac
        shift
    done
    root=$1
    shift
    # shellcheck disable=SC2016  # expands in the shell that it is given to
    local script='
        root=$1 sys=$2 user=$3 home=$4
        shift 4
        mount --make-rprivate /
        mount -t proc -o nosuid,nodev,noexec proc "$root/proc"
        mount -t tmpfs -o mode=755 tmpfs "$root/dev"
        mknod -m 666 "$root/dev/null" c 1 3; mknod -m 666 "$root/dev/zero" c 1 5
        mknod -m 666 "$root/dev/full" c 1 7; mknod -m 666 "$root/dev/random" c 1 8
        mknod -m 666 "$root/dev/urandom" c 1 9; mknod -m 666 "$root/dev/tty" c 5 0
        mkdir "$root/dev/shm" "$root/dev/pts"
        ln -s /proc/self/fd "$root/dev/fd"
        ln -s fd/0 "$root/dev/stdin"; ln -s fd/1 "$root/dev/stdout"; ln -s fd/2 "$root/dev/stderr"
        mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
        mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$root/dev/pts"
        ln -s pts/ptmx "$root/dev/ptmx"
        if [ "$sys" -eq 1 ]; then
            mount --rbind /sys "$root/sys"
            # What is mounted below it, too: cgroups are not of this root.
            below=$(cd "$root/sys" && pwd -P)
            awk -v below="$below" "\$5 == below || index(\$5, below \"/\") == 1 { print \$5 }" /proc/self/mountinfo |
                while read -r at; do mount -o remount,bind,ro "$at"; done
        fi
        as=()
        [ "$user" = root ] || as=(setpriv --reuid "$user" --regid "$user" --init-groups)
        chroot "$root" env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME="$home" USER="$user" \
            LOGNAME="$user" LANG=C.UTF-8 "${as[@]}" "$@" || exit'
    root_unshare "${net[@]}" "$script" root_run "$root" $sys "$user" "$home" "$@"
}

# root_remove DIR: never what is mounted below it, nor what is no root.
root_remove() {
    local root
    root_stop
    [ -d "$1" ] || return 0
    root=$(cd "$1" && pwd -P)
    if [ "$root" = / ] || awk -v below="$root/" 'index($5 "/", below) == 1 { found = 1 } END { exit !found }' /proc/self/mountinfo; then
        echo "${tool:-debian_root}: $root is left: something is mounted in it" >&2
        return 1
    fi
    rm -rf --one-file-system -- "$root"
}
