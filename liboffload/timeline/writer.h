/*
 * writer: events as lines of a file in the trace event format (JSON) of Chromium, which Perfetto reads. Owns the
 * file and its tracks. An array of objects, one a line: a file that was cut short can be opened as well.
 *
 * Events of a track come as they end, several of them may be under way at once, and a track of the format holds
 * only what does not overlap: so a track here is as many of theirs ("lanes") as were needed. An event goes to the
 * first lane that was free when it began. Since all that the lane held before had ended by then, lanes are sorted
 * by time.
 */
#ifndef OFL_TIMELINE_WRITER_H
#define OFL_TIMELINE_WRITER_H

#include "liboffload/timeline/timeline.h"

struct timeline_writer;

/* -errno with the sentence. Times count from now on. */
int timeline_writer_open(const char *path, struct timeline_writer **out);
/* False: it can't be written any more, and is not from here on. */
bool timeline_writer_put(struct timeline_writer *w, const struct timeline *names,
                         const struct timeline_event *event);
/* What was put so far is in the file. */
void timeline_writer_flush(struct timeline_writer *w);
/* Ends the file, and says in it how many events it lacks. 0, or -errno of the first failure with the sentence. */
int timeline_writer_close(struct timeline_writer *w, uint64_t dropped);

#endif
