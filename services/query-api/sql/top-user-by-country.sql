-- The user with most followers in each country; equal ones are all kept, each once.
-- SPDX-License-Identifier: Apache-2.0
WITH posts AS (
    SELECT g.country, p.poster_name, p.follower_count
    FROM pin p JOIN geo g ON p.ind = g.ind
    WHERE p.follower_count IS NOT NULL
), most AS (
    SELECT country, max(follower_count) AS follower_count FROM posts GROUP BY country
)
SELECT DISTINCT posts.country, posts.poster_name, posts.follower_count
FROM posts JOIN most
  ON posts.country IS NOT DISTINCT FROM most.country AND posts.follower_count = most.follower_count
ORDER BY 1 NULLS LAST, 2 NULLS LAST
