/* span, private: the numbers of the fields of proto/span.proto's Span.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include "data/span.h"
#include "data/wire.h"

#define SPAN_VERSION 1
enum {
    FIELD_VERSION = 1,
    FIELD_SOURCE = 2,
    FIELD_FROM = 3,
    FIELD_TO = 4,
    FIELD_LOST = 5,
    FIELD_DATASET = 6,
    FIELD_RULES = 7,
    FIELD_ROWS = 8,
    FIELD_REJECTS = 9,
    FIELD_REJECT = 10,
    FIELD_FIRST_ROW = 11 /* one field for each dataset */
};
/* Inside a row: three fields of provenance, then the columns. */
enum { ITEM_POSITION = 1, ITEM_ITEM = 2, ITEM_INGESTED = 3, ITEM_CONTENT = 4 };
enum {
    REJECT_FIELD_REASON = 4,
    REJECT_FIELD_DETAIL = 5,
    REJECT_FIELD_KEY = 6,
    REJECT_FIELD_VALUE = 7
};
