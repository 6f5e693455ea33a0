/* generate: posts from a seed (datasets contract, section 6).
 *
 * Every row and every person has a stream of random numbers of its own, seeded from (seed, kind, number), so that rows can be had
 * in any order. Only integers and exactly rounded operations decide, so that the bytes are the same everywhere.
 * SPDX-License-Identifier: Apache-2.0  */
#include "emulator/generate.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include "emulator/dumps.h"
#include "emulator/generate_words.h"
#include <inttypes.h>
#include <stdio.h>
#include <math.h>

/* Characters, not bytes: where a long description is cut, and the most of a title. */
#define DESCRIPTION_CUT 178
#define DESCRIPTION_BYTES 290
#define TITLE_BYTES 195
#define TAGS_BYTES 247
#define TAGS 9

enum stream { STREAM_LINK, STREAM_PERSON, STREAM_PIN, STREAM_GEO };

struct generate {
    uint64_t rows, seed;
};

struct generate *generate_new(uint64_t rows, uint64_t seed)
{
    struct generate *g = MEM_NEW(struct generate);
    g->rows = rows;
    g->seed = seed;
    return g;
}

void generate_free(struct generate **g)
{
    mem_free(*g);
    *g = NULL;
}

uint64_t generate_rows(const struct generate *g)
{
    return g->rows;
}

static struct rnd stream(const struct generate *g, enum stream kind, uint64_t n)
{
    struct rnd r;
    rnd_seed(&r, g->seed * 0x9e3779b97f4a7c15u + n * 4 + (uint64_t)kind);
    return r;
}

static const char *pick(struct rnd *r, const struct words *w)
{
    return w->list[rnd_below(r, w->n)];
}

static bool chance(struct rnd *r, unsigned per_10000)
{
    return rnd_below(r, 10000) < per_10000;
}

/* Most rows have a person of their own, named by the row; the others share one, early ones more often. */
static uint64_t person_of(const struct generate *g, uint64_t row)
{
    for (;;) {
        struct rnd r = stream(g, STREAM_LINK, row);
        if (row == 0 || !chance(&r, 1800))
            return row;
        double u = rnd_double(&r);
        row = (uint64_t)((double)row * u * u * u);
    }
}

static unsigned category_of(const struct generate *g, uint64_t row)
{
    unsigned sum = 0, all = 0, c = 0;
    for (unsigned i = 0; i < WORDS_CATEGORIES; i++)
        all += words_categories[i].weight;
    /* Contiguous ranges of keys. */
    uint64_t place = (uint64_t)((double)row / (double)g->rows * all);
    while (c + 1 < WORDS_CATEGORIES && place >= (sum += words_categories[c].weight))
        c++;
    return c;
}

/* A template's words filled in. */
static void fill(struct rnd *r, struct buf *b, const char *form, const struct words *subjects,
                 const char *name)
{
    for (const char *p = form; *p;) {
        size_t n = strcspn(p, "%");
        buf_append(b, p, n);
        p += n;
        if (!*p)
            break;
        if (p[1] == 'q')
            buf_z(b, pick(r, &words_qualities));
        else if (p[1] == 's')
            buf_z(b, pick(r, subjects));
        else
            buf_z(b, name);
        p += 2;
    }
}

/* Cuts a text to n characters and at most `bytes`. */
static void cut(struct buf *b, size_t characters, size_t bytes)
{
    size_t i = 0, k = 0;
    while (i < b->len && k < characters) {
        size_t next = i + 1;
        while (next < b->len && (b->data[next] & 0xc0) == 0x80)
            next++;
        if (next > bytes)
            break;
        i = next;
        k++;
    }
    b->len = i;
}

/* A moment between two days, uniformly. */
static void put_time(struct buf *out, const char *name, struct rnd *r, int64_t from_day,
                     int64_t to_day)
{
    char text[25];
    uint64_t seconds =
        (uint64_t)from_day * 86400 + rnd_below(r, (uint64_t)(to_day - from_day + 1) * 86400);
    clock_rfc3339(seconds * 1000, text);
    text[10] = ' ';
    text[19] = 0;
    dumps_z(out, name, text);
}

/* ---- people ---- */

struct person {
    const char *first, *last, *country;
    int64_t latitude, longitude; /* in 1/10000 degree */
    unsigned age;
    struct rnd r; /* goes on from here */
};

static unsigned draw_age(struct rnd *r)
{
    uint64_t u = rnd_below(r, 100);
    if (u < 45)
        return 20 + (unsigned)rnd_below(r, 5);
    if (u < 72)
        return 25 + (unsigned)rnd_below(r, 11);
    if (u < 92)
        return 36 + (unsigned)rnd_below(r, 15);
    return 51 + (unsigned)rnd_below(r, 10);
}

