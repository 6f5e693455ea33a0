/* str: slices of bytes and the small parsers that work on them.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/str.h"
#include "base/err.h"
#include "base/mem.h"
#include <endian.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

bool str_ieq(struct str a, struct str b)
{
    if (a.n != b.n)
        return false;
    for (size_t i = 0; i < a.n; i++) {
        if (lower(a.p[i]) != lower(b.p[i]))
            return false;
    }
    return true;
}

bool str_starts(struct str s, struct str prefix)
{
    return s.n >= prefix.n && str_eq(str_make(s.p, prefix.n), prefix);
}

bool str_ends(struct str s, struct str suffix)
{
    return s.n >= suffix.n && (!suffix.n || memcmp(s.p + s.n - suffix.n, suffix.p, suffix.n) == 0);
}

int str_cmp(struct str a, struct str b)
{
    size_t n = a.n < b.n ? a.n : b.n;
    int c = n ? memcmp(a.p, b.p, n) : 0;
    return c ? c : a.n < b.n ? -1 : a.n > b.n;
}

struct str str_trim(struct str s)
{
    while (s.n && (s.p[0] == ' ' || s.p[0] == '\t'))
        s.p++, s.n--;
    while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
        s.n--;
    return s;
}

bool str_next(struct str *rest, char sep, struct str *ret_part)
{
    if (!rest->p)
        return false;
    const char *end = rest->n ? memchr(rest->p, sep, rest->n) : NULL;
    if (!end) {
        *ret_part = *rest;
        *rest = (struct str){NULL, 0};
        return true;
    }
    *ret_part = str_make(rest->p, (size_t)(end - rest->p));
    rest->n -= ret_part->n + 1;
    rest->p = end + 1;
    return true;
}

int str_u64(struct str s, uint64_t *ret)
{
    uint64_t v = 0;
    if (!s.n)
        return ERR_BAD_DATA;
    for (size_t i = 0; i < s.n; i++) {
        if (!digit(s.p[i]))
            return ERR_BAD_DATA;
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(s.p[i] - '0'), &v))
            return ERR_BAD_DATA;
    }
    *ret = v;
    return 0;
}

int str_i64(struct str s, int64_t *ret)
{
    uint64_t v;
    bool minus = s.n && s.p[0] == '-';
    if (str_u64(minus ? str_make(s.p + 1, s.n - 1) : s, &v) < 0)
        return ERR_BAD_DATA;
    if (v > (uint64_t)INT64_MAX + minus)
        return ERR_BAD_DATA;
    *ret = (int64_t)(minus ? 0 - v : v);
    return 0;
}

static size_t digits(const char *p, size_t n)
{
    size_t i = 0;
    while (i < n && digit(p[i]))
        i++;
    return i;
}

static bool json_number(struct str s)
{
    size_t i = s.n && s.p[0] == '-', k = digits(s.p + i, s.n - i);
    if (!k || (k > 1 && s.p[i] == '0'))
        return false;
    i += k;
    if (i < s.n && s.p[i] == '.') {
        k = digits(s.p + i + 1, s.n - i - 1);
        if (!k)
            return false;
        i += k + 1;
    }
    if (i < s.n && (s.p[i] == 'e' || s.p[i] == 'E')) {
        i++;
        if (i < s.n && (s.p[i] == '+' || s.p[i] == '-'))
            i++;
        k = digits(s.p + i, s.n - i);
        if (!k)
            return false;
        i += k;
    }
    return i == s.n;
}

int str_double(struct str s, double *ret)
{
    if (!s.n || !json_number(s))
        return ERR_BAD_DATA;
    char small[256];
    CLEANUP(mem_cleanup) char *large = s.n < sizeof small ? NULL : mem_strndup(s.p, s.n);
    if (!large) {
        memcpy(small, s.p, s.n);
        small[s.n] = 0;
    }
    double v = strtod(large ? large : small, NULL);
    if (!isfinite(v))
        return ERR_BAD_DATA;
    *ret = v;
    return 0;
}

struct unit {
    const char *name;
    uint64_t factor;
};
/* From the largest to the smallest; the last one ends both. */
static const struct unit durations[] = {
    {"d", 86400000}, {"h", 3600000}, {"m", 60000}, {"s", 1000}, {"ms", 1}};
static const struct unit sizes[] = {
    {"TiB", (uint64_t)1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"", 1}};

static int with_unit(struct str s, const struct unit *units, uint64_t *ret)
{
    size_t n = digits(s.p, s.n);
    uint64_t v;
    if (str_u64(str_make(s.p, n), &v) < 0)
        return ERR_BAD_DATA;
    struct str name = str_make(s.p + n, s.n - n);
    uint64_t factor = 0;
    for (int i = 0; i < 5; i++) {
        if (str_is(name, units[i].name))
            factor = units[i].factor;
    }
    if (!factor && v == 0 && !name.n)
        factor = 1; /* nothing is nothing in any unit */
    if (!factor || __builtin_mul_overflow(v, factor, &v))
        return ERR_BAD_DATA;
    *ret = v;
    return 0;
}

int str_duration_ms(struct str s, uint64_t *ret_ms)
{
    return with_unit(s, durations, ret_ms);
}

int str_bytes(struct str s, uint64_t *ret_bytes)
{
    return with_unit(s, sizes, ret_bytes);
}

static char *to_unit(uint64_t v, const struct unit *units, char out[24])
{
    int i = 0;
    while (i < 4 && (v == 0 || v % units[i].factor))
        i++;
    snprintf(out, 24, "%llu%s", (unsigned long long)(v / units[i].factor), units[i].name);
    return out;
}

