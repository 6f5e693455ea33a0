/* list: a doubly linked ring whose nodes live inside the objects.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next, *prev;
};

#define LIST_ENTRY(node, type, member) ((type *)((char *)(node)-offsetof(type, member)))
/* The body may remove `it` itself. */
#define LIST_EACH(it, tmp, head)                                                                   \
    for (struct list *it = (head)->next, *tmp = it->next; it != (head); it = tmp, tmp = it->next)

static inline void list_init(struct list *l)
{
    l->next = l->prev = l;
}
static inline bool list_empty(const struct list *l)
{
    return l->next == l;
}
static inline void list_push(struct list *head, struct list *n) /* at the end */
{
    n->prev = head->prev, n->next = head;
    head->prev->next = n, head->prev = n;
}
static inline void list_push_front(struct list *head, struct list *n)
{
    list_push(head->next, n);
}
static inline void
list_remove(struct list *n) /* leaves n as an empty ring: removing twice is harmless */
{
    n->prev->next = n->next, n->next->prev = n->prev;
    list_init(n);
}
static inline struct list *list_pop(struct list *head) /* the first, or NULL */
{
    if (list_empty(head))
        return NULL;
    struct list *n = head->next;
    list_remove(n);
    return n;
}
/* Moves everything from `from` to the end of `to`. */
static inline void list_splice(struct list *to, struct list *from)
{
    if (list_empty(from))
        return;
    from->next->prev = to->prev, to->prev->next = from->next;
    from->prev->next = to, to->prev = from->prev;
    list_init(from);
}
