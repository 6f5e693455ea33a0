-- Users joined in each year: rows of the user table, or each person (name, age, time of joining) once.
-- SPDX-License-Identifier: Apache-2.0
SELECT year(u.date_joined) AS post_year,
       CASE $distinct
           WHEN 'person' THEN count(DISTINCT row(u.user_name, u.age, u.date_joined)) FILTER ($distinct = 'person')
           ELSE count(*)
       END AS number_users_joined
FROM "user" u
WHERE u.date_joined >= make_timestamptz($from, 1, 1, 0, 0, 0.0)
  AND u.date_joined < make_timestamptz($to + 1, 1, 1, 0, 0, 0.0)
GROUP BY post_year
ORDER BY post_year
