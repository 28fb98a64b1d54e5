-- Nexmark q8: persons who came and opened auctions within the same ten seconds.
-- Deviation: TUMBLE takes the relation and the column by name, without TABLE and DESCRIPTOR; the output column starttime
-- is called stime, as in the published sink.
SELECT p.id, p.name, p.starttime AS stime
FROM (
    SELECT id, name, window_start AS starttime, window_end AS endtime
    FROM TUMBLE(person, date_time, INTERVAL '10 seconds')
    GROUP BY id, name, window_start, window_end
) AS p
JOIN (
    SELECT seller, window_start AS starttime, window_end AS endtime
    FROM TUMBLE(auction, date_time, INTERVAL '10 seconds')
    GROUP BY seller, window_start, window_end
) AS a
ON p.id = a.seller AND p.starttime = a.starttime AND p.endtime = a.endtime
