/* lines: the benches' common input: a file of lines, each a target and a body with a tab between them (or a body alone).
 *
 * The whole file stays in memory, with readable bytes behind it. For C and C++. A mistake ends the program.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define LINES_PADDING 256

struct line {
    const char *target, *body; /* target: ends with a 0 byte; "" without one */
    size_t n;                  /* of body */
};
struct lines {
    struct line *line;
    size_t n, bytes; /* bytes: of all bodies */
};

static inline struct lines lines_read(const char *path)
{
    struct lines l = {NULL, 0, 0};
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f || fstat(fileno(f), &st)) {
        perror(path);
        exit(64);
    }
    size_t size = (size_t)st.st_size, cap = 0;
    char *text = (char *)calloc(1, size + LINES_PADDING);
    if (!text || fread(text, 1, size, f) != size) {
        perror(path);
        exit(70);
    }
    fclose(f);
    for (char *p = text, *end = text + size; p < end;) {
        char *stop = (char *)memchr(p, '\n', (size_t)(end - p));
        if (!stop)
            stop = end;
        char *tab = (char *)memchr(p, '\t', (size_t)(stop - p));
        if (l.n == cap) {
            cap = cap ? cap * 2 : 1 << 16;
            l.line = (struct line *)realloc(l.line, cap * sizeof(*l.line));
            if (!l.line)
                exit(70);
        }
        const char *body = tab ? tab + 1 : p;
        if (tab)
            *tab = 0;
        struct line one = {tab ? p : "", body, (size_t)(stop - body)};
        l.line[l.n++] = one;
        l.bytes += one.n;
        p = stop + 1;
    }
    if (!l.n) {
        fprintf(stderr, "%s: empty\n", path);
        exit(64);
    }
    return l;
}

static inline double seconds_of(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}
