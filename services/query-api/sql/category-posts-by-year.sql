-- How many posts each category had in each year of the time of the post.
-- SPDX-License-Identifier: Apache-2.0
SELECT post_year, category, category_count
FROM (
    SELECT year(g.timestamp) AS post_year, p.category, count(*) AS category_count
    FROM pin p JOIN geo g ON p.ind = g.ind
    WHERE g.timestamp >= make_timestamptz($from, 1, 1, 0, 0, 0.0)
      AND g.timestamp < make_timestamptz($to + 1, 1, 1, 0, 0, 0.0)
    GROUP BY post_year, p.category
)
QUALIFY $top = 'all' OR rank() OVER (PARTITION BY post_year ORDER BY category_count DESC) = 1
ORDER BY post_year, category_count DESC, category NULLS LAST
