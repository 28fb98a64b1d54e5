//! The API boundary: coordinator, sessions, transactions, reads at an epoch, subscriptions.
