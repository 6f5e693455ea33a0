/* dumps: a walk over UTF-8, escaping what Python escapes.
 * SPDX-License-Identifier: Apache-2.0  */
#include "emulator/dumps.h"

static unsigned decode(const char **p)
{
    const unsigned char *s = (const unsigned char *)*p;
    unsigned n = s[0] < 0x80 ? 1 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : 4;
    unsigned c = n == 1 ? s[0] : s[0] & (0xffu >> (n + 1));
    for (unsigned i = 1; i < n; i++)
        c = c << 6 | (s[i] & 0x3f);
    *p += n;
    return c;
}

static bool plain(char c)
{
    return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

void dumps_text(struct buf *out, const char *name, struct str s)
{
    buf_z(out, ", \"");
    buf_z(out, name);
    buf_z(out, "\": \"");
    for (const char *p = s.p, *end = s.p + s.n; p < end;) {
        const char *from = p;
        while (p < end && plain(*p))
            p++;
        buf_append(out, from, (size_t)(p - from));
        if (p == end)
            break;
        unsigned c = decode(&p);
        if (c == '"' || c == '\\')
            buf_printf(out, "\\%c", (int)c);
        else if (c == '\n')
            buf_z(out, "\\n");
        else if (c >= 0x10000)
            buf_printf(out, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                       0xdc00 + ((c - 0x10000) & 0x3ff));
        else
            buf_printf(out, "\\u%04x", c);
    }
    buf_char(out, '"');
}

void dumps_z(struct buf *out, const char *name, const char *z)
{
    dumps_text(out, name, str_of(z));
}
