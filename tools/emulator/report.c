/* report: counts, the histogram of latencies, the bar and the closing words.
 * SPDX-License-Identifier: Apache-2.0  */
#include "emulator/emulator.h"
#include <inttypes.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define BAR_MOST 30
#define BAR_LEAST 5

/* Exact below HISTOGRAM_STEPS, then so many steps to each power of two. */
static unsigned slot_of(uint64_t us)
{
    if (us < HISTOGRAM_STEPS)
        return (unsigned)us;
    unsigned power = 63 - (unsigned)__builtin_clzll(us); /* >= 6 */
    return (power - 5) * HISTOGRAM_STEPS + (unsigned)((us >> (power - 6)) & (HISTOGRAM_STEPS - 1));
}

/* The highest value that falls into it. */
static uint64_t slot_end(unsigned slot)
{
    if (slot < HISTOGRAM_STEPS)
        return slot;
    unsigned power = slot / HISTOGRAM_STEPS + 5;
    uint64_t step = HISTOGRAM_STEPS + slot % HISTOGRAM_STEPS;
    return ((step + 1) << (power - 6)) - 1;
}

void report_latency(struct report *r, uint64_t us)
{
    r->histogram[slot_of(us)]++;
    r->count++;
    if (us > r->max_us)
        r->max_us = us;
}

uint64_t report_quantile_us(const struct report *r, double q)
{
    uint64_t want = (uint64_t)(q * (double)r->count), seen = 0;
    if (!r->count)
        return 0;
    for (unsigned i = 0; i < 64 * HISTOGRAM_STEPS; i++) {
        seen += r->histogram[i];
        if (seen > want || seen == r->count)
            return slot_end(i) < r->max_us ? slot_end(i) : r->max_us;
    }
    return r->max_us;
}

static double ms(uint64_t us)
{
    return (double)us / 1000;
}

static void print_json(const struct report *r, double seconds, double rate, FILE *out)
{
    fprintf(out, "{\"planned\":");
    if (r->planned == UINT64_MAX)
        fputs("null", out);
    else
        fprintf(out, "%" PRIu64, r->planned);
    fprintf(out,
            ",\"sent\":%" PRIu64 ",\"ok\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"unknown\":%" PRIu64
            ",\"tries\":%" PRIu64 ",\"requests\":%" PRIu64
            ",\"seconds\":%.3f,\"rate\":%.1f,\"interrupted\":%s,\"latency_ms\":{\"count\":%" PRIu64
            ",\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"p99_9\":%.3f,\"max\":%.3f}}\n",
            r->sent, r->outcomes[OUTCOME_OK], r->outcomes[OUTCOME_REFUSED],
            r->outcomes[OUTCOME_UNKNOWN], r->tries, r->requests, seconds, rate,
            r->interrupted ? "true" : "false", r->count, ms(report_quantile_us(r, 0.5)),
            ms(report_quantile_us(r, 0.9)), ms(report_quantile_us(r, 0.99)),
            ms(report_quantile_us(r, 0.999)), ms(r->max_us));
}

void report_print(const struct report *r, bool json, FILE *out)
{
    double seconds = (double)(r->end_us - r->begin_us) / 1e6;
    double rate = seconds > 0 ? (double)r->sent / seconds : 0;
    if (json) {
        print_json(r, seconds, rate, out);
        return;
    }
    fprintf(out, "records   %10" PRIu64 "  in %" PRIu64 " requests, %.1f s, %.0f records/s%s\n",
            r->sent, r->requests, seconds, rate, r->interrupted ? " (stopped)" : "");
    fprintf(out, "ok        %10" PRIu64 "\n", r->outcomes[OUTCOME_OK]);
    fprintf(out, "refused   %10" PRIu64 "\n", r->outcomes[OUTCOME_REFUSED]);
    fprintf(out, "unknown   %10" PRIu64 "\n", r->outcomes[OUTCOME_UNKNOWN]);
    if (r->tries != r->sent)
        fprintf(out, "tries     %10" PRIu64 "\n", r->tries);
    fprintf(out, "latency   p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  max %.1f ms\n",
            ms(report_quantile_us(r, 0.5)), ms(report_quantile_us(r, 0.9)),
            ms(report_quantile_us(r, 0.99)), ms(report_quantile_us(r, 0.999)), ms(r->max_us));
}

static int columns_of(FILE *out)
{
    struct winsize size = {0};
    return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col ? size.ws_col : 80;
}

/* One line that leaves the last column of the terminal free, and so is never wrapped. */
static void draw_progress(const struct report *r, int columns, FILE *out)
{
    char text[100], line[BAR_MOST + sizeof text + 8];
    bool endless = r->planned == UINT64_MAX || !r->planned;
    double share = endless ? 0 : (double)r->sent / (double)r->planned;
    int n = endless ? snprintf(text, sizeof text, "%" PRIu64 " records, %" PRIu64 " ok", r->sent,
                               r->outcomes[OUTCOME_OK])
                    : snprintf(text, sizeof text,
                               "%3d %%  %" PRIu64 " of %" PRIu64 " records, %" PRIu64 " ok",
                               (int)(share * 100), r->sent, r->planned, r->outcomes[OUTCOME_OK]);
    int room = columns - 1 - n - 3, at = 0;
    if (room > BAR_MOST)
        room = BAR_MOST;
    if (!endless && room >= BAR_LEAST) {
        line[at++] = '[';
        for (int i = 0; i < room; i++)
            line[at++] = i < (int)(share * room) ? '#' : '.';
        line[at++] = ']';
        line[at++] = ' ';
    }
    snprintf(line + at, sizeof line - (size_t)at, "%s", text);
    fprintf(out, "\r%-*.*s", columns - 1, columns - 1, line);
}

void report_progress(const struct report *r, bool json, bool last, FILE *out)
{
    if (json) {
        fprintf(out, "{\"event\":\"progress\",\"sent\":%" PRIu64 ",\"ok\":%" PRIu64 ",\"planned\":",
                r->sent, r->outcomes[OUTCOME_OK]);
        if (r->planned == UINT64_MAX)
            fputs("null}\n", out);
        else
            fprintf(out, "%" PRIu64 "}\n", r->planned);
        fflush(out);
        return;
    }
    if (!isatty(fileno(out)))
        return;
    draw_progress(r, columns_of(out), out);
    if (last)
        fputc('\n', out);
    fflush(out);
}
