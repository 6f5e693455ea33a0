-- Most popular category in each country: rank 1 by number of posts, ties kept.
-- SPDX-License-Identifier: Apache-2.0
SELECT country, category, category_count
FROM (
    SELECT g.country, p.category, count(*) AS category_count
    FROM pin p JOIN geo g ON p.ind = g.ind
    GROUP BY g.country, p.category
)
QUALIFY rank() OVER (PARTITION BY country ORDER BY category_count DESC) = 1
ORDER BY country NULLS LAST, category NULLS LAST
