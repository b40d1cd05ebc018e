/*
 * Trials: see trial.h. The tool is a page that is mapped: a write past the page cache throws it
 * out, one through it doesn't, and mincore tells. A page that stays after it was written back and
 * given up has no other home.
 */
#include "io/trial.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"
#include "io/layout.h"

#define BLOCK_DEFAULT 4096u          /* every drive's logical block divides it */
#define BLOCK_MAX     (1024u * 1024) /* more than this is not an alignment but an error */
#define PLACES        8u             /* of a file that are tried for reading */

/* Of Linux 6.14: headers and C libraries may be older, the kernel's layout of struct statx is for good. */
#define DIO_ALIGN        0x00002000u
#define DIO_READ_ALIGN   0x00020000u
#define AT_DIO_MEM       0x98
#define AT_DIO_OFFSET    0x9c
#define AT_DIO_READ      0xb4
#define ATTRIBUTE_DAX    0x00200000u
#define POPULATE_WRITE   23 /* MADV_POPULATE_WRITE */
#define STATX_ROOM_BYTES 256u

/* ---- what the kernel tells ------------------------------------------------- */

union statx_room {
    struct statx st;
    unsigned char bytes[STATX_ROOM_BYTES];
};

static uint32_t field(const union statx_room *room, size_t at)
{
    uint32_t value;

    memcpy(&value, room->bytes + at, sizeof value);
    return value;
}

static bool look(int fd, unsigned mask, union statx_room *room)
{
    memset(room, 0, sizeof *room);
    return statx(fd, "", AT_EMPTY_PATH, mask, &room->st) == 0;
}

static uint32_t usable(uint32_t block)
{
    return block <= BLOCK_MAX && (block & (block - 1)) == 0 ? block : 0;
}

static uint32_t larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

void io_alignment_get(int fd, struct io_alignment *out)
{
    union statx_room room;
    uint32_t memory, write, read;

    *out = (struct io_alignment){.read = BLOCK_DEFAULT, .write = BLOCK_DEFAULT};
    if (!look(fd, DIO_ALIGN | DIO_READ_ALIGN, &room) || !(room.st.stx_mask & DIO_ALIGN))
        return;
    out->told = true;
    memory = field(&room, AT_DIO_MEM);
    write = field(&room, AT_DIO_OFFSET);
    read = room.st.stx_mask & DIO_READ_ALIGN ? field(&room, AT_DIO_READ) : 0;
    if (!read) /* it has no other than that of writes */
        read = write;
    out->write = memory && write ? usable(larger(memory, write)) : 0;
    out->read = memory && write ? usable(larger(memory, read)) : 0;
}

static bool is_dax(int fd)
{
    union statx_room room;

    return look(fd, STATX_TYPE, &room) && (room.st.stx_attributes & ATTRIBUTE_DAX) != 0;
}

/* ---- pages ------------------------------------------------------------------- */

/* Room in the file that is looked at, and buffers for it. */
struct sight {
    int fd;
    size_t page, bytes; /* bytes: whole pages and blocks */
    uint64_t at;
    void *map;    /* of the file */
    char *buffer; /* touched */
};

static void sight_close(struct sight *s)
{
    if (s->map != MAP_FAILED)
        munmap(s->map, s->bytes);
    free(s->buffer);
}

/* Without MAP_POPULATE, which reads the pages but never dies of one that can't be had, nothing is mapped yet. */
static bool sight_open(struct sight *s, int fd, uint32_t block, uint64_t at, int populate)
{
    long page = sysconf(_SC_PAGESIZE);

    *s = (struct sight){.fd = fd, .page = page > 0 ? (size_t)page : BLOCK_DEFAULT, .map = MAP_FAILED};
    s->bytes = block > s->page ? block : s->page;
    s->at = at - at % s->bytes;
    s->buffer = aligned_alloc(s->bytes, s->bytes);
    if (!s->buffer)
        return false;
    memset(s->buffer, 0x5a, s->bytes);
    s->map = mmap(NULL, s->bytes, PROT_READ, MAP_SHARED | populate, fd, (off_t)s->at);
    if (s->map != MAP_FAILED)
        return true;
    sight_close(s);
    return false;
}

static bool is_resident(const struct sight *s)
{
    unsigned char seen = 0;

    return mincore(s->map, s->page, &seen) == 0 && (seen & 1);
}

static void give_up_page(const struct sight *s)
{
    (void)posix_fadvise(s->fd, (off_t)s->at, (off_t)s->bytes, POSIX_FADV_DONTNEED);
}

static bool write_again(const struct sight *s)
{
    struct io_sigxfsz guard;
    ssize_t n;

    io_sigxfsz_block(&guard);
    n = pwrite(s->fd, s->buffer, s->bytes, (off_t)s->at);
    io_sigxfsz_restore(&guard);
    return n == (ssize_t)s->bytes;
}

/* ---- scratch files ---------------------------------------------------------------- */

