/*
 * mpi_reduce: several processes train copies of one model, each on its share of the batch, and reduce gradients over MPI as
 * the optimizer takes them. Two processes end at the same bits as one that does both shares.
 *
 *     mpirun -n 2 mpi_reduce DIR       DIR: a directory on a drive
 *     mpirun -n 1 mpi_reduce DIR
 *     mpicc mpi_reduce.c $(pkg-config --cflags --libs offload) -o mpi_reduce
 */
#include <mpi.h>
#include <offload.h>
#include <stdio.h>
#include <stdlib.h>

enum { LAYERS = 6, INPUTS = 640, OUTPUTS = 512, SHARES = 2, SAMPLES = 4, STEPS = 5 };

/* A linear map that learns another one. */
struct layer {
    struct ofl_tensor *w, *g;
};

/* What a kernel works on. It runs later, on the stream's thread: this must live until ofl_stream_sync. */
struct job {
    const float *w;
    float *g;
    unsigned layer, step, share;
    int first; /* of the shares that this process does: the gradient begins with it */
};

static struct ofl_ctx *ctx;
static struct ofl_stream *stream;
static struct ofl_optimizer *adamw;
static struct layer layers[LAYERS];
static struct job jobs[LAYERS][SHARES];
static int processes, rank;

static void check(int err)
{
    if (err >= 0)
        return;
    fprintf(stderr, "mpi_reduce: process %d: %s\n", rank, ofl_error());
    MPI_Abort(MPI_COMM_WORLD, 1);
}

/* From -1 to 1: the same numbers in each process. */
static float number(unsigned layer, unsigned step, unsigned sample, unsigned i)
{
    unsigned long long x = ((layer * 1000ull + step) * 1000 + sample) * 1000 + i;

    x = (x + 1) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 31)) * 0x94d049bb133111ebu;
    return (float)(x >> 40) * 0x1p-23f - 1;
}

/* Gradient of the mean square of what is wrong, over one share of the batch; a share's is made before it is added, as if
 * it were the only one. */
static void backward(void *arg)
{
    static float x[SAMPLES][INPUTS];
    struct job *j = arg;

    for (unsigned s = 0; s < SAMPLES; s++)
        for (unsigned i = 0; i < INPUTS; i++)
            x[s][i] = number(j->layer, j->step, j->share * SAMPLES + s, i);
    for (unsigned o = 0; o < OUTPUTS; o++) {
        const float *w = j->w + (size_t)o * INPUTS;
        float *g = j->g + (size_t)o * INPUTS, wrong[SAMPLES];

        for (unsigned s = 0; s < SAMPLES; s++) {
            wrong[s] = -x[s][o]; /* to be learned: the first OUTPUTS of the inputs */
            for (unsigned i = 0; i < INPUTS; i++)
                wrong[s] += w[i] * x[s][i];
        }
        for (unsigned i = 0; i < INPUTS; i++) {
            float sum = 0;

            for (unsigned s = 0; s < SAMPLES; s++)
                sum += wrong[s] * x[s][i] / (SHARES * SAMPLES);
            g[i] = j->first ? sum : g[i] + sum;
        }
    }
}

/* On the thread of the optimizer's stream: MPI is asked for MPI_THREAD_SERIALIZED, and the main thread calls nothing
 * of it meanwhile. */
