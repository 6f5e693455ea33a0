/* option_priv: what the files of option share.
 *
 * option.c        one value from one place, and the order of the places
 * option_name.c   keys, their variables, and the nearest key to one that is none
 * option_value.c  the types: what is allowed, and into the config struct with it
 * option_file.c   the JSON file
 * option_flag.c   the command line; the environment
 * option_text.c   --print-config, --help, docs/config.md
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "app/option.h"

enum { OPTION_FILE_MAX = 1 << 20 };
enum source { FROM_DEFAULT, FROM_FILE, FROM_ENV, FROM_FLAG };

struct slot {
    const struct option_def *def;
    void *config;
    enum source source;
    const char *where;     /* "default", "gateway.json:3", "SLUICE_…", "--key" */
    const char *twin_path; /* the secret came from this file; NULL: it did not */
};

struct options {
    struct slot *slots;
    size_t n;
    char **owned; /* every text made on the way; all freed at the end */
    size_t owned_n, owned_room;
    const char **warnings;
    size_t warnings_n;
};

/* ---- option.c ---- */
char *option_own(struct options *o, char *text);
void option_warn(struct options *o, char *text);
/* One value from one place. `where` must be owned. */
int option_assign(struct options *o, struct slot *slot, bool twin, struct str value,
                  enum source source, const char *where, struct err *e);
int option_read_file(const char *path, size_t max, struct buf *to);

/* ---- option_name.c ---- */
/* The slot of a key, or of a secret's key with _file behind it (*ret_twin). NULL: there is none. */
struct slot *option_find(const struct options *o, struct str key, bool *ret_twin);
struct slot *option_find_env(const struct options *o, struct str name, bool *ret_twin);
void option_env_name(const char *key, char *out, size_t room);
/* "; did you mean kafka.brokers?", or nothing when no key is near. */
const char *option_suggest(const struct options *o, struct str key, char out[160]);

/* ---- option_value.c ---- */
/* Parses into the config struct; texts are copied. False: not allowed, nothing written. */
bool option_store(struct options *o, const struct slot *slot, struct str s);
/* What is allowed, for people. */
const char *option_allowed(const struct option_def *d, char out[160]);

/* ---- option_file.c, option_flag.c ---- */
int option_load_file(struct options *o, const char *path, struct err *e);
int option_load_env(struct options *o, char *const *env, struct err *e);
/* Two walks: the first finds out what is asked for and the file, the second assigns. */
int option_walk_flags(struct options *o, int argc, char *const *argv, enum option_action *action,
                      const char **config, bool assign_them, struct err *e);
