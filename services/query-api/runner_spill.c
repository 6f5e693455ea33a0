/* runner_spill: the folder for what questions spill, one for each process.
 * SPDX-License-Identifier: Apache-2.0  */
#include "query-api/runner_priv.h"
#include "base/mem.h"
#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FOLDER_PREFIX "sluice-query-"

void runner_spill_remove(const char *path)
{
    DIR *dir = opendir(path);
    struct dirent *en;
    while (dir && (en = readdir(dir))) {
        if (!strcmp(en->d_name, ".") || !strcmp(en->d_name, ".."))
            continue;
        char *inner = mem_printf("%s/%s", path, en->d_name);
        if (unlink(inner) && (errno == EISDIR || errno == EPERM))
            runner_spill_remove(inner);
        mem_free(inner);
    }
    if (dir)
        closedir(dir);
    (void)rmdir(path); /* what cannot be removed stays; the next start tries again */
}

/* Folders of processes that were killed. */
static void sweep(const char *base)
{
    DIR *dir = opendir(base);
    struct dirent *en;
    while (dir && (en = readdir(dir))) {
        struct str name = str_of(en->d_name), pid;
        uint64_t number;
        if (!str_starts(name, STR(FOLDER_PREFIX)))
            continue;
        name = str_make(name.p + strlen(FOLDER_PREFIX), name.n - strlen(FOLDER_PREFIX));
        if (!str_next(&name, '-', &pid) || str_u64(pid, &number) || number > INT32_MAX ||
            !kill((pid_t)number, 0) || errno != ESRCH)
            continue;
        char *path = mem_printf("%s/%s", base, en->d_name);
        runner_spill_remove(path);
        mem_free(path);
    }
    if (dir)
        closedir(dir);
}

int runner_spill_make(const char *base, char **ret_folder, struct err *e)
{
    if (!base[0])
        base = getenv("TMPDIR") && *getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    if (mkdir(base, 0700) && errno != EEXIST)
        return err_set(e, ERR_IO, "spill.dir: %s: %s", base, strerror(errno));
    sweep(base);
    char *folder = mem_printf("%s/" FOLDER_PREFIX "%d-XXXXXX", base, (int)getpid());
    if (!mkdtemp(folder)) {
        int rc =
            err_set(e, ERR_IO, "spill.dir: no folder can be made in %s: %s", base, strerror(errno));
        mem_free(folder);
        return rc;
    }
    *ret_folder = folder;
    return 0;
}
