/* map: an array of entries in the order of insertion, and an open-addressed index over it.
 *
 * Removal leaves an empty entry (key NULL) and a dead slot; both go when the index is built anew.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/map.h"
#include "base/check.h"
#include "base/hash.h"
#include "base/mem.h"

struct entry {
    char *key; /* NULL: removed */
    size_t n;
    uint64_t hash;
    void *value;
};

enum { FREE = 0, DEAD = UINT32_MAX };

struct map {
    struct entry *entries;
    size_t used, room, live; /* entries */
    uint32_t *slots;         /* FREE, DEAD, or the entry's number plus 1 */
    size_t slot_count;       /* a power of two */
};

struct map *map_new(void)
{
    return MEM_NEW(struct map);
}

void map_free(struct map **m)
{
    if (!*m)
        return;
    for (size_t i = 0; i < (*m)->used; i++)
        mem_free((*m)->entries[i].key);
    mem_free((*m)->entries);
    mem_free((*m)->slots);
    mem_free(*m);
    *m = NULL;
}

static uint32_t *slot_of(const struct map *m, struct str key, uint64_t hash)
{
    if (!m->slot_count)
        return NULL;
    for (size_t i = hash & (m->slot_count - 1);; i = (i + 1) & (m->slot_count - 1)) {
        uint32_t s = m->slots[i];
        if (s == FREE)
            return NULL;
        if (s == DEAD)
            continue;
        const struct entry *e = &m->entries[s - 1];
        if (e->hash == hash && e->n == key.n && (!key.n || memcmp(e->key, key.p, key.n) == 0))
            return &m->slots[i];
    }
}

static void index_entry(struct map *m, size_t number)
{
    size_t i = m->entries[number].hash & (m->slot_count - 1);
    while (m->slots[i] != FREE)
        i = (i + 1) & (m->slot_count - 1);
    m->slots[i] = (uint32_t)number + 1;
}

static void rebuild(struct map *m)
{
    size_t to = 0;
    for (size_t i = 0; i < m->used; i++) {
        if (m->entries[i].key)
            m->entries[to++] = m->entries[i];
    }
    m->used = to;
    size_t room = 8;
    while (room < to * 2)
        room *= 2;
    CHECK(room < UINT32_MAX / 4);
    m->entries = mem_realloc(m->entries, m->room * sizeof *m->entries, room * sizeof *m->entries);
    m->room = room;
    m->slot_count = room * 2;
    mem_free(m->slots);
    m->slots = MEM_ARRAY(uint32_t, m->slot_count);
    for (size_t i = 0; i < to; i++)
        index_entry(m, i);
}

void *map_get(const struct map *m, struct str key)
{
    uint32_t *slot = slot_of(m, key, hash_bytes(key.p, key.n, 0));
    return slot ? m->entries[*slot - 1].value : NULL;
}

void *map_put(struct map *m, struct str key, void *value)
{
    CHECK(value);
    uint64_t hash = hash_bytes(key.p, key.n, 0);
    uint32_t *slot = slot_of(m, key, hash);
    if (slot) {
        struct entry *e = &m->entries[*slot - 1];
        void *old = e->value;
        e->value = value;
        return old;
    }
    /* Dead slots belong to entries of this array, so half of the slots are always free. */
    if (m->used == m->room)
        rebuild(m);
    m->entries[m->used] =
        (struct entry){.key = mem_strndup(key.p, key.n), .n = key.n, .hash = hash, .value = value};
    index_entry(m, m->used++);
    m->live++;
    return NULL;
}

void *map_remove(struct map *m, struct str key)
{
    uint32_t *slot = slot_of(m, key, hash_bytes(key.p, key.n, 0));
    if (!slot)
        return NULL;
    struct entry *e = &m->entries[*slot - 1];
    void *value = e->value;
    mem_free(e->key);
    *e = (struct entry){.key = NULL};
    *slot = DEAD;
    m->live--;
    return value;
}

size_t map_count(const struct map *m)
{
    return m->live;
}

bool map_next(const struct map *m, size_t *i, struct str *ret_key, void **ret_value)
{
    while (*i < m->used) {
        const struct entry *e = &m->entries[(*i)++];
        if (!e->key)
            continue;
        if (ret_key)
            *ret_key = str_make(e->key, e->n);
        if (ret_value)
            *ret_value = e->value;
        return true;
    }
    return false;
}
