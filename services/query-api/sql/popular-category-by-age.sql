-- Most popular category of each age group: rank 1 by number of posts, ties kept.
-- SPDX-License-Identifier: Apache-2.0
WITH counts AS (
    SELECT CASE WHEN u.age >= 51 THEN '50+' WHEN u.age >= 36 THEN '36-50'
                WHEN u.age >= 25 THEN '25-35' WHEN u.age >= 18 THEN '18-24' END AS age_group,
           p.category, count(*) AS category_count
    FROM pin p JOIN "user" u ON p.ind = u.ind
    GROUP BY age_group, p.category
), best AS (
    SELECT age_group, category, category_count, NULL::BIGINT AS _left_out
    FROM counts
    WHERE age_group IS NOT NULL
    QUALIFY rank() OVER (PARTITION BY age_group ORDER BY category_count DESC) = 1
)
SELECT * FROM best
UNION ALL
SELECT NULL, NULL, NULL, coalesce(sum(category_count), 0)::BIGINT FROM counts WHERE age_group IS NULL
ORDER BY _left_out NULLS LAST, age_group, category NULLS LAST
