#!/bin/bash
# Proves where ofl-finetune puts a model: a mount point is filled, without lost+found in the way; a full file system and
# a name that another run has taken are refused before the first step; an interrupted run leaves nothing; of a killed
# one what is left says what it is; that --overwrite replaces a model once the new one is whole, and
# nothing else. Mounts are made in a namespace of their own.
set -uo pipefail

cd "$(dirname "$0")/.." || exit 1
. tests/script_fixture.bash out
[ -x "$bin/ofl-finetune" ] || { complain "$bin/ofl-finetune is not built"; finish; }

for _ in $(seq 40); do printf 'abcdefghijklmnopqrstuvwxyz'; done >"$work/text"
train=("$bin/ofl-finetune" --device host --preset tiny --data "$work/text" --seq 32)

# in_mount SIZE COMMAND: with a file system of that size at $work/volume.
mkdir "$work/volume" "$work/seen"
as_root=(unshare -m)
[ "$(id -u)" -eq 0 ] || as_root=(unshare -rm)
in_mount() {
    local size=$1
    shift
    limited "${as_root[@]}" bash -c "mount -t tmpfs -o size=$size tmpfs $(printf %q "$work/volume") || exit 99; $*"
}

in_mount 64M "mkdir $work/volume/lost+found; $(printf '%q ' "${train[@]}" --steps 2 --out "$work/volume") && cp -r $work/volume/. $work/seen"
if [ "$status" -eq 99 ] || grep -q 'unshare failed' "$work/err"; then
    echo "no mounts in a namespace here: mount points are not tried"
else
    wanted "a mount point"
    ls "$work/seen/model.safetensors" "$work/seen/config.json" >/dev/null || complain "the model is not in the mount point"
    [ -z "$(find "$work/seen" -name '.partial*')" ] || complain "a partial directory is left"
    in_mount 2M "$(printf '%q ' "${train[@]}" --steps 2 --out "$work/volume/m")"
    [ "$status" -eq 4 ] || complain "a full file system: exit status $status, not 4"
    grep -q 'reserve .*model.safetensors: [0-9]* bytes: No space left' "$work/err" || complain "a full file system is not named"
    ! grep -q '^step 1/' "$work/err" || complain "a full file system is found after the work"
fi

# A run without end, once it has done a step.
begin() {
    : >"$work/first" # what is awaited is not the log of the run before
    "${train[@]}" --steps 1000000 --out "$work/m" >"$work/first" 2>&1 &
    first=$!
    until_true $first grep -q '^step 1/' "$work/first" || complain "it ended before its first step"
}

# Two runs with one name: the first is stopped before its end.
begin
limited "${train[@]}" --steps 2 --out "$work/m"
[ "$status" -eq "$(refusal)" ] || complain "a name that is taken: exit status $status, not $(refusal)"
grep -q "$work/m: another run is about to write there" "$work/err" || complain "the other run is not named"
kill -INT $first
wait $first
[ ! -e "$work/m" ] || complain "an interrupted run leaves its directory"
[ -z "$(find "$work" -name 'm.partial-*')" ] || complain "an interrupted run leaves what it began"

begin
kill -KILL $first
wait $first 2>/dev/null
[ "$(find "$work" -name 'm.partial-*' | wc -l)" -eq 1 ] || complain "no sign of a killed run"
limited "${train[@]}" --steps 2 --out "$work/m"
wanted "the name of a killed run"
[ -s "$work/m/model.safetensors" ] || complain "no model under the name of a killed run"

# --overwrite. Until the new one is whole, the old one stays.
hash_of() { sha256sum <"$work/m/model.safetensors"; }
old=$(hash_of)
limited "${train[@]}" --steps 2 --out "$work/m"
[ "$status" -eq "$(refusal)" ] || complain "a model that is there: exit status $status, not $(refusal)"
says 'exists, and is not an empty directory; --overwrite replaces' "$work/err" "a model that is there"
ran='--overwrite and SIGINT'
: >"$work/first"
"${train[@]}" --steps 1000000 --out "$work/m" --overwrite >"$work/first" 2>&1 &
first=$!
until_true $first grep -q '^step 1/' "$work/first" || complain "it ended before its first step"
kill -INT $first
wait $first
[ "$(hash_of)" = "$old" ] || complain "an interrupted run has changed the model that was there"
touch "$work/m/model-00001-of-00002.safetensors" # of the old one
limited "${train[@]}" --steps 3 --seed 2 --out "$work/m" --overwrite
wanted "--overwrite"
[ "$(hash_of)" != "$old" ] || complain "--overwrite has left the old model"
[ ! -e "$work/m/model-00001-of-00002.safetensors" ] || complain "--overwrite has left a part of the old model"
[ "$(find "$work" -maxdepth 1 -name 'm.partial-*' | wc -l)" -eq 1 ] || complain "--overwrite leaves more than the killed run did"
# refuse WORDS ARGUMENT...: before the first step; all stays.
refuse() {
    local words=$1 before
    shift
    before=$(ls -R "$work/m")
    limited "${train[@]}" --steps 2 --out "$work/m" --overwrite "$@"
    [ "$status" -eq "$(refusal)" ] || complain "$words: exit status $status, not $(refusal)"
    says "$words" "$work/err" "--overwrite"
    ! grep -q '^step 1/' "$work/err" || complain "$words: found after the work"
    [ "$(ls -R "$work/m")" = "$before" ] || complain "$words: something is gone"
}
touch "$work/m/notes.odt"
refuse 'm: notes.odt in it is no part of a model'
rm "$work/m/notes.odt"
mkdir "$work/m/more.json"
refuse 'm: more.json in it is no part of a model'
rmdir "$work/m/more.json"
rm "$work/m/config.json"
refuse 'm: no model is there'
limited "${train[@]}" --steps 2 --overwrite
[ "$status" -eq "$(refusal)" ] || complain "--overwrite without --out: exit status $status, not $(refusal)"
limited "${train[@]}" --steps 2 --out "$work/m" --overwrite --store "$work/m"
says 'is --store itself' "$work/err" "--out and --store"
finish
