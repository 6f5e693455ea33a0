/* httpd_head: the strict scanner of HTTP/1 heads (RFC 9112) and chunked bodies.
 *
 * What two readers could frame in two ways is refused: only CRLF ends a line, no folding, one Content-Length of digits, one Host,
 * no Content-Length beside Transfer-Encoding, "chunked" as the only coding, chunk sizes of hex digits alone.
 * SPDX-License-Identifier: Apache-2.0  */
#include "io/httpd_priv.h"

static const uint8_t token_char[256] = {
    ['!'] = 1, ['#'] = 1, ['$'] = 1, ['%'] = 1,         ['&'] = 1,         ['\''] = 1,
    ['*'] = 1, ['+'] = 1, ['-'] = 1, ['.'] = 1,         ['^'] = 1,         ['_'] = 1,
    ['`'] = 1, ['|'] = 1, ['~'] = 1, ['0' ... '9'] = 1, ['a' ... 'z'] = 1, ['A' ... 'Z'] = 1,
};

int httpd_head_find(const char *p, size_t n, size_t max, size_t *at, size_t *ret_end)
{
    size_t i = *at;
    while (i < n) {
        const char *lf = memchr(p + i, '\n', n - i);
        if (!lf)
            break;
        size_t pos = (size_t)(lf - p);
        if (pos == 0 || p[pos - 1] != '\r')
            return -400;
        if (pos + 1 > max)
            return -431;
        if (pos >= 3 && p[pos - 2] == '\n') {
            *ret_end = pos + 1;
            return 1;
        }
        i = pos + 1;
    }
    *at = n;
    return n >= max ? -431 : 0;
}

