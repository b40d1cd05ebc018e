/* The loss of ofl-finetune's model on texts that it does not train on. */
#include "examples/finetune.h"

int eval_run(struct state *s, const struct data *data, int32_t *inputs, int32_t *targets, double *loss)
{
    const struct options *o = s->options;
    uint64_t rows = o->accum * o->batch;
    char error[COMMON_ERROR_BYTES];
    double sum;
    int err;

    *loss = 0;
    for (uint64_t first = 0; first < data->rows; first += rows) {
        uint64_t n = data->rows - first < rows ? data->rows - first : rows;

        data_rows(data, first, n, inputs, targets);
        data_blank(data, rows - n, inputs + n * data->seq, targets + n * data->seq);
        err = llama_trainer_eval(s->trainer, inputs, targets, &sum, error, sizeof error);
        if (err < 0)
            return common_fail(common_status_late(err), "evaluate: %s", error);
        *loss += sum;
        common_progress("evaluating: %llu of %llu rows", (unsigned long long)(first + n),
                        (unsigned long long)data->rows);
        if (common_stopping())
            return EXIT_INTERRUPTED;
    }
    *loss /= (double)data->learned;
    common_progress_clear();
    return 0;
}
