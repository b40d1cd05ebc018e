/*
 * ofl-bench adam: other programs' updates. A child that runs Python maps the same arrays, and updates them when it is
 * told to, by its own clock.
 */
#include "bench/adam_peers.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

/* Arguments: which, fd, elements, bytes of an array, 1 for BF16 weights, threads. */
static const char program[] = "import mmap, sys, time\n"
                              "import torch\n"
                              "which, fd, n, each, low, threads = sys.argv[1], *map(int, sys.argv[2:])\n"
                              "torch.set_num_threads(threads)\n"
                              "whole = mmap.mmap(fd, 4 * each + (each if low else 0) // 2)\n"
                              "def array(k, dtype):\n"
                              "    return torch.frombuffer(whole, dtype=dtype, count=n, offset=k * each)\n"
                              "p, m, v, g = (array(k, torch.float32) for k in range(4))\n"
                              "w = array(4, torch.bfloat16) if low else None\n"
                              "p = torch.nn.Parameter(p)\n"
                              "p.grad = g\n"
                              "kept = {'exp_avg': m, 'exp_avg_sq': v}\n"
                              "if which == 'torch':\n"
                              "    o = torch.optim.AdamW([p], lr=1e-4, weight_decay=0.01, fused=True)\n"
                              "    kept['step'] = torch.tensor(1.0)\n"
                              "    version = 'torch ' + torch.__version__\n"
                              "else:\n"
                              "    import deepspeed\n"
                              "    from deepspeed.ops.adam import DeepSpeedCPUAdam\n"
                              "    o = DeepSpeedCPUAdam([p], lr=1e-4, weight_decay=0.01, adamw_mode=True)\n"
                              "    kept['step'] = 1\n"
                              "    version = 'deepspeed ' + deepspeed.__version__\n"
                              "o.state[p].update(kept)\n"
                              "print('ready', version, flush=True)\n"
                              "for line in sys.stdin:\n"
                              "    begin = time.perf_counter()\n"
                              "    o.step()\n"
                              "    if low:\n"
                              "        w.copy_(p.detach())\n"
                              "    print(time.perf_counter() - begin, flush=True)\n";

/* In the child. */
static void become(const struct adam_options *o, const struct adam_arrays *a, const char *name, int in,
                   int out)
{
    const char *python = getenv("OFL_PYTHON") ? getenv("OFL_PYTHON") : "python3";
    char fd[16], elems[24], each[24], threads[24];

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN); /* it ends with its input */
    signal(SIGPIPE, SIG_DFL);
    snprintf(fd, sizeof fd, "%d", dup(a->fd)); /* without close-on-exec */
    snprintf(elems, sizeof elems, "%llu", (ull)a->elems);
    snprintf(each, sizeof each, "%llu", (ull)((const char *)a->mean - (const char *)a->weight));
    snprintf(threads, sizeof threads, "%llu", (ull)o->threads);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    /* its own name first: an environment is found by it */
    execlp(python, python, "-c", program, name, fd, elems, each, a->bf16 ? "1" : "0", threads, (char *)NULL);
    _exit(127);
}

/* A line, without its end; false: there is none. */
static bool read_line(int fd, char *line, size_t room)
{
    size_t n = 0;

    while (n + 1 < room) {
        ssize_t got = read(fd, line + n, 1);

        if (got < 0 && errno == EINTR && !common_stopping())
            continue;
        if (got <= 0)
            return false;
        if (line[n] == '\n')
            break;
        n++;
    }
    line[n] = '\0';
    return true;
}

static int peer_open(const struct adam_options *o, const struct adam_arrays *a, struct adam_peer *p)
{
    int to[2], from[2];
    char line[128];

    if (pipe2(to, 0) < 0)
        return common_fail(EXIT_FULL, "--compare: no pipe: %s", strerror(errno));
    if (pipe2(from, 0) < 0) {
        close(to[0]);
        close(to[1]);
        return common_fail(EXIT_FULL, "--compare: no pipe: %s", strerror(errno));
    }
    fflush(NULL);
    p->pid = fork();
    if (p->pid == 0) {
        close(to[1]);
        close(from[0]);
        become(o, a, p->name, to[0], from[1]);
    }
    close(to[0]);
    close(from[1]);
    p->to = to[1];
    p->from = from[0];
    if (p->pid < 0) {
        p->pid = 0;
        close(p->to);
        close(p->from);
        return common_fail(EXIT_FULL, "--compare: no process: %s", strerror(errno));
    }
    common_progress("starting %s", p->name);
    if (!read_line(p->from, line, sizeof line) || strncmp(line, "ready ", 6) != 0)
        return common_stopping()
                   ? common_fail(EXIT_INTERRUPTED, "interrupted")
                   : common_fail(EXIT_INPUT,
                                 "--compare %s: it did not start; what it said stands above. $OFL_PYTHON "
                                 "names a Python that has it (default: python3)",
                                 p->name);
    snprintf(p->version, sizeof p->version, "%.60s", line + 6);
    common_progress_clear();
    return 0;
}

int adam_peers_open(const struct adam_options *o, const struct adam_arrays *a,
                    struct adam_peer peers[ADAM_PEERS])
{
    static const char *const names[ADAM_PEERS] = {"torch", "deepspeed"};
    const char *at = o->compare;
    int status = 0;

    while (at && *at && status == 0) {
        size_t n = strcspn(at, ",");
        int k = 0;

        while (k < ADAM_PEERS && (strlen(names[k]) != n || strncmp(at, names[k], n) != 0))
            k++;
        if (k == ADAM_PEERS)
            return common_fail(EXIT_OPTION, "--compare %s: torch, deepspeed, or both with a comma",
                               o->compare);
        peers[k].name = names[k];
        if (!peers[k].pid)
            status = peer_open(o, a, &peers[k]);
        at += n + (at[n] == ',');
    }
    for (int k = 0; k < ADAM_PEERS && status == 0; k++)
        if (peers[k].pid) {
            double warm;

            status = adam_peer_update(&peers[k], &warm);
        }
    return status;
}

int adam_peer_update(struct adam_peer *p, double *seconds)
{
    char line[128], *end;

    if (write(p->to, "\n", 1) != 1 || !read_line(p->from, line, sizeof line))
        return common_stopping() ? common_fail(EXIT_INTERRUPTED, "interrupted")
                                 : common_fail(EXIT_RUNTIME, "--compare %s: it ended", p->name);
    *seconds = strtod(line, &end);
    if (end == line || *seconds <= 0)
        return common_fail(EXIT_RUNTIME, "--compare %s: it says no time", p->name);
    return 0;
}

void adam_peers_close(struct adam_peer peers[ADAM_PEERS])
{
    for (int k = 0; k < ADAM_PEERS; k++) {
        if (!peers[k].pid)
            continue;
        close(peers[k].to);
        close(peers[k].from);
        waitpid(peers[k].pid, NULL, 0);
        peers[k].pid = 0;
    }
}