static struct person draw_person(const struct generate *g, uint64_t row)
{
    struct person p = {.r = stream(g, STREAM_PERSON, person_of(g, row))};
    p.first = pick(&p.r, &words_first_names);
    p.last = pick(&p.r, &words_last_names);
    double u = rnd_double(&p.r);
    p.country = words_countries.list[(unsigned)(words_countries.n * (u * u * sqrt(u)))];
    p.latitude = (int64_t)rnd_below(&p.r, 1800001) - 900000;
    p.longitude = (int64_t)rnd_below(&p.r, 3600001) - 1800000;
    p.age = draw_age(&p.r);
    return p;
}

/* The quantiles of follower counts, in parts of 10 000, with straight lines between them. */
static const struct {
    unsigned at;
    uint64_t v;
} followers[] = {{0, 0},           {500, 22},       {1000, 120},     {1500, 400},
                 {2020, 940},      {2021, 1000},    {2500, 3000},    {3800, 10000},
                 {5000, 28000},    {6200, 70000},   {7500, 190000},  {8500, 400000},
                 {9290, 999000},   {9291, 1000000}, {9500, 2000000}, {9800, 6000000},
                 {10000, 20000000}};

static void draw_followers(struct rnd *r, char out[24])
{
    uint64_t u = rnd_below(r, 10000);
    unsigned i = 0;
    while (followers[i + 1].at <= u)
        i++;
    uint64_t v = followers[i].v + (followers[i + 1].v - followers[i].v) * (u - followers[i].at) /
                                      (followers[i + 1].at - followers[i].at);
    if (v >= 1000000)
        snprintf(out, 24, "%" PRIu64 "M", v / 1000000);
    else if (v >= 1000)
        snprintf(out, 24, "%" PRIu64 "k", v / 1000);
    else
        snprintf(out, 24, "%" PRIu64, v);
}

/* ---- the three records ---- */

static void put_uuid(struct rnd *r, struct buf *out)
{
    uint64_t a = rnd_u64(r), b = rnd_u64(r);
    char text[37];
    snprintf(text, sizeof text, "%08x-%04x-4%03x-%04x-%012" PRIx64, (unsigned)(a >> 32),
             (unsigned)(a >> 16 & 0xffff), (unsigned)(a & 0xfff),
             (unsigned)(0x8000 | (b >> 48 & 0x3fff)), b & 0xffffffffffff);
    dumps_z(out, "unique_id", text);
}

static void put_title(struct rnd *r, struct buf *b, struct buf *out, const struct words *subjects)
{
    if (chance(r, 110)) {
        dumps_z(out, "title", "No Title Data Available");
        return;
    }
    buf_reset(b);
    fill(r, b, pick(r, &words_titles), subjects, "");
    if (chance(r, 300))
        buf_printf(b, " %s", pick(r, &words_marks));
    if (chance(r, 1000)) {
        buf_z(b, " - ");
        fill(r, b, pick(r, &words_sentences), subjects, "");
    }
    cut(b, TITLE_BYTES, TITLE_BYTES);
    if (chance(r, 11))
        buf_char(b, '\n');
    dumps_text(out, "title", buf_as_str(b));
}

/* The text of a story is a placeholder; a third of all texts are long and cut. */
static void put_description(struct rnd *r, struct buf *b, struct buf *out,
                            const struct words *subjects, bool story)
{
    if (story || chance(r, 185)) {
        dumps_z(out, "description",
                story             ? "No description available Story format"
                : chance(r, 9400) ? "No description available"
                                  : "Untitled");
        return;
    }
    bool long_one = chance(r, 3600);
    size_t length = long_one ? DESCRIPTION_CUT : 20 + rnd_below(r, 155);
    buf_reset(b);
    if (chance(r, 700))
        buf_printf(b, "%s ", pick(r, &words_marks));
    if (chance(r, 110))
        buf_printf(b, "%s ", pick(r, &words_pictures));
    while (b->len < length + 40) {
        fill(r, b, pick(r, &words_sentences), subjects, "");
        buf_char(b, ' ');
    }
    cut(b, length, DESCRIPTION_BYTES);
    while (!long_one && b->len && b->data[b->len - 1] == ' ')
        b->len--;
    if (long_one)
        buf_z(b, "\xe2\x80\xa6\xc2\xa0");
    dumps_text(out, "description", buf_as_str(b));
}

