/* common: opening a model's tokenizer. See common_tokenizer.h. */
#include "examples/common_tokenizer.h"

#include <stdio.h>
#include <sys/stat.h>

#include "examples/common.h"
#include "examples/common_memory.h"
#include "examples/model/gguf.h"
#include "examples/model/gguf_text.h"

/* What reading the file takes for a while: measured were 10 times its bytes with a vocabulary of 130,000. */
#define FILE_TIMES 12
#define KEPT_BYTES (16ull << 20) /* for the rest of the program */

/* Who runs out of memory is killed without a word. */
static int check_room(const char *path)
{
    struct common_room room;
    struct stat st;

    common_room(&room);
    if (stat(path, &st) < 0 || (uint64_t)st.st_size * FILE_TIMES + KEPT_BYTES <= room.bytes)
        return 0;
    return common_fail(
        EXIT_INPUT, "open %s: %llu bytes: reading it takes up to %d times that in memory for a while, but %s",
        path, (unsigned long long)st.st_size, FILE_TIMES, room.text);
}

int common_tokenizer_open(const char *dir, struct tokenizer **out)
{
    char path[4096], error[COMMON_ERROR_BYTES];
    int status, err;

    if (llama_gguf_is(dir)) {
        err = llama_gguf_tokenizer(dir, out, error, sizeof error);
        return err < 0 ? common_fail(common_status(err), "%s", error) : 0;
    }
    if (snprintf(path, sizeof path, "%s/tokenizer.json", dir) >= (int)sizeof path)
        return common_fail(EXIT_INPUT, "open %s: the path is too long", dir);
    status = check_room(path);
    if (status)
        return status;
    err = tokenizer_open(path, out, error, sizeof error);
    return err < 0 ? common_fail(common_status(err), "%s", error) : 0;
}
