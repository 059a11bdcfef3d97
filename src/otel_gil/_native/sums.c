/* What looks amount to: arithmetic, with no clock of its own.
 *
 * The recorder looks at random moments, with times between them that depend on nothing else. Such looks see time
 * averages: the share of them that find the GIL locked is the share of time in which it is, and so it is with a holder,
 * with the time in which somebody waits, and with the mean number of those that wait. As in
 * otel_gil/_samplers/estimator.py, the time after a look is apportioned by that look and those before it, of which the
 * latest count most, each being worth the mean of the time that it ended (but see `worth`). So nothing is ever taken
 * back, blocked + free is the time observed, and what holders held adds up to what was blocked. The weights are told:
 * whoever reads adds what has passed since.
 */
#include "recorder.h"

#include <string.h>

#define FORGOTTEN 1e-6 /* a weight that makes no difference */
#define STOPPED 0.25   /* seconds that a look can be late on a busy machine: beyond, the process was stopped */

enum { MEMORY = 5, AGREEING = 64, SLOW = 4 }; /* as in estimator.py, in looks that are more frequent */

struct table {
    uint32_t used, next_id;
    double total; /* of the mix: how much of what was seen it stands for */
    struct row rows[ROWS];
    double mix[ROWS];
    uint64_t touched[ROWS];
};

struct state sums;
static struct table held, waits;
static double window, resolution, pace_mean = 1;
static uint64_t agreeing;
static double remembered; /* what was told last of who waits counts as much still */
static struct {
    bool locked, contended;
    uint16_t name, function;
} last;

void sums_begin(double now, double seconds) {
    sums = (struct state){.now = now, .until = now};
    held = waits = (struct table){0};
    window = seconds;
    resolution = seconds / PASTS;
    sums.points = 1; /* from nothing, or from the totals that the caller sets */
    sums_new_process(now);
}

/* Weights, and what else is of the moment, belong to the process; totals go on. */
void sums_new_process(double now) {
    sums.now = sums.until = now;
    sums.blocked_weight = sums.contended_weight = sums.waited_weight = 0;
    sums.looks = 0;
    sums.waiting = 0;
    agreeing = 0;
    remembered = 1;
    pace_mean = 1;
    struct table *tables[] = {&held, &waits};
    for (int i = 0; i < 2; i++) {
        tables[i]->total = 0;
        for (uint32_t row = 0; row < tables[i]->used; row++) {
            tables[i]->mix[row] = tables[i]->rows[row].weight = 0;
        }
    }
}

static void remove_row(struct table *table, uint32_t row) {
    table->used--;
    table->rows[row] = table->rows[table->used];
    table->mix[row] = table->mix[table->used];
    table->touched[row] = table->touched[table->used];
}

/* The row of a thread and function. In place of the one not seen for longest if there are too many: the reader sees
 * that its seconds are in none. */
static uint32_t find_row(struct table *table, uint16_t name, uint16_t function, uint32_t pending) {
    uint32_t oldest = ROWS;
    for (uint32_t i = 0; i < table->used; i++) {
        const struct row *row = &table->rows[i];
        if (row->function == function && row->pending == pending && (pending || row->name == name)) {
            return i;
        }
        if (!table->mix[i] && (oldest == ROWS || table->touched[i] < table->touched[oldest])) {
            oldest = i;
        }
    }
    if (table->used == ROWS) {
        if (oldest == ROWS) {
            return ROWS;
        }
        remove_row(table, oldest);
    }
    uint32_t row = table->used++;
    table->rows[row] = (struct row){
        .id = ++table->next_id,
        .name = name,
        .function = function,
        .name_generation = name_generation(name),
        .function_generation = function_generation(function),
        .pending = pending,
    };
    table->mix[row] = 0;
    return row;
}

static void fade(struct table *table, double keep) {
    table->total *= keep;
    for (uint32_t i = 0; i < table->used; i++) {
        table->mix[i] = table->mix[i] * keep > FORGOTTEN ? table->mix[i] * keep : 0;
    }
}

static void add(struct table *table, uint16_t name, uint16_t function, uint32_t pending, double amount) {
    uint32_t row = find_row(table, name, function, pending);
    table->total += amount;
    if (row < ROWS) {
        table->mix[row] += amount;
        table->touched[row] = sums.looks;
    }
}

/* The rows' weights: what is to be apportioned a second, by the mix. */
static void weigh(struct table *table, double weight) {
    double share = table->total > FORGOTTEN ? weight / table->total : 0;
    for (uint32_t i = 0; i < table->used; i++) {
        table->rows[i].weight = share * table->mix[i];
    }
}

static void credit(struct table *table, double seconds) {
    for (uint32_t i = 0; i < table->used; i++) {
        table->rows[i].seconds += table->rows[i].weight * seconds;
    }
}

static void add_point(void) {
    sums.history[sums.points].blocked = sums.blocked;
    sums.history[sums.points].free = sums.free;
    sums.points++;
    double start = sums.blocked + sums.free - window;
    uint32_t gone = 0;
    while (gone + 1 < sums.points && (sums.history[gone + 1].blocked + sums.history[gone + 1].free <= start ||
                                      sums.points - gone == POINTS)) {
        gone++;
    }
    sums.points -= gone;
    memmove(sums.history, sums.history + gone, sums.points * sizeof sums.history[0]);
}

