-- The country of the user with most followers: one row; of equal ones the first country.
-- SPDX-License-Identifier: Apache-2.0
SELECT g.country, p.follower_count
FROM pin p JOIN geo g ON p.ind = g.ind
WHERE p.follower_count IS NOT NULL
ORDER BY p.follower_count DESC, g.country NULLS LAST
LIMIT 1
