/* crash: named places at which a test build kills itself.
 * SPDX-License-Identifier: Apache-2.0  */
#include "base/crash.h"

#ifdef SLUICE_CRASH_POINTS
#include "base/str.h"
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>

void crash_point(const char *name)
{
    static _Atomic uint64_t passes;
    const char *wanted = getenv("SLUICE_CRASH_AT");
    if (!wanted || !*wanted)
        return;
    const char *colon = strrchr(wanted, ':');
    uint64_t at = 1;
    size_t n = strlen(wanted);
    if (colon && str_u64(str_of(colon + 1), &at) == 0)
        n = (size_t)(colon - wanted);
    if (!str_eq(str_make(wanted, n), str_of(name)))
        return;
    if (atomic_fetch_add(&passes, 1) + 1 == at)
        raise(SIGKILL);
}
#else
/* A file without a declaration is not C. */
extern const int crash_points_off;
const int crash_points_off = 1;
#endif
