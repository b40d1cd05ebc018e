/*
 * model: what each tensor must hold, see sim.h. A tensor's writes are listed in the order of the
 * program; who comes after so many of them must see their result, whatever was where in between.
 * Words name their tensor, write and slot, so a wrong one tells whose bytes it is.
 */
#include <stdio.h>
#include <string.h>

#include "tests/sim/sim.h"

void sim_tensor_shape(const struct sim_program *prog, struct sim_tensor *x)
{
    uint64_t bytes = 8ull * x->spec.words, each = x->spec.each;

    x->tile_bytes = (uint32_t)(prog->config.tile_bytes / (each > 4 ? each : 4) * each);
    x->tiles = (uint32_t)((bytes + x->tile_bytes - 1) / x->tile_bytes);
    x->slots = x->tiles * SIM_SLOTS;
}

uint32_t sim_slot_tile(uint32_t slot)
{
    return slot / SIM_SLOTS;
}

/* A short last tile has fewer words than slots: they share them. */
uint32_t sim_slot_offset(const struct sim_tensor *x, uint32_t slot)
{
    uint32_t tile = slot / SIM_SLOTS, start = tile * x->tile_bytes, bytes = 8 * x->spec.words - start;
    uint32_t words = (bytes < x->tile_bytes ? bytes : x->tile_bytes) / 8;

    return start + 8 * ((slot % SIM_SLOTS) * (words - 1) / (SIM_SLOTS - 1));
}

void sim_part(const struct sim_tensor *x, uint32_t code, uint32_t *from, uint32_t *to)
{
    struct sim_random r = {code * 0x2545F4914F6CDD1Dull + x->index};
    uint32_t bytes = 8 * x->spec.words, a = sim_below(&r, x->slots), b = a + sim_below(&r, x->slots - a),
             kind;

    *from = 0;
    *to = bytes;
    if (code == 0)
        return;
    kind = sim_below(&r, 4);
    if (kind == 0) { /* whole tiles */
        *from = sim_slot_tile(a) * x->tile_bytes;
        *to = (sim_slot_tile(b) + 1) * x->tile_bytes;
        *to = *to < bytes ? *to : bytes;
    } else if (kind == 1) { /* what is compared lies at its ends */
        *from = sim_slot_offset(x, a);
        *to = sim_slot_offset(x, b) + 8;
    } else if (kind == 2 && sim_slot_offset(x, a) + 8 < sim_slot_offset(x, b)) { /* or right beside them */
        *from = sim_slot_offset(x, a) + 8;
        *to = sim_slot_offset(x, b);
    } else {
        *from = 8 * sim_below(&r, x->spec.words);
        *to = *from + 8 + 8 * sim_below(&r, x->spec.words - *from / 8);
    }
}

void sim_slots_in(const struct sim_tensor *x, uint32_t from, uint32_t to, uint32_t *first, uint32_t *end)
{
    *first = 0;
    while (*first < x->slots && sim_slot_offset(x, *first) < from)
        ++*first;
    *end = *first;
    while (*end < x->slots && sim_slot_offset(x, *end) + 8 <= to)
        ++*end;
}

/* Slots that lie on one word hold the value of the first of them. */
static uint32_t first_on_word(const struct sim_tensor *x, uint32_t slot)
{
    while (slot % SIM_SLOTS && sim_slot_offset(x, slot - 1) == sim_slot_offset(x, slot))
        slot--;
    return slot;
}

uint64_t sim_value(const struct sim_tensor *x, int32_t write, uint32_t slot)
{
    if (write < 0 && !x->spec.source)
        return 0;
    return (uint64_t)x->uid << 40 | (uint64_t)(write + 2) << 16 | first_on_word(x, slot);
}

/* Slots [first, end), widened to whole words. */
int32_t sim_write_add(struct sim_tensor *x, uint32_t first, uint32_t end, bool undefined)
{
    if (x->count == SIM_WRITES)
        return -1;
    x->writes[x->count] =
        (struct sim_write){.first = (uint16_t)first, .end = (uint16_t)end, .undefined = undefined};
    return (int32_t)x->count++;
}

