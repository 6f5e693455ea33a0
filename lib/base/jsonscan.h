/* jsonscan: reads a JSON document once, from front to back, strictly (RFC 8259), and hands out raw slices and checked values.
 *
 * Stage 1 (simdjson: structural index, UTF-8, control characters in strings) runs in jsonscan_begin; the walker visits every
 * token, so that what is skipped is checked as well: literals, escapes, number grammar, depth, trailing bytes.
 * Numbers of any size pass as raw text. Any call that fails leaves the scanner in its error state: further calls fail too.
 *
 *   rc = jsonscan_begin(js, p, n);
 *   rc = jsonscan_object(js);                          the value at hand is an object: step into it
 *   while ((rc = jsonscan_key(js, &key)) == 1)         1: a key, its value is at hand; 0: the object ended; <0: error
 *       … jsonscan_peek(js), and exactly one of: jsonscan_object, jsonscan_array, jsonscan_string, jsonscan_raw …
 *   rc = jsonscan_end(js);                             nothing but blanks may follow
 *
 * Ownership: the document stays the caller's and must outlive every slice; JSONSCAN_PADDING bytes after it must be readable (any content).
 * A key is handed out unescaped; slices of unescaped text with escapes live in the scanner until the next begin.
 * Threads: one scanner, one thread. Memory: proportional to the largest document seen; jsonscan_trim gives it back.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "base/err.h"
#include "base/str.h"

#define JSONSCAN_PADDING 64

enum json_type {
    JSON_T_NULL,
    JSON_T_BOOL,
    JSON_T_NUMBER,
    JSON_T_STRING,
    JSON_T_OBJECT,
    JSON_T_ARRAY,
    JSON_T_BAD
};

enum json_fault {
    JSON_F_NONE,
    JSON_F_SYNTAX,   /* not JSON */
    JSON_F_UTF8,     /* broken UTF-8 */
    JSON_F_DEPTH,    /* nested deeper than max_depth */
    JSON_F_TRAILING, /* bytes after the value */
    JSON_F_TYPE      /* the caller asked for another type than the one at hand */
};

struct jsonscan;
struct jsonscan *jsonscan_new(unsigned max_depth);
void jsonscan_free(struct jsonscan **js);
void jsonscan_trim(struct jsonscan *js, size_t keep_bytes);

/* All return 0 or ERR_BAD_DATA unless they say otherwise. */
int jsonscan_begin(struct jsonscan *js, const char *p, size_t n);
/* of the value at hand; BAD at an end or error; looks at the first byte only */
enum json_type jsonscan_peek(const struct jsonscan *js);
int jsonscan_object(struct jsonscan *js);
int jsonscan_key(struct jsonscan *js, struct str *ret_key); /* 1, 0 at the end, or an error */
/* where the text of the last key begins in the document */
size_t jsonscan_key_at(const struct jsonscan *js);
int jsonscan_array(struct jsonscan *js);
int jsonscan_item(struct jsonscan *js); /* 1: an item is at hand, 0: the array ended, or an error */
/* The unescaped text. A lone surrogate (\\ud800 without its partner) sets *ret_lone and is replaced by U+FFFD; JSON itself allows it. */
int jsonscan_string(struct jsonscan *js, struct str *ret, bool *ret_lone);
/* The value at hand as it stands in the document (checked, whatever it is): from its first byte to its last. */
int jsonscan_raw(struct jsonscan *js, struct str *ret);
/* Only blanks may be left. */
int jsonscan_end(struct jsonscan *js);

/* After an error: what, at which byte from the front, and a text for people ("expected ':' after a key"). */
enum json_fault jsonscan_fault(const struct jsonscan *js, size_t *ret_pos, const char **ret_text);
