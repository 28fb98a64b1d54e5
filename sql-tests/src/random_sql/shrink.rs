//! Makes a case that fails smaller.

use super::{Case, Query};

/// Leaves out statements and views, and puts parts of queries in their place, as long as the rest still fails.
pub(super) async fn shrink(mut case: Case, mut fails: impl AsyncFnMut(&Case) -> bool) -> Case {
    'smaller: loop {
        for candidate in candidates(&case) {
            if fails(&candidate).await {
                case = candidate;
                continue 'smaller;
            }
        }
        return case;
    }
}

fn candidates(case: &Case) -> Vec<Case> {
    let mut found = Vec::new();
    for i in 0..case.views.len() {
        let mut less = case.clone();
        less.views.remove(i);
        found.push(less);
    }
    for (i, (_, query)) in case.views.iter().enumerate() {
        for part in &query.parts {
            let mut less = case.clone();
            less.views[i].1 = part.clone();
            found.push(less);
        }
    }
    // A part that has parts of its own is replaced by one of them where it stands.
    for (i, (_, query)) in case.views.iter().enumerate() {
        for replaced in with_smaller_parts(query) {
            let mut less = case.clone();
            less.views[i].1 = replaced;
            found.push(less);
        }
    }
    let removed = |statements: &Vec<String>, i: usize| {
        let mut less = statements.clone();
        less.remove(i);
        less
    };
    found.extend((0..case.after.len()).map(|i| Case { after: removed(&case.after, i), ..case.clone() }));
    found.extend((0..case.before.len()).map(|i| Case { before: removed(&case.before, i), ..case.clone() }));
    found
}

fn with_smaller_parts(query: &Query) -> Vec<Query> {
    let mut found = Vec::new();
    for (i, part) in query.parts.iter().enumerate() {
        let smaller = part.parts.iter().cloned().chain(with_smaller_parts(part));
        for smaller in smaller.filter(|s| s.types == part.types) {
            let mut parts = query.parts.clone();
            let sql = query.sql.replacen(&part.sql, &smaller.sql, 1);
            parts[i] = smaller;
            found.push(Query { sql, parts, types: query.types.clone() });
        }
    }
    found
}
