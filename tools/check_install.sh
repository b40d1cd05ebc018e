#!/bin/bash
# Installs into a new folder, and proves that programs which know nothing but pkg-config can use what is there: as C99 and
# as C++11, with the shared library and with the archive, which shows ofl_ names alone; uninstall leaves no file.
#
#     tools/check_install.sh [ARGUMENT OF MAKE...]
set -euo pipefail
cd "$(dirname "$0")/.."

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
at=$root/opt/offload
export PKG_CONFIG_PATH=$at/lib/pkgconfig

fail() {
    echo "check_install: $*"
    exit 1
}

flags() {
    pkg-config --define-prefix "$@" offload
}

# Valid in both languages, without a warning. A name that the library has inside is the program's here.
program() {
    printf '#include <%s>\n' "$(cd "$at/include" && printf '%s\n' *.h | paste -sd' ' | sed 's/ />\n#include </g')"
    cat <<'END'
#include <stdio.h>
#include <string.h>

#ifdef __cplusplus
/* No function has a struct's name, which would then need that word before it. */
static void named(void)
{
END
    sed -n 's/^struct \(ofl_[a-z0-9_]*\).*[{;]$/    (void)sizeof(\1 *);/p; s/^enum \(ofl_[a-z0-9_]*\) {.*/    (void)sizeof(\1);/p' include/*.h | sort -u
    cat <<'END'
}
#endif

const char *base_error_text(void);
const char *base_error_text(void)
{
    return "the program's own";
}

int main(void)
{
    struct ofl_config config;
    struct ofl_tensor_desc desc;
    struct ofl_device_info info;
    struct ofl_ctx *ctx;
    struct ofl_tensor *t;
    float put = 3, got = 0;

#ifdef __cplusplus
    named();
#endif
    memset(&config, 0, sizeof config);
    memset(&desc, 0, sizeof desc);
    info.size = sizeof info;
    config.size = sizeof config;
    config.device_bytes = 1 << 20;
    config.host_bytes = OFL_HOST_MIN_BYTES;
    desc.size = sizeof desc;
    desc.name = "t";
    desc.dtype = OFL_F32;
    desc.elems = 1;
    if (ofl_device_info_get("host", &info) < 0 || ofl_open(&config, &ctx) < 0 ||
        ofl_tensor_create(ctx, &desc, &t) < 0 || ofl_tensor_write(t, 0, &put, sizeof put) < 0 ||
        ofl_tensor_read(t, 0, &got, sizeof got) < 0 || ofl_close(ctx) < 0 || got != put) {
        printf("%s\n", ofl_error());
        return 1;
    }
    if (ofl_open(NULL, &ctx) >= 0 || !strstr(ofl_error(), "is NULL"))
        return 2;
    printf("%s, %s\n", info.device, base_error_text());
    return 0;
}
END
}

# compile NAME: both programs, as NAME-c and NAME-c++, with the rest as flags of the linker.
compile() {
    local name=$1 cflags
    shift
    cflags=$(flags --cflags)
    # shellcheck disable=SC2086  # several flags
    gcc -std=c99 -pedantic -Wall -Wextra -Werror $cflags "$root/program.c" -o "$root/$name-c" "$@"
    # shellcheck disable=SC2086
    g++ -std=c++11 -pedantic -Wall -Wextra -Werror $cflags -x c++ "$root/program.c" -x none -o "$root/$name-c++" "$@"
}

# expect PROGRAM WANTED: runs it; WANTED: whether the shared library is what it takes.
expect() {
    local library said
    library=$(LD_LIBRARY_PATH=$at/lib ldd "$root/$1" | grep -c liboffload || true)
    [ "$library" -eq "$2" ] || fail "$1 is linked with $library shared liboffload, not $2"
    said=$(LD_LIBRARY_PATH=$at/lib "$root/$1") || fail "$1 ends with $?: $said"
    [ "$said" = "host, the program's own" ] || fail "$1 says: $said"
    echo "$1: $said"
}

hello() {
    sed 's|"include/offload.h"|<offload.h>|' examples/hello.c >"$root/hello.c"
    # shellcheck disable=SC2046  # several flags
    gcc -D_GNU_SOURCE $(flags --cflags) "$root/hello.c" -o "$root/hello" "${shared[@]}" -pthread -lm
    # As docs/tutorial.md has it.
    # shellcheck disable=SC2046
    cc -O2 examples/mlp.c $(flags --cflags --libs) -lm -o "$root/mlp"
    LD_LIBRARY_PATH=$at/lib "$root/mlp" | grep '^step 60 loss' || fail "examples/mlp.c does not train"
}

make install DESTDIR="$root" PREFIX=/opt/offload "$@" >/dev/null
program >"$root/program.c"

others=$(nm -g --defined-only "$at/lib/liboffload.a" | awk 'NF == 3 && $3 !~ /^ofl_/ { print $3 }')
[ -z "$others" ] || fail "liboffload.a shows $(wc -w <<<"$others") names that are not public: $(head -n 5 <<<"$others" | paste -sd' ')"
nm -g --defined-only "$at/lib/liboffload.a" | grep -q ' T ofl_open$' || fail "liboffload.a has no ofl_open"

for name in $(tools/man_pages.sh --list); do
    [ -s "$at/share/man/man3/$name.3" ] || fail "no man page $name.3"
done

read -r -a shared < <(flags --libs)
compile shared "${shared[@]}"
expect shared-c 1
expect shared-c++ 1

hello

# Without the shared library pkg-config's own words have to do.
mkdir "$root/away"
mv "$at"/lib/liboffload.so* "$root/away"
read -r -a static < <(flags --static --libs)
compile static "${static[@]}"
expect static-c 0
expect static-c++ 0
mv "$root/away"/* "$at/lib"

make uninstall DESTDIR="$root" PREFIX=/opt/offload "$@" >/dev/null
left=$(find "$root/opt" ! -type d)
[ -z "$left" ] || fail "uninstall left: $left"
echo "check_install: C99 and C++11, shared and static"
