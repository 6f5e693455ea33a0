/* jsonscan_value: the checks of single values: literals, numbers, escapes; unescaping; and the slow search for an error's place.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/jsonscan_priv.h"
#include <string.h>

/* What may stand right behind a number or a literal. */
static bool delimiter(char c)
{
    switch (c) {
    case ' ':
    case '\t':
    case '\n':
    case '\r':
    case ',':
    case ':':
    case '[':
    case ']':
    case '{':
    case '}':
        return true;
    default:
        return false;
    }
}

static const char *digits(const char *p, const char *end)
{
    while (p < end && (unsigned char)(*p - '0') < 10)
        p++;
    return p;
}

static const char *check_number(const char *p, const char *end, const char **ret_stop)
{
    const char *q = p + (*p == '-'), *first = q;
    q = digits(q, end);
    *ret_stop = q;
    if (q == first)
        return "a number without digits";
    if (*first == '0' && q - first > 1)
        return "a number with a leading zero";
    if (q < end && *q == '.') {
        first = q + 1;
        q = digits(first, end);
        *ret_stop = q;
        if (q == first)
            return "a number without digits after its point";
    }
    if (q < end && (*q == 'e' || *q == 'E')) {
        first = q + 1;
        if (first < end && (*first == '+' || *first == '-'))
            first++;
        q = digits(first, end);
        *ret_stop = q;
        if (q == first)
            return "a number without digits in its exponent";
    }
    return NULL;
}

static bool literal(const char *p, const char *end, const char *word, size_t n)
{
    return (size_t)(end - p) >= n && memcmp(p, word, n) == 0;
}

const char *jsonscan_check_scalar(const char *p, const char *end, const char **ret_stop,
                                  const char **ret_bad)
{
    const char *stop = p, *text = NULL;
    switch (*p) {
    case 't':
        stop = literal(p, end, "true", 4) ? p + 4 : p;
        break;
    case 'f':
        stop = literal(p, end, "false", 5) ? p + 5 : p;
        break;
    case 'n':
        stop = literal(p, end, "null", 4) ? p + 4 : p;
        break;
    case '-':
    case '0':
    case '1':
    case '2':
    case '3':
    case '4':
    case '5':
    case '6':
    case '7':
    case '8':
    case '9':
        text = check_number(p, end, &stop);
        break;
    default:
        break;
    }
    if (!text && stop == p)
        text = "expected a value";
    if (!text && stop < end && !delimiter(*stop))
        text = "unexpected character after a value";
    *ret_bad = text ? stop : NULL;
    *ret_stop = stop;
    return text;
}

static int hex(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int hex4(const char *p)
{
    int a = hex(p[0]), b = hex(p[1]), c = hex(p[2]), d = hex(p[3]);
    return (a | b | c | d) < 0 ? -1 : a << 12 | b << 8 | c << 4 | d;
}

const char *jsonscan_check_escapes(const char *p, const char *end, const char **ret_bad)
{
    while ((p = p < end ? memchr(p, '\\', (size_t)(end - p)) : NULL)) {
        *ret_bad = p;
        if (end - p < 2)
            return "an escape that is cut off";
        switch (p[1]) {
        case '"':
        case '\\':
        case '/':
        case 'b':
        case 'f':
        case 'n':
        case 'r':
        case 't':
            p += 2;
            break;
        case 'u':
            if (end - p < 6 || hex4(p + 2) < 0)
                return "\\u needs four hexadecimal digits";
            p += 6;
            break;
        default:
            return "unknown escape";
        }
    }
    return NULL;
}

static size_t put_utf8(unsigned c, char *out)
{
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* p is at "\u"; returns how far it reaches: a pair of surrogates is one character. */
static size_t unescape_unicode(const char *p, const char *end, unsigned *ret, bool *ret_lone)
{
    unsigned c = (unsigned)hex4(p + 2);
    *ret = c;
    if (c < 0xd800 || c > 0xdfff)
        return 6;
    if (c < 0xdc00 && end - p >= 12 && p[6] == '\\' && p[7] == 'u') {
        unsigned low = (unsigned)hex4(p + 8);
        if (low >= 0xdc00 && low <= 0xdfff) {
            *ret = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
            return 12;
        }
    }
    *ret = 0xfffd;
    *ret_lone = true;
    return 6;
}

size_t jsonscan_unescape(const char *p, size_t n, char *out, bool *ret_lone)
{
    const char *end = p + n;
    char *o = out;
    while (p < end) {
        const char *q = memchr(p, '\\', (size_t)(end - p));
        size_t plain = (size_t)((q ? q : end) - p);
        memcpy(o, p, plain);
        o += plain;
        if (!q)
            break;
        p = q + 2;
        switch (q[1]) {
        case 'b':
            *o++ = '\b';
            break;
        case 'f':
            *o++ = '\f';
            break;
        case 'n':
            *o++ = '\n';
            break;
        case 'r':
            *o++ = '\r';
            break;
        case 't':
            *o++ = '\t';
            break;
        case 'u': {
            unsigned c;
            p = q + unescape_unicode(q, end, &c, ret_lone);
            o += put_utf8(c, o);
            break;
        }
        default:
            *o++ = q[1];
            break;
        }
    }
    return (size_t)(o - out);
}

/* Length of the well-formed character at p, 0: none. */
static size_t utf8_length(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80)
        return 1;
    size_t len = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    if (p[0] < 0xc2 || p[0] > 0xf4 || left < len)
        return 0;
    unsigned char lo = p[0] == 0xe0 ? 0xa0 : p[0] == 0xf0 ? 0x90 : 0x80;
    unsigned char hi = p[0] == 0xed ? 0x9f : p[0] == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < lo || p[1] > hi)
        return 0;
    for (size_t i = 2; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    return len;
}

const char *jsonscan_locate(const char *p, size_t n, size_t *ret_pos, bool *ret_utf8)
{
    for (size_t i = 0; i < n;) {
        size_t len = utf8_length((const unsigned char *)p + i, n - i);
        if (!len) {
            *ret_pos = i;
            *ret_utf8 = true;
            return "broken UTF-8";
        }
        i += len;
    }
    *ret_utf8 = false;
    size_t opened = 0;
    bool inside = false;
    for (size_t i = 0; i < n; i++) {
        *ret_pos = i;
        if (p[i] == '"') {
            inside = !inside;
            opened = i;
        } else if (inside && (unsigned char)p[i] < 0x20) {
            return "a control character in a string";
        } else if (p[i] == '\\') {
            if (!inside)
                return "a backslash outside of strings";
            i++;
            if (i < n && (unsigned char)p[i] < 0x20) {
                *ret_pos = i;
                return "a control character in a string";
            }
        }
    }
    *ret_pos = inside ? opened : n;
    return inside ? "a string that does not end" : "not JSON";
}
