/* sized: see sized.h. */
#include "base/sized.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"

int base_sized_read(void *to, size_t known, size_t least, const void *from, const char *what)
{
    size_t size;

    if (!from)
        return base_fail(-EINVAL, "%s: is NULL", what);
    memcpy(&size, from, sizeof size);
    if (size > BASE_SIZED_MAX)
        return base_fail(-EINVAL, "%s: size is %zu: no struct has that, it is to be set", what, size);
    if (size < least)
        return base_fail(-EINVAL, "%s: size is %zu, at least %zu is wanted", what, size, least);
    for (size_t i = known; i < size; i++)
        if (((const char *)from)[i])
            return base_fail(-E2BIG, "%s: %zu bytes, with fields set that this version (%zu bytes) lacks",
                             what, size, known);
    memset(to, 0, known);
    memcpy(to, from, size < known ? size : known);
    return 0;
}

int base_sized_write(void *to, const void *from, size_t known, const char *what)
{
    size_t size;

    if (!to)
        return base_fail(-EINVAL, "%s: is NULL", what);
    memcpy(&size, to, sizeof size);
    if (size < sizeof size || size > BASE_SIZED_MAX)
        return base_fail(-EINVAL, "%s: size is %zu: no struct has that, it is to be set", what, size);
    memset(to, 0, size);
    memcpy(to, from, size < known ? size : known);
    memcpy(to, &size, sizeof size);
    return 0;
}
