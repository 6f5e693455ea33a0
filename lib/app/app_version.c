/* app_version: the only file that knows what the build calls itself.
 * SPDX-License-Identifier: Apache-2.0  */
#include "app/app_priv.h"
#include <jansson.h>
#include <uv.h>

#ifndef SLUICE_VERSION
#define SLUICE_VERSION "0"
#endif
#ifndef SLUICE_REVISION
#define SLUICE_REVISION "unknown"
#endif

const char *app_version(void)
{
    return SLUICE_VERSION;
}

const char *app_revision(void)
{
    return SLUICE_REVISION;
}

static const char *jansson_version(void)
{
    return JANSSON_VERSION;
}

static const struct app_library everywhere[] = {
    {"libuv", uv_version_string}, {"jansson", jansson_version}, {0}};

static void put_libraries(const struct app_library *l, bool json, const char *sep, struct buf *out)
{
    for (; l && l->name; l++) {
        buf_z(out, sep);
        if (json) {
            buf_printf(out, "\"%s\":", l->name);
            buf_json(out, str_of(l->version()));
        } else {
            buf_printf(out, "%s %s", l->name, l->version());
        }
        sep = json ? "," : "\n  ";
    }
}

void app_version_text(const struct app_def *def, bool json, struct buf *out)
{
    if (json)
        buf_printf(out, "{\"name\":\"%s\",\"version\":\"%s\",\"revision\":\"%s\",\"libraries\":{",
                   def->name, app_version(), app_revision());
    else
        buf_printf(out, "%s %s (%s)", def->name, app_version(), app_revision());
    put_libraries(everywhere, json, json ? "" : "\n  ", out);
    put_libraries(def->libraries, json, json ? "," : "\n  ", out);
    buf_z(out, json ? "}}" : "\n");
}
