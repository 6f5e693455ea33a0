/* jsonscan: the walker over the structural index that stage 1 made.
 *
 * at[i] is the offset of token i's first byte: a bracket, a comma, a colon, an opening quote, or the first byte of a number
 * or literal; at[tokens] is the document's length. What lies between a token's own end and the next one is blank, or
 * an error that the token's check finds. The index calls two control characters brackets, so every byte is compared exactly.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/jsonscan.h"
#include "base/check.h"
#include "base/jsonscan_priv.h"
#include "base/mem.h"

enum state {
    STATE_ERROR,
    STATE_VALUE, /* a value is at hand */
    STATE_FIRST, /* just inside a container */
    STATE_NEXT,  /* behind a value in a container */
    STATE_DONE   /* behind the one value of the document */
};

#define CHUNK_BYTES 4096
struct chunk {
    struct chunk *next;
    size_t cap, used;
    char data[];
};

struct jsonscan {
    const char *p;
    const uint32_t *at;
    uint32_t tokens, i;
    enum state state;
    unsigned depth, max_depth;
    char *open; /* the opening bracket of each level */
    size_t key_at;
    struct jsonscan_stage1 *stage1;
    struct chunk *chunks, *chunk; /* the first, and the one in use */
    enum json_fault fault;
    size_t fault_pos;
    const char *fault_text;
};

struct jsonscan *jsonscan_new(unsigned max_depth)
{
    struct jsonscan *js = MEM_NEW(struct jsonscan);
    js->max_depth = max_depth;
    js->open = MEM_ARRAY(char, max_depth + 1);
    js->fault_text = "nothing was begun";
    js->fault = JSON_F_TYPE;
    return js;
}

static void free_chunks(struct jsonscan *js)
{
    while (js->chunks) {
        struct chunk *c = js->chunks;
        js->chunks = c->next;
        mem_free(c);
    }
    js->chunk = NULL;
}

void jsonscan_free(struct jsonscan **pjs)
{
    struct jsonscan *js = *pjs;
    if (!js)
        return;
    if (js->stage1)
        jsonscan_stage1_free(js->stage1);
    free_chunks(js);
    mem_free(js->open);
    mem_free(js);
    *pjs = NULL;
}

static int fail(struct jsonscan *js, enum json_fault fault, size_t pos, const char *text)
{
    if (js->state != STATE_ERROR) {
        js->state = STATE_ERROR;
        js->fault = fault;
        js->fault_pos = pos;
        js->fault_text = text;
    }
    return ERR_BAD_DATA;
}

void jsonscan_trim(struct jsonscan *js, size_t keep_bytes)
{
    size_t total = 0;
    for (struct chunk *c = js->chunks; c; c = c->next)
        total += c->cap;
    if (total > keep_bytes)
        free_chunks(js);
    /* The index takes four bytes for each of the document. */
    if (js->stage1 && jsonscan_stage1_capacity(js->stage1) * 4 > keep_bytes) {
        jsonscan_stage1_free(js->stage1);
        js->stage1 = NULL;
    }
    fail(js, JSON_F_TYPE, 0, "nothing was begun");
}

/* Memory that stays where it is until the next begin. */
static char *arena(struct jsonscan *js, size_t n)
{
    while (js->chunk && js->chunk->cap - js->chunk->used < n && js->chunk->next) {
        js->chunk = js->chunk->next;
        js->chunk->used = 0;
    }
    if (!js->chunk || js->chunk->cap - js->chunk->used < n) {
        size_t cap = js->chunk ? js->chunk->cap * 2 : CHUNK_BYTES;
        if (cap > 1 << 20)
            cap = 1 << 20;
        if (cap < n)
            cap = n;
        struct chunk *c = mem_alloc_raw(sizeof *c + cap);
        c->next = NULL;
        c->cap = cap;
        c->used = 0;
        if (js->chunk)
            js->chunk->next = c;
        else
            js->chunks = c;
        js->chunk = c;
    }
    char *p = js->chunk->data + js->chunk->used;
    js->chunk->used += n;
    return p;
}

int jsonscan_begin(struct jsonscan *js, const char *p, size_t n)
{
    js->p = p;
    js->i = 0;
    js->depth = 0;
    js->fault = JSON_F_NONE;
    js->state = STATE_VALUE;
    js->chunk = js->chunks;
    if (js->chunk)
        js->chunk->used = 0;
    if (!js->stage1) {
        js->stage1 = jsonscan_stage1_new();
        CHECK(js->stage1);
    }
    switch (jsonscan_stage1_run(js->stage1, p, n, &js->at, &js->tokens)) {
    case JSON_S1_OK:
        return 0;
    case JSON_S1_EMPTY:
        return fail(js, JSON_F_SYNTAX, n, "an empty document");
    case JSON_S1_TOO_LONG:
        return fail(js, JSON_F_SYNTAX, 0, "a document of 4 GiB or more");
    case JSON_S1_UTF8:
    case JSON_S1_BROKEN:
        break;
    }
    size_t pos;
    bool utf8;
    const char *text = jsonscan_locate(p, n, &pos, &utf8);
    return fail(js, utf8 ? JSON_F_UTF8 : JSON_F_SYNTAX, pos, text);
}

