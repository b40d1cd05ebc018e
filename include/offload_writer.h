/*
 * offload_writer: safetensors files, written. All tensors are named first; their bytes follow in the same order, from
 * memory or from tensors of a context, and only a piece of them is in memory at a time.
 *
 *     struct ofl_source_entry e[] = {{.name = "w", .dtype = OFL_BF16, .dims = 2, .shape = {4096, 1024}}, ...};
 *
 *     ofl_writer_open("model.safetensors", e, n, NULL, &w);
 *     ofl_writer_put_tensor(w, weight);                     or ofl_writer_put(w, bytes, count), as often as it takes
 *     ...
 *     err = ofl_writer_finish(w);
 *     ofl_writer_destroy(w);
 *
 * The room is taken when it is opened, so a full file system is found before the work. The header goes to disk last,
 * behind all the bytes: whatever ends the process before, the file is no safetensors file, and readers refuse it.
 * What has been written leaves the page cache as it goes.
 */
#ifndef OFFLOAD_WRITER_H
#define OFFLOAD_WRITER_H

#include "offload.h"

#ifdef __cplusplus
extern "C" {
#endif

struct ofl_writer;

/* any, one thread at a time for a writer, as all that follow. Creates path. Of each tensor name, dtype, dims and shape
 * are looked at. metadata: keys and values in turn, then NULL; NULL: none.
 * -EEXIST: path is there, or two tensors have one name; -EINVAL: a name that is no UTF-8 or "__metadata__", a dtype that
 * the format lacks, too many dimensions, a size that is not whole blocks; -ENOSPC, -EFBIG and other codes of files. */
OFL_API int ofl_writer_open(const char *path, const struct ofl_source_entry *tensors, size_t n,
                            const char *const *metadata, struct ofl_writer **out);
/* any. The next bytes. -EINVAL if they are more than the tensors have. After an error nothing more can be put. */
OFL_API int ofl_writer_put(struct ofl_writer *w, const void *buf, uint64_t bytes);
/* step thread of t's context. The next tensor's bytes are those of t: as ofl_tensor_read, with its errors. -EINVAL unless
 * all before it have been put, and it has t's dtype and bytes. */
OFL_API int ofl_writer_put_tensor(struct ofl_writer *w, struct ofl_tensor *t);
/* any. All is there: brings it to disk. From then on the file stays. -OFL_ESTATE: bytes are missing, or it was called
 * before. */
OFL_API int ofl_writer_finish(struct ofl_writer *w);
/* any. Removes the file, unless it was finished. NULL accepted. */
OFL_API void ofl_writer_destroy(struct ofl_writer *w);

#ifdef __cplusplus
}
#endif

#endif