/* What a word is, in words. */
static const char *name_word(const struct sim *s, uint64_t word, char *text, size_t room)
{
    uint32_t uid = (uint32_t)(word >> 40), slot = (uint32_t)(word & 0xFFFF);
    int write = (int)(word >> 16 & 0xFFFFFF) - 2;

    if (word == 0)
        return "zeros";
    if (word == 0xA5A5A5A5A5A5A5A5u)
        return "memory that was never written";
    if (word == UINT64_MAX)
        return "poison";
    for (uint32_t i = 0; i < SIM_TENSORS; i++)
        if (s->tensors[i].uid == uid && write >= -1) {
            snprintf(text, room,
                     write < 0 ? "the source of tensor %u, slot %u" : "tensor %u, slot %u, write %d", i, slot,
                     write);
            return text;
        }
    snprintf(text, room, "0x%llx", (unsigned long long)word);
    return text;
}

static void wrong(struct sim *s, struct sim_tensor *x, uint32_t slot, uint32_t upto, uint64_t word,
                  uint64_t wanted, const char *who)
{
    char seen[64], right[64];
    const char *a = name_word(s, word, seen, sizeof seen), *b = name_word(s, wanted, right, sizeof right);

    if (word && word >> 40 == wanted >> 40 && (word & 0xFFFF) == (wanted & 0xFFFF))
        sim_fail(s, "%s sees the wrong write: tensor %u, slot %u, after %u writes: %s instead of %s", who,
                 x->index, slot, upto, a, b);
    else
        sim_fail(s, "%s sees wrong bytes: tensor %u, slot %u, after %u writes: %s instead of %s", who,
                 x->index, slot, upto, a, b);
}

void sim_check_word(struct sim *s, struct sim_tensor *x, uint32_t slot, uint32_t upto, uint64_t word,
                    const char *who)
{
    uint64_t newest = sim_value(x, -1, slot), value;
    bool known = false;

    s->result->checks++;
    for (uint32_t i = upto; i-- > 0;) {
        struct sim_write *w = &x->writes[i];

        if (w->skipped || w->must_skip || slot < w->first || slot >= w->end)
            continue;
        if (!(w->done >> sim_slot_tile(slot) & 1) && x->hurt) {
            w->must_skip = true; /* it is certain to be skipped: shown when its turn comes */
            continue;
        }
        if (!(w->done >> sim_slot_tile(slot) & 1)) {
            sim_fail(s, "%s runs before a write that came before it: tensor %u, slot %u, write %u", who,
                     x->index, slot, i);
            return;
        }
        if (w->undefined)
            return;
        value = sim_value(x, (int32_t)i, slot);
        newest = known ? newest : value;
        known = true;
        if (word == value)
            return;
        if (!w->maybe) {
            wrong(s, x, slot, upto, word, newest, who);
            return;
        }
    }
    if (word != sim_value(x, -1, slot))
        wrong(s, x, slot, upto, word, newest, who);
}

void sim_check(struct sim *s, struct sim_tensor *x, const uint8_t *ptr, uint32_t first, uint32_t end,
               uint32_t upto, const char *who)
{
    for (uint32_t slot = first; slot < end && !sim_failed(s); slot++) {
        uint64_t word;

        memcpy(&word, ptr + sim_slot_offset(x, slot), 8);
        sim_check_word(s, x, slot, upto, word, who);
    }
}

void sim_fill(const struct sim_tensor *x, uint8_t *ptr, int32_t write, uint32_t first, uint32_t end)
{
    for (uint32_t slot = first; slot < end; slot++) {
        uint64_t word = sim_value(x, write, slot);

        memcpy(ptr + sim_slot_offset(x, slot), &word, 8);
    }
}

void sim_hurt(struct sim_tensor *x)
{
    x->hurt = true;
    x->hurt_at = x->count;
}

struct sim_tensor *sim_find(struct sim *s, const struct ofl_tensor *t)
{
    for (int i = 0; i < SIM_TENSORS; i++)
        if (s->tensors[i].t == t)
            return &s->tensors[i];
    return NULL;
}