enum httpd_method httpd_method_of(struct str name)
{
    static const struct {
        const char *name;
        enum httpd_method method;
    } all[] = {{"POST", HTTPD_POST}, {"GET", HTTPD_GET},       {"HEAD", HTTPD_HEAD},
               {"PUT", HTTPD_PUT},   {"DELETE", HTTPD_DELETE}, {"OPTIONS", HTTPD_OPTIONS}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (str_is(name, all[i].name))
            return all[i].method;
    return HTTPD_OTHER;
}

static int fail(const char **ret_text, const char *text)
{
    *ret_text = text;
    return -400;
}

/* The target in origin form; an absolute form loses scheme and authority. */
static int parse_target(const char *p, size_t at, size_t n, struct httpd_head *h,
                        const char **ret_text)
{
    size_t end = at + n;
    for (size_t i = at; i < end; i++)
        if ((unsigned char)p[i] <= ' ' || (unsigned char)p[i] >= 0x7f || p[i] == '#')
            return fail(ret_text, "the request target has characters that must be percent-encoded");
    if (n > 7 && str_ieq(str_make(p + at, 7), STR("http://"))) {
        const char *slash = memchr(p + at + 7, '/', n - 7);
        if (!slash)
            return fail(ret_text, "the request target has no path");
        at = (size_t)(slash - p);
    }
    if (at == end ||
        (p[at] != '/' && !(end - at == 1 && p[at] == '*' && h->method == HTTPD_OPTIONS)))
        return fail(ret_text, "the request target must begin with '/'");
    const char *q = memchr(p + at, '?', end - at);
    size_t path_end = q ? (size_t)(q - p) : end;
    h->path = (uint16_t)at;
    h->path_len = (uint16_t)(path_end - at);
    h->has_query = q != NULL;
    if (q) {
        h->query = (uint16_t)(path_end + 1);
        h->query_len = (uint16_t)(end - path_end - 1);
    }
    return 0;
}

static int parse_request_line(const char *p, size_t n, struct httpd_head *h, const char **ret_text)
{
    size_t m = 0;
    while (m < n && token_char[(unsigned char)p[m]])
        m++;
    if (m == 0 || m == n || p[m] != ' ')
        return fail(ret_text, "the request line is malformed");
    h->method_len = (uint16_t)m;
    h->method = httpd_method_of(str_make(p, m));
    const char *sp = memchr(p + m + 1, ' ', n - m - 1);
    if (!sp)
        return fail(ret_text, "the request line is malformed");
    size_t version = (size_t)(sp - p) + 1;
    struct str v = str_make(p + version, n - version);
    if (str_is(v, "HTTP/1.0"))
        h->http10 = true;
    else if (!str_is(v, "HTTP/1.1"))
        return fail(ret_text, "the HTTP version is not supported");
    h->keep_alive = !h->http10;
    return parse_target(p, m + 1, version - 1 - (m + 1), h, ret_text);
}

static bool has_option(struct str list, const char *option)
{
    struct str part;
    while (str_next(&list, ',', &part))
        if (str_ieq(str_trim(part), str_of(option)))
            return true;
    return false;
}

/* The fields that decide where the request ends, and whether another may follow. */
static int note_field(struct httpd_head *h, struct str name, struct str value, unsigned *hosts,
                      const char **ret_text)
{
    switch (name.n) {
    case 4:
        if (str_is(name, "host")) {
            if (++*hosts > 1)
                return fail(ret_text, "more than one Host field");
            for (size_t i = 0; i < value.n; i++)
                if (value.p[i] == ' ' || value.p[i] == '\t' || value.p[i] == ',' ||
                    value.p[i] == '/' || value.p[i] == '@')
                    return fail(ret_text, "the Host field is malformed");
        }
        return 0;
    case 6:
        if (str_is(name, "expect"))
            h->expect_continue = str_ieq(value, STR("100-continue"));
        return 0;
    case 10:
        if (str_is(name, "connection")) {
            if (has_option(value, "close"))
                h->keep_alive = false;
            else if (h->http10 && has_option(value, "keep-alive"))
                h->keep_alive = true;
        }
        return 0;
    case 14:
        if (!str_is(name, "content-length"))
            return 0;
        if (h->has_length)
            return fail(ret_text, "more than one Content-Length field");
        if (value.n == 0 || value.n > 18 || str_u64(value, &h->length) != 0)
            return fail(ret_text, "the Content-Length field is malformed");
        h->has_length = true;
        return 0;
    case 17:
        if (!str_is(name, "transfer-encoding"))
            return 0;
        if (h->chunked || h->http10 || !str_ieq(value, STR("chunked")))
            return fail(ret_text,
                        "a Transfer-Encoding other than one \"chunked\" is not supported");
        h->chunked = true;
        return 0;
    default:
        return 0;
    }
}

static int parse_field(char *p, size_t at, size_t n, struct httpd_head *h, unsigned *hosts,
                       const char **ret_text)
{
    size_t end = at + n, i = at;
    while (i < end && token_char[(unsigned char)p[i]]) {
        if (p[i] >= 'A' && p[i] <= 'Z')
            p[i] = (char)(p[i] | 0x20);
        i++;
    }
    if (i == at || i == end || p[i] != ':')
        return fail(ret_text, "a header field is malformed");
    struct httpd_field *f = &h->fields[h->n_fields++];
    f->name = (uint16_t)at;
    f->name_len = (uint16_t)(i - at);
    i++;
    while (i < end && (p[i] == ' ' || p[i] == '\t'))
        i++;
    while (end > i && (p[end - 1] == ' ' || p[end - 1] == '\t'))
        end--;
    f->value = (uint16_t)i;
    f->value_len = (uint16_t)(end - i);
    for (size_t k = i; k < end; k++)
        if (((unsigned char)p[k] < ' ' && p[k] != '\t') || p[k] == 0x7f)
            return fail(ret_text, "a header field holds control characters");
    return note_field(h, str_make(p + f->name, f->name_len), str_make(p + f->value, f->value_len),
                      hosts, ret_text);
}

int httpd_head_parse(char *p, size_t n, struct httpd_head *h, const char **ret_text)
{
    CHECK(n <= UINT16_MAX);
    memset(h, 0, offsetof(struct httpd_head, fields));
    char *lf = memchr(p, '\n', n);
    if (!lf)
        return fail(ret_text, "the request line is malformed");
    size_t at = (size_t)(lf - p) + 1;
    int rc = parse_request_line(p, at - 2, h, ret_text);
    if (rc != 0)
        return rc;
    unsigned hosts = 0;
    while (n - at > 2) {
        lf = memchr(p + at, '\n', n - at);
        if (!lf)
            return fail(ret_text, "a header field is malformed");
        if (h->n_fields == HTTPD_MAX_FIELDS) {
            *ret_text = "too many header fields";
            return -431;
        }
        size_t next = (size_t)(lf - p) + 1;
        rc = parse_field(p, at, next - 2 - at, h, &hosts, ret_text);
        if (rc != 0)
            return rc;
        at = next;
    }
    if (h->has_length && h->chunked)
        return fail(ret_text, "Content-Length and Transfer-Encoding together");
    if (hosts == 0 && !h->http10)
        return fail(ret_text, "the Host field is missing");
    return 0;
}

struct str httpd_head_field(const struct httpd_head *h, const char *p, const char *name)
{
    size_t n = strlen(name);
    for (unsigned i = 0; i < h->n_fields; i++)
        if (h->fields[i].name_len == n && memcmp(p + h->fields[i].name, name, n) == 0)
            return str_make(p + h->fields[i].value, h->fields[i].value_len);
    return (struct str){NULL, 0};
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "1f;name=value": the size, and an extension without control characters, which is ignored. */
static int parse_chunk_size(const char *p, size_t n, uint64_t *ret)
{
    uint64_t v = 0;
    size_t i = 0;
    for (; i < n && hex_digit(p[i]) >= 0; i++) {
        if (i == 15)
            return -400;
        v = v << 4 | (unsigned)hex_digit(p[i]);
    }
    if (i == 0 || (i < n && p[i] != ';'))
        return -400;
    for (; i < n; i++)
        if (((unsigned char)p[i] < ' ' && p[i] != '\t') || p[i] == 0x7f)
            return -400;
    *ret = v;
    return 0;
}

/* A line with its CRLF from `raw` on. 1: its length without CRLF; 0: not whole yet; -400. */
static int take_line(const char *p, size_t len, size_t raw, size_t max, size_t *ret_n)
{
    const char *lf = memchr(p + raw, '\n', len - raw);
    if (!lf)
        return len - raw > max ? -400 : 0;
    size_t n = (size_t)(lf - p) - raw;
    if (n == 0 || p[raw + n - 1] != '\r' || n - 1 > max)
        return -400;
    *ret_n = n - 1;
    return 1;
}

static int trailer_line(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && token_char[(unsigned char)p[i]])
        i++;
    if (i == 0 || i == n || p[i] != ':')
        return -400;
    for (; i < n; i++)
        if (((unsigned char)p[i] < ' ' && p[i] != '\t') || p[i] == 0x7f)
            return -400;
    return 0;
}

int httpd_chunks_decode(struct httpd_chunks *c, char *p, size_t len, size_t max_body,
                        size_t max_trailer, size_t *raw, size_t *out)
{
    size_t n = 0;
    for (;;) {
        int rc;
        switch (c->state) {
        case CHUNK_SIZE:
            rc = take_line(p, len, *raw, 256, &n);
            if (rc <= 0)
                return rc;
            if (parse_chunk_size(p + *raw, n, &c->left) != 0)
                return -400;
            if (c->left > max_body || *out > max_body - c->left)
                return -413;
            *raw += n + 2;
            c->state = c->left ? CHUNK_DATA : CHUNK_TRAILER;
            break;
        case CHUNK_DATA:
            n = len - *raw < c->left ? len - *raw : (size_t)c->left;
            memmove(p + *out, p + *raw, n);
            *raw += n, *out += n, c->left -= n;
            if (c->left)
                return 0;
            c->state = CHUNK_DATA_END;
            break;
        case CHUNK_DATA_END:
            if (len - *raw < 2)
                return len - *raw == 1 && p[*raw] != '\r' ? -400 : 0;
            if (p[*raw] != '\r' || p[*raw + 1] != '\n')
                return -400;
            *raw += 2;
            c->state = CHUNK_SIZE;
            break;
        case CHUNK_TRAILER:
            rc = take_line(p, len, *raw, max_trailer, &n);
            if (rc <= 0)
                return rc;
            c->trailer_bytes += n + 2;
            if (c->trailer_bytes > max_trailer + 2 || (n && trailer_line(p + *raw, n) != 0))
                return -400;
            *raw += n + 2;
            if (n == 0)
                c->state = CHUNK_DONE;
            break;
        default:
            return 1;
        }
    }
}