static void advance(double now) {
    double passed = (now < sums.until ? now : sums.until) - sums.now;
    sums.now = now;
    if (passed <= 0 || !sums.looks) {
        return;
    }
    sums.blocked += sums.blocked_weight * passed;
    sums.free += (1 - sums.blocked_weight) * passed;
    sums.contended += sums.contended_weight * passed;
    sums.waited += sums.waited_weight * passed;
    credit(&held, passed);
    credit(&waits, passed);
    const uint32_t newest = sums.points - 1;
    if (sums.blocked + sums.free > sums.history[newest].blocked + sums.history[newest].free + resolution) {
        add_point();
    }
}

static void look_at_waiters(const struct seen *seen, double gain) {
    remembered *= 1 - gain;
    if (seen->waiters <= 0) {
        return;
    }
    /* Each waiter stands for those that were not found as well. */
    double each = gain * seen->stands_for * seen->waiting / seen->waiters;
    fade(&waits, remembered);
    for (int i = 0; i < seen->waiters; i++) {
        add(&waits, seen->waiter[i].name, seen->waiter[i].function, seen->waiter[i].pending, each);
    }
    remembered = 1;
}

static double pace_after(const struct seen *seen, bool contended) {
    bool same = last.locked == seen->locked && last.contended == contended &&
                (!seen->locked || (last.name == seen->name && last.function == seen->function));
    agreeing = same ? agreeing + 1 : 1;
    last.locked = seen->locked;
    last.contended = contended;
    last.name = seen->name;
    last.function = seen->function;
    return agreeing >= AGREEING ? SLOW : 1;
}

_Static_assert(SUMMED * (2 * SLOW + 1) - 1 <= SUMMED * 2 * MEMORY, "a look would be worth more than what is remembered");

/* In means of the usual sleep: that of the one that it has ended. But a sleep of the usual pace hardly ends at once, so
 * that those that begin with a look bring fewer of them than their time is worth, by as much as follows from how it is
 * distributed. Those of the slower pace do not. So it makes a difference where a look changes the pace. */
static double worth(double pace, double next) {
    const double missing = (1 - 1.0 / SUMMED) / 2;
    return pace + missing * ((next == 1) - (pace == 1));
}

void sums_look(const struct seen *seen) {
    advance(seen->now);
    sums.now = seen->now;
    bool contended = seen->locked && seen->waiting > 0;
    pace_mean = pace_after(seen, contended);
    double gain = sums.looks ? worth(seen->pace, pace_mean) / MEMORY : 1;
    sums.looks++;
    sums.blocked_weight += gain * (seen->locked - sums.blocked_weight);
    sums.contended_weight += gain * (contended - sums.contended_weight);
    sums.waited_weight += gain * ((seen->waiting > 0 ? seen->waiting : 0) - sums.waited_weight);
    sums.waiting = seen->waiting > 0 ? (uint32_t)seen->waiting : 0;
    fade(&held, 1 - gain);
    if (seen->locked) {
        add(&held, seen->name, seen->function, seen->pending, gain);
    }
    look_at_waiters(seen, gain);
    weigh(&held, sums.blocked_weight);
    weigh(&waits, sums.waited_weight);
}

double sums_pace(void) { return pace_mean; }

void sums_until(double due) { sums.until = due + STOPPED; }

static void rename_rows(struct table *table, uint32_t pending, uint16_t name) {
    for (uint32_t i = 0; i < table->used;) {
        struct row *row = &table->rows[i];
        if (row->pending != pending) {
            i++;
            continue;
        }
        uint32_t other = 0;
        while (other < table->used && !(table->rows[other].pending == 0 && table->rows[other].name == name &&
                                        table->rows[other].function == row->function)) {
            other++;
        }
        if (other == table->used) {
            row->pending = 0;
            row->name = name;
            row->name_generation = name_generation(name);
            i++;
            continue;
        }
        table->rows[other].seconds += row->seconds;
        table->rows[other].weight += row->weight;
        table->mix[other] += table->mix[i];
        table->touched[other] = sums.looks;
        remove_row(table, i);
    }
}

void sums_named(uint32_t pending, uint16_t name) {
    rename_rows(&held, pending, name);
    rename_rows(&waits, pending, name);
}

bool sums_uses_name(uint16_t name) {
    for (uint32_t i = 0; i < ROWS; i++) {
        if ((i < held.used && held.rows[i].name == name) || (i < waits.used && waits.rows[i].name == name)) {
            return true;
        }
    }
    return false;
}

bool sums_uses_function(uint16_t function) {
    for (uint32_t i = 0; i < ROWS; i++) {
        if ((i < held.used && held.rows[i].function == function) ||
            (i < waits.used && waits.rows[i].function == function)) {
            return true;
        }
    }
    return false;
}

size_t sums_write(void *to) {
    char *at = to;
    sums.held_rows = held.used;
    sums.wait_rows = waits.used;
    size_t held_size = held.used * sizeof *held.rows, waits_size = waits.used * sizeof *waits.rows;
    sums.length = (uint32_t)(sizeof sums + held_size + waits_size);
    memcpy(at, &sums, sizeof sums);
    memcpy(at + sizeof sums, held.rows, held_size);
    memcpy(at + sizeof sums + held_size, waits.rows, waits_size);
    return sums.length;
}
