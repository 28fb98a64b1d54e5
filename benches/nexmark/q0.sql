-- Nexmark q0: pass through.
-- As published.
SELECT auction, bidder, price, date_time, extra FROM bid
