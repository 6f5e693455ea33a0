/* ledger: what was sent and what came of it, one JSON line for each try of each record; and how answers are read.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/hash.h"
#include "base/mem.h"
#include "emulator/emulator.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <unistd.h>

const char *const outcome_names[OUTCOMES] = {"ok", "refused", "unknown"};

/* Codes inside an answer: the record is not there, or nobody knows. */
#define CODE_REFUSED 50002
#define CODE_UNAVAILABLE 503

struct ledger {
    int fd;
    bool failed;
    struct buf line;
};

int ledger_open(const char *path, struct ledger **ret, struct err *e)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    struct ledger *l = MEM_NEW(struct ledger);
    l->fd = fd;
    buf_init(&l->line, 64 << 20);
    *ret = l;
    return 0;
}

void ledger_close(struct ledger **pl)
{
    struct ledger *l = *pl;
    if (!l)
        return;
    close(l->fd);
    buf_deinit(&l->line);
    mem_free(l);
    *pl = NULL;
}

static void number_or_null(struct buf *b, const char *name, int64_t v, bool there)
{
    buf_printf(b, ",\"%s\":", name);
    if (there)
        buf_i64(b, v);
    else
        buf_z(b, "null");
}

bool ledger_failed(const struct ledger *l)
{
    return l && l->failed;
}

int ledger_write(struct ledger *l, const struct ledger_line *line)
{
    if (l->failed)
        return ERR_IO;
    const struct result *r = &line->result;
    struct buf *b = &l->line;
    uint8_t sum[32];
    char hex[65] = "";
    hash_sha256(line->value.p, line->value.n, sum);
    str_hex(sum, sizeof sum, hex);
    buf_reset(b);
    buf_printf(b,
               "{\"id\":%llu,\"try\":%u,\"sent_at\":%llu,\"answered_at\":%llu,\"dataset\":\"%s\"",
               (unsigned long long)line->id, line->try_no, (unsigned long long)line->sent_at_ms,
               (unsigned long long)line->answered_at_ms, datasets[line->dataset].name);
    number_or_null(b, "key", line->key, line->key >= 0);
    buf_printf(b, ",\"sha256\":\"%s\",\"target\":", hex);
    buf_json(b, str_of(line->target));
    number_or_null(b, "status", line->status, line->status != 0);
    number_or_null(b, "error_code", r->error_code, r->error_code != 0);
    buf_printf(b, ",\"outcome\":\"%s\",\"topic\":", outcome_names[r->outcome]);
    buf_json(b, str_of(line->topic));
    number_or_null(b, "partition", r->partition, r->partition >= 0);
    number_or_null(b, "offset", r->offset, r->offset >= 0);
    buf_z(b, ",\"value\":");
    buf_json(b, line->value);
    buf_z(b, "}\n");
    ssize_t n = write(l->fd, b->data, b->len);
    if (n == (ssize_t)b->len)
        return 0;
    l->failed = true;
    fprintf(stderr,
            "%ssluice-emulator: the ledger cannot be written, so nothing more is sent: %s\n",
            isatty(STDERR_FILENO) ? "\n" : "", n < 0 ? strerror(errno) : "the disk is full");
    return ERR_IO;
}

static int integer(const json_t *j, const char *name, int64_t *ret)
{
    json_t *v = json_object_get(j, name);
    if (!json_is_integer(v))
        return ERR_BAD_DATA;
    *ret = json_integer_value(v);
    return 0;
}

static void read_records(const json_t *answer, struct result *ret, size_t n)
{
    json_t *offsets = json_object_get(answer, "offsets");
    if (json_array_size(offsets) != n)
        return;
    for (size_t i = 0; i < n; i++) {
        const json_t *r = json_array_get(offsets, i);
        int64_t code = 0;
        if (integer(r, "error_code", &code) == 0 && code != 0) {
            ret[i].error_code = (int)code;
            ret[i].outcome = code == CODE_REFUSED ? OUTCOME_REFUSED : OUTCOME_UNKNOWN;
        } else if (integer(r, "offset", &ret[i].offset) == 0 && ret[i].offset >= 0) {
            /* stays -1: the checker will say so */
            (void)integer(r, "partition", &ret[i].partition);
            ret[i].outcome = OUTCOME_OK;
        }
    }
}

void outcome_read(int rc, bool sent, int status, struct str body, struct result *ret, size_t n)
{
    enum outcome all = rc < 0 && !sent ? OUTCOME_REFUSED : OUTCOME_UNKNOWN;
    for (size_t i = 0; i < n; i++)
        ret[i] = (struct result){.outcome = all, .partition = -1, .offset = -1};
    if (rc < 0)
        return;
    json_error_t e;
    json_t *answer = json_loadb(body.p ? body.p : "", body.n, 0, &e);
    if (status == 200) {
        read_records(answer, ret, n);
    } else {
        int64_t code = 0;
        (void)integer(answer, "error_code", &code); /* 0: a foreign answer without one */
        bool refused =
            (status >= 400 && status < 500) || (status == 503 && code == CODE_UNAVAILABLE);
        for (size_t i = 0; i < n; i++) {
            ret[i].error_code = (int)code;
            ret[i].outcome = refused ? OUTCOME_REFUSED : OUTCOME_UNKNOWN;
        }
    }
    json_decref(answer);
}
