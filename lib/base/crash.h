/* crash: named places at which a test build kills itself, as kill -9 would.
 *
 * SLUICE_CRASH_AT="point" or "point:n" (at the n-th pass; default 1). In other builds CRASH_POINT is nothing.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once

#ifdef SLUICE_CRASH_POINTS
#define CRASH_POINT(name) crash_point(name)
void crash_point(const char *name);
#else
#define CRASH_POINT(name) ((void)0)
#endif