/* Space for the trial, so that a mapped page is there. */
static bool make_room(int fd, size_t bytes)
{
    struct io_sigxfsz guard;
    bool done;

    io_sigxfsz_block(&guard);
    done = fallocate(fd, 0, 0, (off_t)bytes) == 0 ||
           ((errno == EOPNOTSUPP || errno == ENOSYS) && ftruncate(fd, (off_t)bytes) == 0);
    io_sigxfsz_restore(&guard);
    return done;
}

static enum io_answer answer(bool yes)
{
    return yes ? IO_YES : IO_NO;
}

/* The first write of reserved space may stay there even where the next one doesn't. */
static enum io_answer stays_in_place(const struct sight *s)
{
    uint64_t before, after;

    if (!write_again(s) || !io_layout_address(s->fd, &before) || !write_again(s) ||
        !io_layout_address(s->fd, &after))
        return IO_UNKNOWN;
    return answer(before == after);
}

static enum io_answer stays_in_memory(const struct sight *s, int flags)
{
    enum io_answer found = IO_UNKNOWN;

    if (fcntl(s->fd, F_SETFL, flags & ~O_DIRECT) < 0)
        return IO_UNKNOWN;
    if (write_again(s) && fdatasync(s->fd) == 0) {
        /* what is mapped would stay anywhere */
        (void)mmap(s->map, s->bytes, PROT_READ, MAP_SHARED | MAP_FIXED, s->fd, (off_t)s->at);
        give_up_page(s);
        found = answer(is_resident(s));
    }
    (void)fcntl(s->fd, F_SETFL, flags);
    return found;
}

/* Whether a read into memory that has no pages yet brings the file's pages into the cache. */
static enum io_answer caches_untouched(const struct sight *s)
{
    void *fresh = mmap(NULL, s->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    enum io_answer found = IO_UNKNOWN;

    if (fresh == MAP_FAILED)
        return IO_UNKNOWN;
    if (!is_resident(s) && pread(s->fd, fresh, s->bytes, (off_t)s->at) > 0)
        found = answer(is_resident(s));
    munmap(fresh, s->bytes);
    return found;
}

void io_trial_scratch(int fd, uint32_t block, struct io_trial *out)
{
    const int flags = fcntl(fd, F_GETFL);
    struct sight s;

    *out = (struct io_trial){0};
    if (flags < 0)
        return;
    if (make_room(fd, block > BLOCK_DEFAULT ? 2 * block : 65536u) &&
        sight_open(&s, fd, block, 0, MAP_POPULATE)) {
        if ((flags & O_DIRECT) && is_dax(fd))
            out->direct = IO_YES; /* it has no pages to be seen */
        else if ((flags & O_DIRECT) && is_resident(&s) && write_again(&s))
            out->direct = answer(!is_resident(&s));
        out->in_place = stays_in_place(&s);
        if (out->direct == IO_YES)
            out->touch_first = caches_untouched(&s);
        else
            out->in_memory = stays_in_memory(&s, flags);
        if (out->direct == IO_YES)
            out->in_memory = IO_NO;
        sight_close(&s);
    }
    /* should this fail, some blocks are reserved ahead */
    if (ftruncate(fd, 0) < 0)
        out->in_place = IO_UNKNOWN;
}

/* ---- files of others ------------------------------------------------------------------ */

/* Whether mincore tells the truth: of files that one may not write it says that all is there. */
static bool mincore_tells(int fd, uint64_t bytes)
{
    struct sight s;
    bool tells;

    /* a page behind the end is nowhere */
    if (!sight_open(&s, fd, BLOCK_DEFAULT, bytes + (1u << 20), 0))
        return false;
    tells = !is_resident(&s);
    sight_close(&s);
    return tells;
}

/* One place; in_memory: the page can't be had away. */
static void try_place(struct sight *s, struct io_trial *out)
{
    if (is_resident(s))
        give_up_page(s);
    if (is_resident(s)) {
        out->in_memory = IO_YES; /* or others hold it there: see the other places */
        return;
    }
    out->in_memory = IO_NO;
    if (pread(s->fd, s->buffer, s->bytes, (off_t)s->at) > 0)
        out->direct = answer(!is_resident(s));
    if (out->direct == IO_YES)
        out->touch_first = caches_untouched(s);
}

void io_trial_read(int fd, uint32_t block, struct io_trial *out)
{
    struct sight s;
    struct stat st;
    uint64_t bytes;

    *out = (struct io_trial){0};
    if (fstat(fd, &st) < 0 || st.st_size <= 0)
        return;
    bytes = (uint64_t)st.st_size;
    if (!mincore_tells(fd, bytes)) {
        /* A drive's blocks bind direct I/O; who isn't bound by them doesn't reach it, or can't be trusted to. */
        if (sight_open(&s, fd, block, 0, 0)) {
            if (pread(fd, s.buffer + 1, s.bytes - 512, 0) < 0 && errno == EINVAL)
                out->direct = IO_YES;
            sight_close(&s);
        }
        return;
    }
    for (unsigned i = 0; i < PLACES && out->direct == IO_UNKNOWN; i++) {
        if (!sight_open(&s, fd, block, bytes / PLACES * i, 0))
            return;
        try_place(&s, out);
        sight_close(&s);
    }
}
