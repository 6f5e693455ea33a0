/* generate_words: what the generator's names and texts are made of.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once

struct words {
    const char *const *list;
    unsigned n;
};

#define WORDS_CATEGORIES 13
struct category_words {
    const char *name;
    unsigned weight;       /* posts of it among 877 */
    struct words subjects; /* what its posts are about */
};
extern const struct category_words words_categories[WORDS_CATEGORIES];
extern const struct words words_first_names, words_last_names, words_countries, words_qualities,
    words_titles, words_sentences, words_marks, words_pictures, words_posters;