static void put_tags(struct rnd *r, struct buf *b, struct buf *out, const struct words *subjects)
{
    if (chance(r, 160)) {
        dumps_z(out, "tag_list", "N,o, ,T,a,g,s, ,A,v,a,i,l,a,b,l,e");
        return;
    }
    buf_reset(b);
    for (int i = 0; i < TAGS; i++) {
        size_t before = b->len;
        if (i)
            buf_char(b, ',');
        fill(r, b, chance(r, 7000) ? "%q %s" : "%s", subjects, "");
        if (b->len > TAGS_BYTES)
            b->len = before;
    }
    dumps_text(out, "tag_list", buf_as_str(b));
}

static void put_pin(const struct generate *g, uint64_t row, struct buf *out)
{
    const struct category_words *c = &words_categories[category_of(g, row)];
    struct rnd r = stream(g, STREAM_PIN, row);
    struct person p = draw_person(g, row);
    uint64_t kind = rnd_below(&r, 877);
    bool story = kind < 65, unknown_user = chance(&r, 110), no_image = chance(&r, 260);
    char count[24];
    struct buf b;
    buf_init(&b, 4096);
    buf_printf(out, "{\"index\": %" PRIu64, row);
    put_uuid(&r, out);
    put_title(&r, &b, out, &c->subjects);
    put_description(&r, &b, out, &c->subjects, story);
    buf_reset(&b);
    const struct words *theme = &words_categories[rnd_below(&p.r, WORDS_CATEGORIES)].subjects;
    fill(&p.r, &b, pick(&p.r, &words_posters), theme, p.first);
    if (chance(&p.r, 200))
        buf_printf(&b, " %s", pick(&p.r, &words_pictures));
    draw_followers(&p.r, count);
    dumps_text(out, "poster_name", unknown_user ? STR("User Info Error") : buf_as_str(&b));
    dumps_z(out, "follower_count", unknown_user ? "User Info Error" : count);
    put_tags(&r, &b, out, &c->subjects);
    dumps_z(out, "is_image_or_video",
            story       ? "multi-video(story page format)"
            : kind < 91 ? "video"
                        : "image");
    uint64_t name = rnd_u64(&r), more = rnd_u64(&r);
    buf_reset(&b);
    buf_printf(
        &b, "https://images.example.com/originals/%02x/%02x/%02x/%016" PRIx64 "%016" PRIx64 ".jpg",
        (unsigned)(name >> 56), (unsigned)(name >> 48 & 0xff), (unsigned)(name >> 40 & 0xff), name,
        more);
    dumps_text(out, "image_src", no_image ? STR("Image src error.") : buf_as_str(&b));
    buf_printf(out, ", \"downloaded\": %d", !no_image);
    buf_reset(&b);
    buf_printf(&b, "Local save in /data/%s", c->name);
    dumps_text(out, "save_location", buf_as_str(&b));
    dumps_z(out, "category", c->name);
    buf_char(out, '}');
    buf_deinit(&b);
}

static void put_degrees(struct buf *out, const char *name, int64_t v)
{
    int64_t abs = v < 0 ? -v : v;
    char digits[5];
    snprintf(digits, sizeof digits, "%04d", (int)(abs % 10000));
    int n = 4;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    buf_printf(out, ", \"%s\": %s%" PRId64 ".%.*s", name, v < 0 ? "-" : "", abs / 10000, n, digits);
}

static void put_geo(const struct generate *g, uint64_t row, struct buf *out)
{
    struct rnd r = stream(g, STREAM_GEO, row);
    struct person p = draw_person(g, row);
    buf_printf(out, "{\"ind\": %" PRIu64, row);
    put_time(out, "timestamp", &r, clock_days(2017, 10, 20), clock_days(2022, 10, 16));
    put_degrees(out, "latitude", p.latitude);
    put_degrees(out, "longitude", p.longitude);
    dumps_z(out, "country", p.country);
    buf_char(out, '}');
}

static void put_user(const struct generate *g, uint64_t row, struct buf *out)
{
    struct person p = draw_person(g, row);
    buf_printf(out, "{\"ind\": %" PRIu64, row);
    dumps_z(out, "first_name", p.first);
    dumps_z(out, "last_name", p.last);
    buf_printf(out, ", \"age\": %u", p.age);
    put_time(out, "date_joined", &p.r, clock_days(2015, 10, 21), clock_days(2017, 10, 18));
    buf_char(out, '}');
}

void generate_json(const struct generate *g, enum dataset_id id, uint64_t row, struct buf *out)
{
    CHECK(row < g->rows);
    switch (id) {
    case DATASET_PIN:
        put_pin(g, row, out);
        break;
    case DATASET_GEO:
        put_geo(g, row, out);
        break;
    default:
        put_user(g, row, out);
        break;
    }
}