/* The first byte of the token at hand; 0 at the end of the document, which no token begins with. */
static char token(const struct jsonscan *js)
{
    return js->i < js->tokens ? js->p[js->at[js->i]] : 0;
}

static size_t here(const struct jsonscan *js)
{
    return js->at[js->i < js->tokens ? js->i : js->tokens];
}

static int unexpected(struct jsonscan *js, const char *text)
{
    return fail(js, JSON_F_SYNTAX, here(js), js->i < js->tokens ? text : "unexpected end");
}

static enum json_type type_of(char c)
{
    switch (c) {
    case '{':
        return JSON_T_OBJECT;
    case '[':
        return JSON_T_ARRAY;
    case '"':
        return JSON_T_STRING;
    case 't':
    case 'f':
        return JSON_T_BOOL;
    case 'n':
        return JSON_T_NULL;
    default:
        return c == '-' || (c >= '0' && c <= '9') ? JSON_T_NUMBER : JSON_T_BAD;
    }
}

enum json_type jsonscan_peek(const struct jsonscan *js)
{
    return js->state == STATE_VALUE ? type_of(token(js)) : JSON_T_BAD;
}

/* 0 when a value of this type is at hand. */
static int want(struct jsonscan *js, enum json_type type, const char *text)
{
    if (js->state != STATE_VALUE)
        return fail(js, JSON_F_TYPE, 0, "no value is at hand");
    enum json_type is = type_of(token(js));
    if (is == type)
        return 0;
    return is == JSON_T_BAD ? unexpected(js, "expected a value")
                            : fail(js, JSON_F_TYPE, here(js), text);
}

static int push(struct jsonscan *js, char bracket)
{
    if (js->depth >= js->max_depth)
        return fail(js, JSON_F_DEPTH, here(js), "nested too deep");
    js->open[js->depth++] = bracket;
    js->i++;
    return 0;
}

static void value_done(struct jsonscan *js)
{
    js->state = js->depth ? STATE_NEXT : STATE_DONE;
}

/* Checks the string at hand and steps over it. */
static inline int take_string(struct jsonscan *js, struct str *ret, bool *ret_escapes)
{
    const char *p = js->p + js->at[js->i] + 1;
    const char *end = jsonscan_string_end(js->p + js->at[js->i + 1]), *bad;
    *ret_escapes = jsonscan_has_escapes(p, (size_t)(end - p));
    if (*ret_escapes) {
        const char *text = jsonscan_check_escapes(p, end, &bad);
        if (text)
            return fail(js, JSON_F_SYNTAX, (size_t)(bad - js->p), text);
    }
    *ret = str_make(p, (size_t)(end - p));
    js->i++;
    return 0;
}

static struct str unescaped(struct jsonscan *js, struct str s, bool *ret_lone)
{
    char *out = arena(js, s.n);
    return str_make(out, jsonscan_unescape(s.p, s.n, out, ret_lone));
}

static int take_scalar(struct jsonscan *js, const char **ret_stop)
{
    if (js->i >= js->tokens)
        return unexpected(js, NULL);
    const char *bad, *p = js->p + js->at[js->i];
    const char *text = jsonscan_check_scalar(p, js->p + js->at[js->i + 1], ret_stop, &bad);
    if (text)
        return fail(js, JSON_F_SYNTAX, (size_t)(bad - js->p), text);
    js->i++;
    return 0;
}

int jsonscan_object(struct jsonscan *js)
{
    int rc = want(js, JSON_T_OBJECT, "expected an object");
    if (rc < 0 || (rc = push(js, '{')) < 0)
        return rc;
    js->state = STATE_FIRST;
    return 0;
}

int jsonscan_array(struct jsonscan *js)
{
    int rc = want(js, JSON_T_ARRAY, "expected an array");
    if (rc < 0 || (rc = push(js, '[')) < 0)
        return rc;
    js->state = STATE_FIRST;
    return 0;
}

/* Moves to the next member of the container at hand: 1, or 0 when it ended (and was left), or an error. */
static inline int step(struct jsonscan *js, char open, char close)
{
    if ((js->state != STATE_FIRST && js->state != STATE_NEXT) || js->open[js->depth - 1] != open)
        return fail(js, JSON_F_TYPE, 0,
                    js->state == STATE_VALUE ? "the value at hand was not read"
                                             : "no such container is open");
    char c = token(js);
    if (c == close) {
        js->depth--;
        js->i++;
        value_done(js);
        return 0;
    }
    if (js->state == STATE_NEXT) {
        if (c != ',')
            return unexpected(js, open == '{' ? "expected ',' or '}'" : "expected ',' or ']'");
        js->i++;
    }
    return 1;
}