static int add_up(void *buf, uint64_t bytes, enum ofl_dtype dtype, void *arg)
{
    (void)arg;
    if (dtype != OFL_F32)
        return -1;
    return MPI_Allreduce(MPI_IN_PLACE, buf, (int)(bytes / sizeof(float)), MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
}

static void make_layer(unsigned n)
{
    char w[16], g[16];
    struct ofl_tensor_desc desc = {.size = sizeof desc,
                                   .name = w,
                                   .kind = OFL_KIND_WEIGHT,
                                   .dtype = OFL_F32,
                                   .elems = (uint64_t)OUTPUTS * INPUTS};

    snprintf(w, sizeof w, "layer%u.w", n);
    check(ofl_tensor_create(ctx, &desc, &layers[n].w)); /* zeros */
    snprintf(g, sizeof g, "layer%u.g", n);
    desc.name = g;
    desc.kind = OFL_KIND_GRADIENT;
    check(ofl_tensor_create(ctx, &desc, &layers[n].g));
    check(ofl_optimizer_bind(adamw, layers[n].w, layers[n].g));
}

static void queue_share(unsigned n, unsigned step, unsigned share, int first)
{
    struct ofl_lease l[2] = {
        {.size = sizeof l[0], .tensor = layers[n].w, .mode = OFL_READ},
        {.size = sizeof l[0], .tensor = layers[n].g, .mode = first ? OFL_OVERWRITE : OFL_UPDATE}};

    check(ofl_acquire(ctx, l, 2, stream));
    jobs[n][share] = (struct job){l[0].ptr, l[1].ptr, n, step, share, first};
    check(ofl_stream_launch(stream, backward, &jobs[n][share]));
    check(ofl_release(ctx, l, 2, stream));
}

static void train(unsigned step)
{
    struct ofl_update_settings rates = {.size = sizeof rates,
                                        .lr = 0.0005,
                                        .beta1 = 0.9,
                                        .beta2 = 0.999,
                                        .eps = 1e-8,
                                        .weight_decay = 0.01,
                                        .clip = 1,
                                        .step = step + 1};
    double norm;

    check(ofl_step_begin(ctx, "train"));
    check(ofl_optimizer_begin(adamw, &rates));
    for (unsigned n = 0; n < LAYERS; n++) {
        for (unsigned share = (unsigned)rank; share < SHARES; share += (unsigned)processes)
            queue_share(n, step, share, share == (unsigned)rank);
        check(ofl_optimizer_apply(adamw, layers[n].w));
    }
    check(ofl_optimizer_end(adamw)); /* all is reduced */
    check(ofl_step_end(ctx));
    check(ofl_optimizer_norm(adamw, &norm));
    if (rank == 0)
        printf("step %u: norm %.9g\n", step + 1, norm);
}

/* All weights in one number. */
static unsigned long long sum_up(void)
{
    static unsigned weight[OUTPUTS * INPUTS];
    unsigned long long sum = 0;

    for (unsigned n = 0; n < LAYERS; n++) {
        check(ofl_tensor_read(layers[n].w, 0, weight, sizeof weight));
        for (unsigned i = 0; i < OUTPUTS * INPUTS; i++)
            sum = sum * 0x100000001b3u + weight[i];
    }
    return sum;
}

int main(int argc, char **argv)
{
    struct ofl_nvme drive = {.dir = argc > 1 ? argv[1] : "."};
    struct ofl_config config = {.size = sizeof config,
                                .device_bytes = 4 << 20,
                                .host_bytes = 4 << 20,
                                .nvme = &drive,
                                .nvme_count = 1};
    unsigned long long sum, all[SHARES];
    int level;

    MPI_Init_thread(&argc, &argv, MPI_THREAD_SERIALIZED, &level);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN); /* failures are the optimizer's to tell */
    MPI_Comm_size(MPI_COMM_WORLD, &processes);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    if (level < MPI_THREAD_SERIALIZED || processes > SHARES) {
        fprintf(stderr, "mpi_reduce: %s\n",
                processes > SHARES ? "there are two shares of the batch: start at most two processes"
                                   : "this MPI lets the thread that called MPI_Init alone call it");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    check(ofl_open(&config, &ctx));
    check(ofl_stream_create(ctx, &stream));
    check(ofl_optimizer_create(ctx, &adamw));
    check(ofl_optimizer_reduce(adamw, add_up, NULL));
    for (unsigned n = 0; n < LAYERS; n++)
        make_layer(n);
    for (unsigned step = 0; step < STEPS; step++)
        train(step);
    sum = sum_up();
    MPI_Gather(&sum, 1, MPI_UNSIGNED_LONG_LONG, all, 1, MPI_UNSIGNED_LONG_LONG, 0, MPI_COMM_WORLD);
    for (int i = 0; rank == 0 && i < processes; i++)
        printf("weights of process %d: %016llx\n", i, all[i]);
    check(ofl_close(ctx));
    MPI_Finalize();
    return 0;
}
