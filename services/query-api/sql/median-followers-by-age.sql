-- Median follower count of each age group.
-- SPDX-License-Identifier: Apache-2.0
WITH groups AS (
    SELECT CASE WHEN u.age >= 51 THEN '50+' WHEN u.age >= 36 THEN '36-50'
                WHEN u.age >= 25 THEN '25-35' WHEN u.age >= 18 THEN '18-24' END AS age_group,
           coalesce(quantile_cont(p.follower_count, 0.5) FILTER ($median = 'interpolated'),
                    quantile_disc(p.follower_count, 0.5) FILTER ($median = 'lower'))::DOUBLE AS median_follower_count,
           count(*) AS posts
    FROM pin p JOIN "user" u ON p.ind = u.ind
    GROUP BY age_group
)
SELECT age_group, median_follower_count, NULL::BIGINT AS _left_out
FROM groups
WHERE age_group IS NOT NULL AND median_follower_count IS NOT NULL
UNION ALL
SELECT NULL, NULL, coalesce(sum(posts), 0)::BIGINT FROM groups WHERE age_group IS NULL
ORDER BY _left_out NULLS LAST, age_group
