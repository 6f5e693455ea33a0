/* store, the file:// part. What is written gets its name only when its bytes are on the disk; a name is there for good only
 * when its folder is synced too.
 * SPDX-License-Identifier: Apache-2.0  */
#include "lake/store_priv.h"
#include "base/clock.h"
#include "base/mem.h"
#include "base/rnd.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static int sys_error(struct err *e, const char *what, const char *path)
{
    int no = errno, code = ERR_IO;
    if (no == ENOSPC || no == EDQUOT || no == EFBIG)
        code = ERR_NOSPACE;
    else if (no == ENOENT || no == ENOTDIR)
        code = ERR_NOT_FOUND;
    else if (no == EEXIST)
        code = ERR_EXISTS;
    char text[96];
    return err_set(e, code, "%s %s: %s", what, path, strerror_r(no, text, sizeof text));
}

/* The same where an absent file would be no answer: a folder that vanished is the disk's failure. */
static int write_error(struct err *e, const char *what, const char *path)
{
    int rc = sys_error(e, what, path);
    if (rc != ERR_NOT_FOUND)
        return rc;
    if (e)
        e->code = ERR_IO;
    return ERR_IO;
}

static char *full_path(const struct store *s, const char *key)
{
    return mem_printf("%s/%s", s->root, key);
}

static char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == path ? mem_strdup("/") : mem_strndup(path, (size_t)(slash - path));
}

static int sync_folder(const char *path)
{
    char *folder = folder_of(path);
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    mem_free(folder);
    if (fd < 0)
        return -1;
    int rc = fsync(fd);
    close(fd);
    return rc;
}

/* Makes the folder of `path` (all but its last part) and syncs what it made. */
static int make_folders(const char *path, struct err *e)
{
    char *p = mem_strdup(path), *last = strrchr(p, '/');
    *last = 0;
    int rc = 0;
    struct stat st;
    if (last == p || stat(p, &st) == 0) {
        mem_free(p);
        return 0;
    }
    for (char *at = p + 1; !rc; at++) {
        if (*at && *at != '/')
            continue;
        char was = *at;
        *at = 0;
        if (mkdir(p, 0777) == 0) {
            if (sync_folder(p))
                rc = write_error(e, "sync the folder above", p);
        } else if (errno != EEXIST && errno != EISDIR) {
            int no = errno; /* a folder that is there may answer EROFS or EACCES */
            if (stat(p, &st) || !S_ISDIR(st.st_mode)) {
                errno = no;
                rc = write_error(e, "make folder", p);
            }
        }
        *at = was;
        if (!was)
            break;
    }
    mem_free(p);
    return rc;
}

int store_get(struct store *s, const char *key, struct buf *out, struct err *e)
{
    if (!store_key_readable(key))
        return err_set(e, ERR_IO, "%s: no name of an object", key);
    char *path = full_path(s, key);
    int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would never open */
    struct stat st;
    if (fd < 0 || fstat(fd, &st)) {
        rc = sys_error(e, "read", path);
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        rc = err_set(e, ERR_IO, "read %s: not a file", path);
        goto out;
    }
    for (size_t total = 0;;) {
        size_t room = ((size_t)st.st_size > total ? (size_t)st.st_size - total : 0) + 512;
        char *to = buf_reserve(out, room), one;
        if (!to) { /* near the cap: what is left of it, and one byte more to see whether it ends */
            room = out->max > out->len ? out->max - out->len : 0;
            out->overflow = false;
            to = room ? buf_reserve(out, room) : NULL;
        }
        ssize_t n = to ? read(fd, to, room) : read(fd, &one, 1);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = sys_error(e, "read", path);
        else if (n > 0 && !to)
            rc = err_set(e, ERR_LIMIT, "read %s: more than %zu bytes", path, out->max);
        if (n <= 0 || rc)
            break;
        buf_advance(out, (size_t)n);
        total += (size_t)n;
    }
out:
    if (fd >= 0)
        close(fd);
    mem_free(path);
    return rc;
}

