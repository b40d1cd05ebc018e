/*
 * mlp: a trainer of one's own, on the public header of liboffload alone. docs/tutorial.md goes through it.
 * A perceptron learns a fixed function, to the same losses whatever the budgets are.
 *
 *     mlp [DEVICE [HOST [DIR [TIMELINE]]]]     budgets in MiB; DIR: a directory on a drive
 */
#include <math.h>
#include <offload.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 8, INPUTS = 4, WIDTH = 256, BATCH = 32, STEPS = 60 };

struct layer {
    unsigned in, out;
    struct ofl_tensor *w, *g;  /* in + 1 rows of out numbers, the last row is the bias; its gradient */
    struct ofl_tensor *x, *dx; /* what goes into the layer, BATCH rows of in numbers; its gradient */
};

/* What a kernel works on. It runs later, on the stream's thread: this must live until ofl_stream_sync. */
struct job {
    const struct layer *l;
    const float *w, *x, *dy;
    float *y, *g, *dx;
};

static struct ofl_ctx *ctx;
static struct ofl_stream *stream;
static struct ofl_optimizer *adamw;
static struct layer layers[LAYERS + 1]; /* behind the last one is what it predicts, as x */
static struct job forward_jobs[LAYERS], backward_jobs[LAYERS], loss_job;
static uint64_t state = 1; /* of the random numbers */
static float inputs[BATCH][INPUTS], targets[BATCH], loss;

static void check(int err)
{
    if (err < 0) {
        fprintf(stderr, "mlp: %s\n", ofl_error());
        exit(1);
    }
}

/* From -1 to 1, the same numbers in each run. */
static float number(void)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (float)(state >> 40) * 0x1p-23f - 1;
}

/* Random inputs; to be learned is the larger one of a sum and a difference. */
static void make_batch(void)
{
    for (unsigned b = 0; b < BATCH; b++) {
        for (unsigned i = 0; i < INPUTS; i++)
            inputs[b][i] = number();
        targets[b] = fmaxf(inputs[b][0] + inputs[b][1], inputs[b][2] - inputs[b][3]);
    }
}

/* A kernel: runs on the stream, when the bytes are there. */
static void forward(void *arg)
{
    const struct job *j = arg;
    unsigned in = j->l->in, out = j->l->out;

    for (unsigned b = 0; b < BATCH; b++) {
        float *y = j->y + b * out;

        memcpy(y, j->w + in * out, out * sizeof *y); /* the bias */
        for (unsigned i = 0; i < in; i++)
            for (unsigned o = 0; o < out; o++)
                y[o] += j->x[b * in + i] * j->w[i * out + o];
        for (unsigned o = 0; out > 1 && o < out; o++) /* ReLU, but not of the prediction */
            y[o] = y[o] > 0 ? y[o] : 0;
    }
}

/* Mean of squares, and its gradient. */
static void square_loss(void *arg)
{
    const struct job *j = arg;

    loss = 0;
    for (unsigned b = 0; b < BATCH; b++) {
        j->dx[b] = 2 * (j->x[b] - targets[b]) / BATCH;
        loss += (j->x[b] - targets[b]) * (j->x[b] - targets[b]) / BATCH;
    }
}

static void backward(void *arg)
{
    const struct job *j = arg;
    unsigned in = j->l->in, out = j->l->out;

    memset(j->g, 0, (in + 1) * out * sizeof *j->g);
    for (unsigned b = 0; b < BATCH; b++) {
        const float *x = j->x + b * in, *dy = j->dy + b * out;

        for (unsigned i = 0; i <= in; i++)
            for (unsigned o = 0; o < out; o++)
                j->g[i * out + o] += (i < in ? x[i] : 1) * dy[o];
        for (unsigned i = 0; j->dx && i < in; i++) {
            j->dx[b * in + i] = 0;
            for (unsigned o = 0; x[i] > 0 && o < out; o++) /* x came out of a ReLU */
                j->dx[b * in + i] += j->w[i * out + o] * dy[o];
        }
    }
}

static void make(struct ofl_tensor **t, const char *what, unsigned layer, enum ofl_kind kind, unsigned n)
{
    char name[32];
    struct ofl_tensor_desc d = {.size = sizeof d, .name = name, .kind = kind, .dtype = OFL_F32, .elems = n};

    snprintf(name, sizeof name, "layer %u %s", layer, what);
    check(ofl_tensor_create(ctx, &d, t));
}

static void make_layer(unsigned n)
{
    static float w[(WIDTH + 1) * WIDTH];
    struct layer *l = &layers[n];
    unsigned elems;

    *l = (struct layer){.in = n == 0 ? INPUTS : n == LAYERS ? 1 : WIDTH, .out = n + 1 < LAYERS ? WIDTH : 1};
    make(&l->x, "input", n, OFL_KIND_ACTIVATION, BATCH * l->in);
    if (n > 0)
        make(&l->dx, "input gradient", n, OFL_KIND_ACTIVATION, BATCH * l->in);
    if (n == LAYERS)
        return;
    elems = (l->in + 1) * l->out;
    make(&l->w, "weight", n, OFL_KIND_WEIGHT, elems);
    make(&l->g, "gradient", n, OFL_KIND_GRADIENT, elems);
    for (unsigned i = 0; i < elems; i++)
        w[i] = i < l->in * l->out ? number() * sqrtf(6.0f / (float)l->in) : 0;
    check(ofl_tensor_write(l->w, 0, w, elems * sizeof *w));
    check(ofl_optimizer_bind(adamw, l->w, l->g));
}

