-- Nexmark q19: the ten highest bids of every auction.
-- Deviation: the derived table has a name; of equal prices the earlier bid ranks higher, which the published query leaves
-- open.
SELECT *
FROM (
    SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time ASC, bidder ASC) AS rank_number
    FROM bid
) AS ranked
WHERE rank_number <= 10