char *str_from_duration(uint64_t ms, char out[24])
{
    return to_unit(ms, durations, out);
}

char *str_from_bytes(uint64_t bytes, char out[24])
{
    return to_unit(bytes, sizes, out);
}

#define NOT_ASCII 0x8080808080808080

/* How many bytes the character at p has that is not ASCII; 0: it is none. */
static size_t utf8_length(const unsigned char *p, const unsigned char *end)
{
    unsigned char c = *p;
    size_t len = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
    if (c < 0xc2 || c > 0xf4 || (size_t)(end - p) < len)
        return 0;
    /* The second byte's range rules out overlong forms, surrogates, and what lies past U+10FFFF. */
    unsigned char lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    unsigned char hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    if (p[1] < lo || p[1] > hi)
        return 0;
    for (size_t i = 2; i < len; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    return len;
}

bool str_utf8_valid(struct str s)
{
    const unsigned char *p = (const unsigned char *)s.p, *end = p + s.n;
    while (p < end) {
        /* Most text is ASCII: 32 bytes at a time, then 8, then up to the first other byte. */
        for (uint64_t w[4]; end - p >= 32; p += 32) {
            memcpy(w, p, 32);
            if ((w[0] | w[1] | w[2] | w[3]) & NOT_ASCII)
                break;
        }
        for (uint64_t w; end - p >= 8; p += 8) {
            memcpy(&w, p, 8);
            w = le64toh(w) & NOT_ASCII;
            if (w) {
                p += __builtin_ctzll(w) / 8;
                break;
            }
        }
        while (p < end && *p < 0x80)
            p++;
        while (p < end && *p >= 0x80) {
            size_t len = utf8_length(p, end);
            if (!len)
                return false;
            p += len;
        }
    }
    return true;
}

size_t str_base64_size(size_t n)
{
    return (n + 2) / 3 * 4;
}

size_t str_base64_encode(const void *data, size_t n, bool url, char *out)
{
    const char *alphabet = url ? "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
                               : "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const unsigned char *p = data;
    char *o = out;
    for (; n >= 3; n -= 3, p += 3) {
        *o++ = alphabet[p[0] >> 2];
        *o++ = alphabet[(p[0] & 3) << 4 | p[1] >> 4];
        *o++ = alphabet[(p[1] & 15) << 2 | p[2] >> 6];
        *o++ = alphabet[p[2] & 63];
    }
    if (n) {
        unsigned second = n == 2 ? p[1] : 0;
        *o++ = alphabet[p[0] >> 2];
        *o++ = alphabet[(p[0] & 3) << 4 | second >> 4];
        if (n == 2)
            *o++ = alphabet[(second & 15) << 2];
        else if (!url)
            *o++ = '=';
        if (!url)
            *o++ = '=';
    }
    return (size_t)(o - out);
}

size_t str_base64_max(size_t n)
{
    return n / 4 * 3 + 3;
}

static int sextet(char c, bool url)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (digit(c))
        return c - '0' + 52;
    return c == (url ? '-' : '+') ? 62 : c == (url ? '_' : '/') ? 63 : -1;
}

int str_base64_decode(struct str s, bool url, void *out, size_t *ret_n)
{
    unsigned char *o = out;
    size_t n = s.n;
    if (!url) {
        if (n % 4)
            return ERR_BAD_DATA;
        if (n && s.p[n - 1] == '=')
            n -= s.p[n - 2] == '=' ? 2 : 1;
    }
    if (n % 4 == 1)
        return ERR_BAD_DATA;
    uint32_t bits = 0;
    for (size_t i = 0; i < n; i++) {
        int v = sextet(s.p[i], url);
        if (v < 0)
            return ERR_BAD_DATA;
        bits = bits << 6 | (uint32_t)v;
        if (i % 4 == 3) {
            *o++ = (unsigned char)(bits >> 16);
            *o++ = (unsigned char)(bits >> 8);
            *o++ = (unsigned char)bits;
        }
    }
    /* The bits behind the last byte are not looked at, as in the decoders of the clients we know. */
    if (n % 4 == 2) {
        *o++ = (unsigned char)(bits >> 4);
    } else if (n % 4 == 3) {
        *o++ = (unsigned char)(bits >> 10);
        *o++ = (unsigned char)(bits >> 2);
    }
    *ret_n = (size_t)(o - (unsigned char *)out);
    return 0;
}

static const char hex_digits[] = "0123456789abcdef";

void str_hex(const void *data, size_t n, char *out)
{
    const unsigned char *p = data;
    for (size_t i = 0; i < n; i++) {
        *out++ = hex_digits[p[i] >> 4];
        *out++ = hex_digits[p[i] & 15];
    }
}

static int hex_value(char c)
{
    c = lower(c);
    return digit(c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

int str_url_decode(struct str s, bool plus, char *out, size_t *ret_n)
{
    char *o = out;
    for (size_t i = 0; i < s.n; i++) {
        char c = s.p[i];
        if (c == '%') {
            if (s.n - i < 3)
                return ERR_BAD_DATA;
            int hi = hex_value(s.p[i + 1]), lo = hex_value(s.p[i + 2]);
            if (hi < 0 || lo < 0)
                return ERR_BAD_DATA;
            c = (char)(hi << 4 | lo);
            i += 2;
        } else if (plus && c == '+') {
            c = ' ';
        }
        *o++ = c;
    }
    *ret_n = (size_t)(o - out);
    return 0;
}
