/* load: lanes that take request after request, each with its own buffers, at a rate or as fast as answers come.
 *
 * state of a lane  waits for              moves on in      then
 * FREE             the next request       feed             SENDING
 * SENDING          the answer             on_answer        FREE, WAITING
 * WAITING          the pause of a retry   on_retry_timer   SENDING
 *
 * Request q carries the records of dataset q mod 3 of the q div 3-th group of `batch` rows.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "emulator/emulator.h"
#include "emulator/generate.h"
#include "io/httpc.h"

#define RETRY_BASE_MS 100
#define RETRY_CAP_MS 2000
#define BODY_BYTES ((size_t)4 << 30)

struct record {
    uint64_t id;
    size_t at, n; /* its text in the lane's values */
    int64_t key;
};

enum lane_state { LANE_FREE, LANE_SENDING, LANE_WAITING };
struct lane {
    struct load *load;
    enum lane_state state;
    enum dataset_id dataset;
    struct httpc_call *call;
    struct loop_timer timer;
    struct record *records; /* what is left to be tried */
    struct result *results;
    size_t n;
    unsigned try_no;
    uint64_t planned_us, sent_at_ms;
    struct buf values, body;
};

struct load {
    struct loop *loop;
    const struct emulator_opts *o;
    const struct source *source;
    struct ledger *ledger;
    struct report *report;
    load_done_fn *done;
    void *ctx;
    struct httpc *httpc;
    char *urls[DATASETS], *topics[DATASETS];
    struct lane *lanes;
    unsigned busy;
    uint64_t posts, next, requests; /* next of so many requests */
    uint64_t *group;                /* the rows of the group at work */
    uint64_t group_no, group_n;
    struct rnd rnd;
    uint64_t next_id, begin_us, pause_until_us;
    struct loop_timer tick, progress;
    struct loop_defer feed_soon;
    bool stopping, finished;
};

static void send_lane(struct lane *lane);
static void on_feed(void *ctx);

/* ---- what to send ---- */

/* The rows of the group that request `q` belongs to; each group is drawn once, whatever is skipped. */
static void choose_rows(struct load *l, uint64_t q)
{
    uint64_t no = q / DATASETS, rows = source_rows(l->source);
    if (no == l->group_no && l->group_n)
        return;
    uint64_t first = no * l->o->batch, n = l->posts - first;
    if (n > l->o->batch)
        n = l->o->batch;
    for (uint64_t i = 0; i < n; i++)
        l->group[i] = l->o->draw ? rnd_below(&l->rnd, rows) : first + i;
    l->group_no = no;
    l->group_n = n;
}

static void fill_lane(struct load *l, struct lane *lane)
{
    uint64_t q = l->next++;
    choose_rows(l, q);
    lane->dataset = (enum dataset_id)(q % DATASETS);
    lane->n = 0;
    lane->try_no = 0;
    buf_reset(&lane->values);
    for (uint64_t i = 0; i < l->group_n; i++) {
        size_t at = lane->values.len;
        if (!source_json(l->source, lane->dataset, l->group[i], &lane->values))
            continue;
        CHECK(!lane->values.overflow);
        struct record *r = &lane->records[lane->n++];
        r->id = l->next_id++;
        r->at = at;
        r->n = lane->values.len - at;
        r->key = l->ledger ? source_key(lane->dataset, str_make(lane->values.data + at, r->n)) : -1;
    }
}

/* ---- when ---- */

static uint64_t planned_us(const struct load *l, uint64_t q)
{
    double each = 1e6 * l->o->batch / l->o->rate;
    return l->begin_us + (uint64_t)((double)q * each);
}

/* Whether the next request's time has come; else sets the timer. */
static bool due(struct load *l, uint64_t now_us)
{
    uint64_t at = l->o->rate > 0 ? planned_us(l, l->next) : l->pause_until_us;
    if (at <= now_us)
        return true;
    if (!loop_timer_active(&l->tick))
        loop_timer_start(l->loop, &l->tick, (at - now_us + 999) / 1000, on_feed, l);
    return false;
}

/* Between two posts that were drawn: nothing or the pause. */
static void pause_maybe(struct load *l)
{
    if (l->o->draw && l->o->pause_ms && l->next % DATASETS == 0 && rnd_below(&l->rnd, 2))
        l->pause_until_us = clock_us() + l->o->pause_ms * 1000;
}

static void finish(struct load *l)
{
    if (l->finished || l->busy || !(l->stopping || l->next >= l->requests))
        return;
    l->finished = true;
    loop_timer_stop(&l->tick);
    loop_timer_stop(&l->progress);
    l->report->end_us = clock_us();
    report_progress(l->report, l->o->progress_json, true, stderr);
    l->done(l->ctx);
}

static struct lane *free_lane(struct load *l)
{
    for (unsigned i = 0; i < l->o->connections && l->busy < l->o->connections; i++) {
        if (l->lanes[i].state == LANE_FREE)
            return &l->lanes[i];
    }
    return NULL;
}

