-- Median follower count of users by age group and by the year in which they joined.
-- SPDX-License-Identifier: Apache-2.0
WITH groups AS (
    SELECT CASE WHEN u.age >= 51 THEN '50+' WHEN u.age >= 36 THEN '36-50'
                WHEN u.age >= 25 THEN '25-35' WHEN u.age >= 18 THEN '18-24' END AS age_group,
           year(u.date_joined) AS post_year,
           coalesce(quantile_cont(p.follower_count, 0.5) FILTER ($median = 'interpolated'),
                    quantile_disc(p.follower_count, 0.5) FILTER ($median = 'lower'))::DOUBLE AS median_follower_count,
           count(*) AS posts
    FROM pin p JOIN "user" u ON p.ind = u.ind
    WHERE u.date_joined >= make_timestamptz($from, 1, 1, 0, 0, 0.0)
      AND u.date_joined < make_timestamptz($to + 1, 1, 1, 0, 0, 0.0)
    GROUP BY age_group, post_year
)
SELECT age_group, post_year, median_follower_count, NULL::BIGINT AS _left_out
FROM groups
WHERE age_group IS NOT NULL AND median_follower_count IS NOT NULL
UNION ALL
SELECT NULL, NULL, NULL, coalesce(sum(posts), 0)::BIGINT FROM groups WHERE age_group IS NULL
ORDER BY _left_out NULLS LAST, age_group, post_year
