/* tmpdir: see the header.
 * SPDX-License-Identifier: Apache-2.0  */
#include "tmpdir.h"
#include "base/check.h"
#include "base/mem.h"
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

char *tmpdir_new(void)
{
    const char *base = getenv("TMPDIR");
    char *path = mem_printf("%s/sluice-test-XXXXXX", base && *base ? base : "/tmp");
    CHECK(mkdtemp(path) != NULL);
    return path;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st, (void)kind, (void)ftw;
    return remove(path);
}

void tmpdir_remove(char **path)
{
    if (!*path)
        return;
    /* what stays is in the folder for temporary files */
    (void)nftw(*path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    mem_free(*path);
    *path = NULL;
}
