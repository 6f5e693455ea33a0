/* dumps: members of a JSON object as Python's json.dumps writes them: escaped to ASCII, a blank after comma and colon.
 *
 * Only what follows another member: each begins with a comma. Texts are valid UTF-8.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/buf.h"

void dumps_text(struct buf *out, const char *name, struct str text);
void dumps_z(struct buf *out, const char *name, const char *text);