int jsonscan_key(struct jsonscan *js, struct str *ret_key)
{
    int rc = step(js, '{', '}');
    if (rc <= 0)
        return rc;
    struct str key;
    bool escapes, lone = false;
    if (token(js) != '"')
        return unexpected(js, "expected a key");
    js->key_at = here(js) + 1;
    if ((rc = take_string(js, &key, &escapes)) < 0)
        return rc;
    if (token(js) != ':')
        return unexpected(js, "expected ':' after a key");
    js->i++;
    js->state = STATE_VALUE;
    *ret_key = escapes ? unescaped(js, key, &lone) : key;
    return 1;
}

size_t jsonscan_key_at(const struct jsonscan *js)
{
    return js->key_at;
}

int jsonscan_item(struct jsonscan *js)
{
    int rc = step(js, '[', ']');
    if (rc <= 0)
        return rc;
    char c = token(js);
    if (c == ']' || c == 0)
        return unexpected(js, "expected a value after ','");
    js->state = STATE_VALUE;
    return 1;
}

int jsonscan_string(struct jsonscan *js, struct str *ret, bool *ret_lone)
{
    int rc = want(js, JSON_T_STRING, "expected a string");
    struct str s;
    bool escapes, lone = false;
    if (rc < 0 || (rc = take_string(js, &s, &escapes)) < 0)
        return rc;
    *ret = escapes ? unescaped(js, s, &lone) : s;
    if (ret_lone)
        *ret_lone = lone;
    value_done(js);
    return 0;
}

/* Steps over a container, checking all of it. On success js->i is behind its closing bracket. */
static int skip_container(struct jsonscan *js)
{
    unsigned base = js->depth;
    struct str s;
    bool escapes;
    const char *stop;
    int rc;
value:
    switch (token(js)) {
    case '{':
        if ((rc = push(js, '{')) < 0)
            return rc;
        if (token(js) == '}')
            goto close;
        goto key;
    case '[':
        if ((rc = push(js, '[')) < 0)
            return rc;
        if (token(js) == ']')
            goto close;
        goto value;
    case '"':
        rc = take_string(js, &s, &escapes);
        break;
    default:
        rc = take_scalar(js, &stop);
        break;
    }
    if (rc < 0)
        return rc;
after:
    if (js->depth == base)
        return 0;
    bool object = js->open[js->depth - 1] == '{';
    char c = token(js);
    if (c == ',') {
        js->i++;
        if (object)
            goto key;
        goto value;
    }
    if (c != (object ? '}' : ']'))
        return unexpected(js, object ? "expected ',' or '}'" : "expected ',' or ']'");
close:
    js->depth--;
    js->i++;
    goto after;
key:
    if (token(js) != '"')
        return unexpected(js, "expected a key");
    if ((rc = take_string(js, &s, &escapes)) < 0)
        return rc;
    if (token(js) != ':')
        return unexpected(js, "expected ':' after a key");
    js->i++;
    goto value;
}

int jsonscan_raw(struct jsonscan *js, struct str *ret)
{
    if (js->state != STATE_VALUE)
        return fail(js, JSON_F_TYPE, 0, "no value is at hand");
    const char *p = js->p + here(js), *stop;
    struct str s;
    bool escapes;
    int rc;
    switch (token(js)) {
    case '"':
        if ((rc = take_string(js, &s, &escapes)) < 0)
            return rc;
        stop = s.p + s.n + 1;
        break;
    case '{':
    case '[':
        if ((rc = skip_container(js)) < 0)
            return rc;
        stop = js->p + js->at[js->i - 1] + 1;
        break;
    default:
        if ((rc = take_scalar(js, &stop)) < 0)
            return rc;
        break;
    }
    *ret = str_make(p, (size_t)(stop - p));
    value_done(js);
    return 0;
}

int jsonscan_end(struct jsonscan *js)
{
    if (js->state == STATE_ERROR)
        return ERR_BAD_DATA;
    if (js->state != STATE_DONE)
        return fail(js, JSON_F_TYPE, 0, "the value at hand was not read");
    if (js->i < js->tokens)
        return fail(js, JSON_F_TRAILING, here(js), "bytes after the value");
    return 0;
}

enum json_fault jsonscan_fault(const struct jsonscan *js, size_t *ret_pos, const char **ret_text)
{
    if (ret_pos)
        *ret_pos = js->fault_pos;
    if (ret_text)
        *ret_text = js->fault_text ? js->fault_text : "";
    return js->fault;
}
