-- Nexmark q18: the last bid of every bidder for every auction.
-- Deviation: the derived table has a name. The published order is unique where no two events share a time; price decides
-- where they do.
SELECT auction, bidder, price, channel, url, date_time, extra
FROM (
    SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC, price DESC) AS rank_number
    FROM bid
) AS ranked
WHERE rank_number <= 1