static void on_feed(void *ctx)
{
    struct load *l = ctx;
    uint64_t now = clock_us();
    struct lane *lane;
    while (!l->stopping && l->next < l->requests && due(l, now) && (lane = free_lane(l))) {
        lane->planned_us = l->o->rate > 0 ? planned_us(l, l->next) : now;
        fill_lane(l, lane);
        pause_maybe(l);
        if (!lane->n)
            continue; /* a file that is shorter than the others */
        l->busy++;
        l->report->sent += lane->n;
        send_lane(lane);
    }
    finish(l);
}

/* ---- one request ---- */

static void build_body(struct lane *lane)
{
    struct buf *b = &lane->body;
    buf_reset(b);
    buf_z(b, "{\"records\":[");
    for (size_t i = 0; i < lane->n; i++) {
        buf_z(b, i ? ",{\"value\":" : "{\"value\":");
        buf_append(b, lane->values.data + lane->records[i].at, lane->records[i].n);
        buf_char(b, '}');
    }
    buf_z(b, "]}");
    CHECK(!b->overflow);
}

/* What was sent must be written down: without a ledger that can be, nothing more is sent. */
static void write_ledger(const struct lane *lane, int status)
{
    struct load *l = lane->load;
    int rc = 0;
    for (size_t i = 0; l->ledger && rc == 0 && i < lane->n; i++) {
        const struct record *r = &lane->records[i];
        struct ledger_line line = {.id = r->id,
                                   .try_no = lane->try_no,
                                   .sent_at_ms = lane->sent_at_ms,
                                   .answered_at_ms = clock_wall_ms(),
                                   .dataset = lane->dataset,
                                   .key = r->key,
                                   .target = l->urls[lane->dataset],
                                   .topic = l->topics[lane->dataset],
                                   .status = status,
                                   .value = str_make(lane->values.data + r->at, r->n),
                                   .result = lane->results[i]};
        rc = ledger_write(l->ledger, &line);
    }
    if (rc < 0 && !l->stopping)
        load_stop(l);
}

/* Counts what is decided and keeps what is to be tried again. */
static void settle(struct lane *lane)
{
    struct load *l = lane->load;
    size_t left = 0;
    bool again = lane->try_no < l->o->tries && !l->stopping;
    for (size_t i = 0; i < lane->n; i++) {
        if (again && lane->results[i].outcome != OUTCOME_OK) {
            lane->results[left] = lane->results[i];
            lane->records[left++] = lane->records[i];
        } else {
            l->report->outcomes[lane->results[i].outcome]++;
        }
    }
    lane->n = left;
}

static void on_retry_timer(void *ctx)
{
    send_lane(ctx);
}

static void on_answer(void *ctx, int rc, const struct httpc_response *res)
{
    struct lane *lane = ctx;
    struct load *l = lane->load;
    lane->call = NULL;
    int status = rc == 0 ? res->status : 0;
    if (rc == 0)
        l->report->answers++;
    else
        l->report->lost += res->sent;
    outcome_read(rc, res->sent, status, rc == 0 ? res->body : STR(""), lane->results, lane->n);
    write_ledger(lane, status);
    settle(lane);
    if (lane->n) {
        lane->state = LANE_WAITING;
        loop_timer_start(l->loop, &lane->timer,
                         loop_backoff_ms(lane->try_no - 1, RETRY_BASE_MS, RETRY_CAP_MS),
                         on_retry_timer, lane);
        return;
    }
    report_latency(l->report, clock_us() - lane->planned_us);
    lane->state = LANE_FREE;
    l->busy--;
    on_feed(l);
}

static void send_lane(struct lane *lane)
{
    static const char *const headers[] = {"Content-Type: application/vnd.kafka.json.v2+json",
                                          "Accept: application/vnd.kafka.v2+json", NULL};
    struct load *l = lane->load;
    build_body(lane);
    lane->state = LANE_SENDING;
    lane->try_no++;
    lane->sent_at_ms = clock_wall_ms();
    l->report->tries += lane->n;
    l->report->requests++;
    struct httpc_request req = {.method = "POST",
                                .url = l->urls[lane->dataset],
                                .body = buf_as_str(&lane->body),
                                .headers = headers,
                                .timeout_ms = l->o->timeout_ms};
    int rc = httpc_send(l->httpc, &req, on_answer, lane, &lane->call);
    if (rc == 0)
        return;
    /* Nothing went out: said as a refusal, from a turn of its own. */
    outcome_read(rc, false, 0, STR(""), lane->results, lane->n);
    write_ledger(lane, 0);
    for (size_t i = 0; i < lane->n; i++)
        l->report->outcomes[lane->results[i].outcome]++;
    lane->state = LANE_FREE;
    l->busy--;
    loop_defer(l->loop, &l->feed_soon, on_feed, l);
}