static struct ofl_lease lease(struct ofl_tensor *t, enum ofl_mode mode, unsigned flags)
{
    return (struct ofl_lease){.size = sizeof(struct ofl_lease), .tensor = t, .mode = mode, .flags = flags};
}

static void run_forward(unsigned n)
{
    struct layer *l = &layers[n];
    struct ofl_lease a[] = {lease(l->w, OFL_READ, 0), lease(l->x, OFL_READ, 0),
                            lease(l[1].x, OFL_OVERWRITE, 0)};

    check(ofl_acquire(ctx, a, 3, stream)); /* returns at once: the stream waits for bytes, not we */
    forward_jobs[n] = (struct job){.l = l, .w = a[0].ptr, .x = a[1].ptr, .y = a[2].ptr};
    check(ofl_stream_launch(stream, forward, &forward_jobs[n]));
    check(ofl_release(ctx, a, 3, stream)); /* takes effect behind the kernel */
}

static void run_loss(void)
{
    struct layer *l = &layers[LAYERS];
    struct ofl_lease a[] = {lease(l->x, OFL_READ, OFL_LEASE_DROP), lease(l->dx, OFL_OVERWRITE, 0)};

    check(ofl_acquire(ctx, a, 2, stream));
    loss_job = (struct job){.x = a[0].ptr, .dx = a[1].ptr};
    check(ofl_stream_launch(stream, square_loss, &loss_job));
    check(ofl_release(ctx, a, 2, stream));
}

static void run_backward(unsigned n)
{
    struct layer *l = &layers[n];
    struct ofl_lease a[] = {lease(l->w, OFL_READ, 0), lease(l->x, OFL_READ, OFL_LEASE_DROP),
                            lease(l[1].dx, OFL_READ, OFL_LEASE_DROP), lease(l->g, OFL_OVERWRITE, 0),
                            lease(l->dx, OFL_OVERWRITE, 0)};
    unsigned count = n > 0 ? 5 : 4; /* nobody asks for the gradient of the batch */

    check(ofl_acquire(ctx, a, count, stream));
    backward_jobs[n] =
        (struct job){.l = l, .w = a[0].ptr, .x = a[1].ptr, .dy = a[2].ptr, .g = a[3].ptr, .dx = a[4].ptr};
    check(ofl_stream_launch(stream, backward, &backward_jobs[n]));
    check(ofl_release(ctx, a, count, stream));
    check(ofl_optimizer_apply(adamw, l->w)); /* from here on, beside the backward of the layers below */
}

static void train(unsigned step)
{
    struct ofl_update_settings rates = {
        .size = sizeof rates, .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .step = step};

    make_batch();
    check(ofl_step_begin(ctx, "train"));
    check(ofl_optimizer_begin(adamw, &rates));
    check(ofl_tensor_write_async(layers[0].x, 0, inputs, sizeof inputs, stream));
    for (unsigned n = 0; n < LAYERS; n++)
        run_forward(n);
    run_loss();
    for (unsigned n = LAYERS; n-- > 0;)
        run_backward(n);
    check(ofl_optimizer_end(adamw));
    check(ofl_step_end(ctx));
    check(ofl_stream_sync(stream)); /* now the loss is there, and jobs and batch are ours again */
    if (step == 1 || step % 20 == 0)
        printf("step %2u loss %.6f\n", step, loss);
}

static uint64_t mib(const char *text)
{
    char *end;
    double value = strtod(text, &end);

    if (end != text && *end == 0 && value >= 0 && value < 0x1p30)
        return (uint64_t)(value * 0x1p20);
    fprintf(stderr, "mlp: \"%s\" is no number of MiB\n", text);
    exit(2);
}

static void report(void)
{
    struct ofl_stats s = {.size = sizeof s};
    struct ofl_stall worst = {.size = sizeof worst};

    check(ofl_stats_get(ctx, &s));
    printf("device in %.1f MiB, out %.1f MiB; drive read %.1f MiB, written %.1f MiB; stall %.2f s\n",
           (double)s.device_in_bytes / 0x1p20, (double)s.device_out_bytes / 0x1p20,
           (double)s.nvme_read_bytes / 0x1p20, (double)s.nvme_write_bytes / 0x1p20, (double)s.stall_ns / 1e9);
    if (ofl_stall_get(ctx, 0, &worst) == 0)
        printf("most of it for %s: %s\n", worst.tensor, worst.text);
}

int main(int argc, char **argv)
{
    struct ofl_nvme drive = {.dir = argc > 3 ? argv[3] : NULL};
    struct ofl_config config = {.size = sizeof config, .nvme = &drive, .nvme_count = argc > 3};

    config.device_bytes = mib(argc > 1 ? argv[1] : "64");
    config.host_bytes = mib(argc > 2 ? argv[2] : "0");
    check(ofl_open(&config, &ctx));
    check(ofl_stream_create(ctx, &stream));
    check(ofl_optimizer_create(ctx, &adamw));
    for (unsigned n = 0; n <= LAYERS; n++)
        make_layer(n);
    if (argc > 4)
        check(ofl_timeline_open(ctx, argv[4]));
    for (unsigned step = 1; step <= STEPS; step++)
        train(step);
    report();
    check(ofl_close(ctx));
    return 0;
}
