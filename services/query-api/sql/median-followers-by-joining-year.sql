-- Median follower count of users by the year in which they joined.
-- SPDX-License-Identifier: Apache-2.0
SELECT year(u.date_joined) AS post_year,
       coalesce(quantile_cont(p.follower_count, 0.5) FILTER ($median = 'interpolated'),
                quantile_disc(p.follower_count, 0.5) FILTER ($median = 'lower'))::DOUBLE AS median_follower_count
FROM pin p JOIN "user" u ON p.ind = u.ind
WHERE p.follower_count IS NOT NULL
  AND u.date_joined >= make_timestamptz($from, 1, 1, 0, 0, 0.0)
  AND u.date_joined < make_timestamptz($to + 1, 1, 1, 0, 0, 0.0)
GROUP BY post_year
ORDER BY post_year
