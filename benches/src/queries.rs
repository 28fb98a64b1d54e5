//! The Nexmark queries, as they stand in `benches/nexmark/`.

/// A Nexmark query.
#[derive(Debug)]
pub struct Query {
    /// `q0` to `q22`.
    pub name: &'static str,
    /// Its `SELECT`.
    pub sql: &'static str,
    /// Those of `person`, `auction` and `bid` that it reads.
    pub tables: &'static [&'static str],
    /// Whether it keeps nothing from one row to the next, so that its speed does not depend on what came before.
    pub stateless: bool,
}

macro_rules! queries {
    ($($name:literal reads [$($table:ident),*] $state:ident,)*) => {
        &[$(Query {
            name: $name,
            sql: include_str!(concat!("../nexmark/", $name, ".sql")),
            tables: &[$(stringify!($table)),*],
            stateless: queries!(@$state),
        },)*]
    };
    (@stateless) => { true };
    (@stateful) => { false };
}

/// All queries. q6 needs what SQL does not have, q10 a file sink, q11 sessions, q12 processing time, q13 a side input.
pub const QUERIES: &[Query] = queries! {
    "q0" reads [bid] stateless,
    "q1" reads [bid] stateless,
    "q2" reads [bid] stateless,
    "q3" reads [person, auction] stateful,
    "q4" reads [auction, bid] stateful,
    "q5" reads [bid] stateful,
    "q7" reads [bid] stateful,
    "q8" reads [person, auction] stateful,
    "q9" reads [auction, bid] stateful,
    "q14" reads [bid] stateless,
    "q15" reads [bid] stateful,
    "q16" reads [bid] stateful,
    "q17" reads [bid] stateful,
    "q18" reads [bid] stateful,
    "q19" reads [bid] stateful,
    "q20" reads [auction, bid] stateful,
    "q21" reads [bid] stateless,
    "q22" reads [bid] stateless,
};

impl Query {
    /// The query of this name.
    pub fn by_name(name: &str) -> Option<&'static Query> {
        QUERIES.iter().find(|query| query.name == name)
    }
}
