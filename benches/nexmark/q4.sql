-- Nexmark q4: the average winning price of a category.
-- Deviation: the average of bigints is numeric, as in Postgres; the published one is cut to bigint.
SELECT q.category AS id, avg(q.final) AS final
FROM (
    SELECT max(b.price) AS final, a.category
    FROM auction a, bid b
    WHERE a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
    GROUP BY a.id, a.category
) AS q
GROUP BY q.category