/* ---- begin and end ---- */

static void on_progress(void *ctx)
{
    struct load *l = ctx;
    report_progress(l->report, l->o->progress_json, false, stderr);
    loop_timer_start(l->loop, &l->progress, 200, on_progress, l);
}

static void name_targets(struct load *l)
{
    const char *stage = l->o->stage;
    while (*stage == '/')
        stage++;
    size_t n = strlen(l->o->gateway);
    while (n && l->o->gateway[n - 1] == '/')
        n--;
    for (int id = 0; id < DATASETS; id++) {
        l->topics[id] = mem_printf("%s.%s", l->o->user, datasets[id].name);
        l->urls[id] = mem_printf("%.*s%s%s/topics/%s", (int)n, l->o->gateway, *stage ? "/" : "",
                                 stage, l->topics[id]);
    }
}

/* Records, for the bar. */
static uint64_t planned_records(const struct load *l)
{
    if (!l->o->draw)
        return source_records(l->source);
    return l->posts == UINT64_MAX ? UINT64_MAX : l->posts * DATASETS;
}

static void make_lanes(struct load *l)
{
    unsigned batch = l->o->batch;
    l->lanes = MEM_ARRAY(struct lane, l->o->connections);
    for (unsigned i = 0; i < l->o->connections; i++) {
        struct lane *lane = &l->lanes[i];
        lane->load = l;
        lane->records = MEM_ARRAY(struct record, batch);
        lane->results = MEM_ARRAY(struct result, batch);
        buf_init(&lane->values, BODY_BYTES);
        buf_init(&lane->body, BODY_BYTES + (size_t)batch * 16 + 64);
    }
    l->group = MEM_ARRAY(uint64_t, batch);
}

static void free_lanes(struct load *l)
{
    for (unsigned i = 0; i < l->o->connections; i++) {
        struct lane *lane = &l->lanes[i];
        loop_timer_stop(&lane->timer);
        mem_free(lane->records);
        mem_free(lane->results);
        buf_deinit(&lane->values);
        buf_deinit(&lane->body);
    }
    mem_free(l->lanes);
    mem_free(l->group);
}

int load_open(struct loop *loop, const struct emulator_opts *o, const struct source *s,
              struct ledger *ledger, struct report *report, load_done_fn *done, void *ctx,
              struct load **ret, struct err *e)
{
    struct httpc_opts http = {.max_connections = o->connections, .http2 = o->http2};
    struct httpc *httpc;
    int rc = httpc_open(loop, &http, &httpc, e);
    if (rc < 0)
        return rc;
    struct load *l = MEM_NEW(struct load);
    *l = (struct load){.loop = loop,
                       .o = o,
                       .source = s,
                       .ledger = ledger,
                       .report = report,
                       .done = done,
                       .ctx = ctx,
                       .httpc = httpc,
                       .next_id = 1,
                       .begin_us = clock_us()};
    l->posts = o->draw ? o->draws : source_rows(s);
    l->requests =
        l->posts == UINT64_MAX ? UINT64_MAX : (l->posts + o->batch - 1) / o->batch * DATASETS;
    make_lanes(l);
    rnd_seed(&l->rnd, o->seed);
    name_targets(l);
    report->begin_us = l->begin_us;
    report->planned = planned_records(l);
    loop_defer(loop, &l->feed_soon, on_feed, l);
    loop_timer_start(loop, &l->progress, 200, on_progress, l);
    *ret = l;
    return 0;
}

void load_stop(struct load *l)
{
    bool twice = l->stopping;
    l->stopping = true;
    l->report->interrupted = true;
    loop_timer_stop(&l->tick);
    for (unsigned i = 0; i < l->o->connections; i++) {
        struct lane *lane = &l->lanes[i];
        if (lane->state == LANE_FREE || (lane->state == LANE_SENDING && !twice))
            continue;
        if (lane->state == LANE_SENDING) {
            httpc_cancel(&lane->call);
            outcome_read(ERR_CANCELLED, true, 0, STR(""), lane->results, lane->n);
            write_ledger(lane, 0);
        }
        loop_timer_stop(&lane->timer);
        for (size_t k = 0; k < lane->n; k++)
            l->report->outcomes[lane->results[k].outcome]++;
        lane->state = LANE_FREE;
        l->busy--;
    }
    loop_defer(l->loop, &l->feed_soon, on_feed, l);
}

void load_close(struct load **pl)
{
    struct load *l = *pl;
    if (!l)
        return;
    loop_timer_stop(&l->tick);
    loop_timer_stop(&l->progress);
    loop_defer_cancel(&l->feed_soon);
    httpc_close(&l->httpc); /* before the lanes, whose bodies it sends */
    free_lanes(l);
    for (int id = 0; id < DATASETS; id++) {
        mem_free(l->urls[id]);
        mem_free(l->topics[id]);
    }
    mem_free(l);
    *pl = NULL;
}
