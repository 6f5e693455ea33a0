/* tmpdir: a folder for one test, and its end.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once

char *tmpdir_new(void);          /* absolute; aborts when there can be none */
void tmpdir_remove(char **path); /* with all that is in it; frees the name */