static int write_all(int fd, struct str body)
{
    for (size_t done = 0; done < body.n;) {
        ssize_t n = write(fd, body.p + done, body.n - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

static char *hidden_path(const char *path)
{
    char uuid[37];
    rnd_uuid(uuid);
    char *folder = folder_of(path);
    char *hidden = mem_printf("%s/.%s.%s.tmp", folder, strrchr(path, '/') + 1, uuid);
    mem_free(folder);
    return hidden;
}

/* A durable file of an invisible name beside `path`; the caller frees the name. NULL on an error. */
static char *write_hidden(const char *path, struct str body, int *ret_rc, struct err *e)
{
    if ((*ret_rc = make_folders(path, e)))
        return NULL;
    char *hidden = hidden_path(path);
    int fd = open(hidden, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        *ret_rc = write_error(e, "create", hidden);
        mem_free(hidden);
        return NULL;
    }
    int bad = write_all(fd, body) || fsync(fd);
    if (bad)
        *ret_rc = write_error(e, "write", hidden);
    if (close(fd) && !bad) {
        bad = 1;
        *ret_rc = write_error(e, "close", hidden);
    }
    if (bad) {
        (void)unlink(hidden); /* store_sweep is the second chance */
        mem_free(hidden);
        return NULL;
    }
    return hidden;
}

/* Gives a durable file its name, if nobody has it. */
static int link_new(const char *hidden, const char *path, struct err *e)
{
    if (link(hidden, path)) {
        int no = errno, rc;
        if (no == EEXIST) {
            rc = err_set(e, ERR_EXISTS, "%s is there already", path);
            /* It may be our own earlier one, whose folder could not be synced: success must mean durable. */
            if (sync_folder(path))
                rc = err_set(e, ERR_UNKNOWN, "%s is there, but its folder cannot be synced", path);
            return rc;
        }
        rc = write_error(e, "link", path);
        if (no == EIO || no == ESTALE || no == ETIMEDOUT)
            rc = err_set(e, ERR_UNKNOWN, "link %s: the file system gave no clear answer", path);
        return rc;
    }
    if (sync_folder(path))
        return err_set(e, ERR_UNKNOWN, "%s was written, but its folder cannot be synced", path);
    return 0;
}

/* Gives a durable file its name, whoever had it. */
static int rename_over(const char *hidden, const char *path, struct err *e)
{
    if (rename(hidden, path))
        return write_error(e, "rename to", path);
    return sync_folder(path) ? write_error(e, "sync the folder of", path) : 0;
}

static int put(struct store *s, const char *key, struct str body,
               int (*name)(const char *hidden, const char *path, struct err *e), struct err *e)
{
    if (!store_key_writable(key))
        return err_set(e, ERR_IO, "%s: no name of an object", key);
    char *path = full_path(s, key);
    int rc;
    char *hidden = write_hidden(path, body, &rc, e);
    if (hidden) {
        rc = name(hidden, path, e);
        (void)unlink(hidden); /* store_sweep is the second chance */
        mem_free(hidden);
    }
    mem_free(path);
    return rc;
}

int store_put_if_absent(struct store *s, const char *key, struct str body, struct err *e)
{
    return put(s, key, body, link_new, e);
}

int store_put(struct store *s, const char *key, struct str body, struct err *e)
{
    return put(s, key, body, rename_over, e);
}

int store_delete(struct store *s, const char *key, struct err *e)
{
    if (!store_key_readable(key))
        return err_set(e, ERR_IO, "%s: no name of an object", key);
    char *path = full_path(s, key);
    int rc = 0;
    if (unlink(path) && errno != ENOENT && errno != ENOTDIR)
        rc = sys_error(e, "delete", path);
    mem_free(path);
    return rc;
}

int store_size(struct store *s, const char *key, uint64_t *ret_bytes, struct err *e)
{
    if (!store_key_readable(key))
        return err_set(e, ERR_IO, "%s: no name of an object", key);
    char *path = full_path(s, key);
    struct stat st;
    int rc = 0;
    if (stat(path, &st))
        rc = sys_error(e, "look at", path);
    else if (!S_ISREG(st.st_mode))
        rc = err_set(e, ERR_NOT_FOUND, "%s: not a file", path);
    else
        *ret_bytes = (uint64_t)st.st_size;
    mem_free(path);
    return rc;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int store_list(struct store *s, const char *prefix, const char *start, struct store_names *ret,
               struct err *e)
{
    struct store_names out = {0};
    size_t room = 0;
    char *path = full_path(s, prefix);
    DIR *d = opendir(path);
    int rc = 0;
    if (!d) {
        if (errno != ENOENT && errno != ENOTDIR)
            rc = sys_error(e, "list", path);
        goto out;
    }
    for (;;) {
        errno = 0;
        struct dirent *en = readdir(d);
        if (!en) {
            if (errno)
                rc = sys_error(e, "list", path);
            break;
        }
        if (en->d_name[0] == '.' || (start && strcmp(en->d_name, start) < 0))
            continue;
        if (out.n == room) {
            size_t more = room ? room * 2 : 64;
            out.names = mem_realloc(out.names, room * sizeof *out.names, more * sizeof *out.names);
            room = more;
        }
        out.names[out.n++] = mem_strdup(en->d_name);
    }
    closedir(d);
    if (out.n)
        qsort(out.names, out.n, sizeof *out.names, by_name);
out:
    mem_free(path);
    if (rc)
        store_names_free(&out);
    else
        *ret = out;
    return rc;
}

char *store_stage(struct store *s, const char *key, struct err *e)
{
    if (!store_key_writable(key)) {
        err_set(e, ERR_IO, "%s: no name of an object", key);
        return NULL;
    }
    char *path = full_path(s, key), *hidden = NULL;
    if (!make_folders(path, e))
        hidden = hidden_path(path);
    mem_free(path);
    return hidden;
}

int store_publish(struct store *s, const char *staged, const char *key, struct err *e)
{
    if (!store_key_writable(key))
        return err_set(e, ERR_IO, "%s: no name of an object", key);
    int fd = open(staged, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return write_error(e, "open", staged);
    int rc = fsync(fd) ? write_error(e, "sync", staged) : 0;
    close(fd);
    if (rc)
        return rc;
    char *path = full_path(s, key);
    rc = make_folders(path, e);
    if (!rc)
        rc = link_new(staged, path, e);
    if (!rc)
        (void)unlink(staged); /* store_sweep is the second chance */
    mem_free(path);
    return rc;
}

void store_discard(struct store *s, const char *staged)
{
    (void)s;
    (void)unlink(staged); /* it may never have been written */
}

char *store_local_path(struct store *s, const char *key)
{
    return full_path(s, key);
}

static int sweep(const char *path, uint64_t age_ms, unsigned depth, struct err *e)
{
    DIR *d = opendir(path);
    if (!d)
        return errno == ENOENT || errno == ENOTDIR ? 0 : sys_error(e, "list", path);
    int removed = 0;
    uint64_t now = clock_wall_ms();
    for (struct dirent *en; (en = readdir(d)) != NULL;) {
        if (!strcmp(en->d_name, ".") || !strcmp(en->d_name, ".."))
            continue;
        char *sub = mem_printf("%s/%s", path, en->d_name);
        struct stat st;
        if (lstat(sub, &st) == 0) {
            uint64_t at =
                (uint64_t)st.st_mtim.tv_sec * 1000 + (uint64_t)st.st_mtim.tv_nsec / 1000000;
            bool ours = en->d_name[0] == '.' && str_ends(str_of(en->d_name), STR(".tmp"));
            if (S_ISDIR(st.st_mode) && depth > 0) {
                int n = sweep(sub, age_ms, depth - 1, NULL);
                removed += n > 0 ? n : 0;
            } else if (S_ISREG(st.st_mode) && ours && at + age_ms <= now && unlink(sub) == 0) {
                removed++;
            }
        }
        mem_free(sub);
    }
    closedir(d);
    return removed;
}

int store_sweep(struct store *s, const char *prefix, uint64_t age_ms, struct err *e)
{
    char *path = full_path(s, prefix);
    int rc = sweep(path, age_ms, 2, e);
    mem_free(path);
    return rc;
}
