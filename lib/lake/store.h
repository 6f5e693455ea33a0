/* store: objects under one URL: what the Delta log and its data files need of a place to keep bytes.
 *
 * file:// is the one implementation; the functions are what an object store has to offer, so that another place fits behind them.
 * Keys are relative, with '/' between folders, of [A-Za-z0-9._=/-]. Everything blocks: call it in work jobs. Threads: any, at once.
 * Put-if-absent on a folder: temporary file, fsync, link(2), fsync of the folder (delta contract 1.8); never a plain rename.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"
#include "base/err.h"

struct store;
/* makes the folder; probes that it can be written: ERR_CONFIG */
int store_open(const char *url, struct store **ret, struct err *e);
/* makes and writes nothing; the folder may come later */
int store_open_read(const char *url, struct store **ret, struct err *e);
void store_close(struct store **s);
const char *store_url(const struct store *s);

/* Appends the whole object. ERR_NOT_FOUND; ERR_LIMIT beyond out's cap; ERR_IO. */
int store_get(struct store *s, const char *key, struct buf *out, struct err *e);
/* 0: written and durable; ERR_EXISTS: the key is taken; ERR_UNKNOWN: may have been written; ERR_NOSPACE, ERR_IO: certainly not. */
int store_put_if_absent(struct store *s, const char *key, struct str body, struct err *e);
/* replaces, whole or not at all */
int store_put(struct store *s, const char *key, struct str body, struct err *e);
int store_delete(struct store *s, const char *key, struct err *e); /* absent: 0 */
int store_size(struct store *s, const char *key, uint64_t *ret_bytes, struct err *e);

struct store_names {
    char **names; /* base names, sorted bytewise; names that begin with '.' are left out */
    size_t n;
};
/* Names in folder `prefix` (without its trailing '/') that are >= `start`. A folder that is not there: none. */
int store_list(struct store *s, const char *prefix, const char *start, struct store_names *ret,
               struct err *e);
void store_names_free(struct store_names *n);

/* For a program that writes files by path (DuckDB): a local path to write to, of an invisible name; then either publish
 * (durable: file and folder are synced, and visible under `key`; the name must be new) or discard. The caller frees the path with mem_free. */
/* NULL on an error; makes folders */
char *store_stage(struct store *s, const char *key, struct err *e);
int store_publish(struct store *s, const char *staged, const char *key, struct err *e);
void store_discard(struct store *s, const char *staged);
/* A local path to read an object from. The caller frees. */
char *store_local_path(struct store *s, const char *key);
/* Removes invisible files that killed processes left under `prefix` and that are older than age_ms. Number removed, or an error. */
int store_sweep(struct store *s, const char *prefix, uint64_t age_ms, struct err *e);
