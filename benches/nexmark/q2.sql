-- Nexmark q2: selection of the bids for every 123rd auction.
-- Deviation: the operator % for the function MOD.
SELECT auction, price FROM bid WHERE auction % 123 = 0
