//! Checks whether a history of transactions over lists is strictly serializable.
//!
//! After Elle (Kingsbury and Alvaro, VLDB 2020): every append puts a value that is put nowhere else at the end of a key's
//! list, so a list that was read tells the order of all appends before it, and which transaction wrote each version. The
//! dependencies between transactions, and the order in real time, are the edges of a graph without a cycle.

use std::collections::HashMap;
use std::fmt::Write as _;

/// What a transaction did to a key.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Put a value at the end.
    Append { key: usize, value: u32 },
    /// Read the list; with the transaction's own appends before it, unless they are not shown.
    Read { key: usize, list: Vec<u32>, shows_own: bool },
}

/// A transaction as its client saw it.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    /// What it was, for people.
    pub(crate) about: String,
    /// A moment before its first statement was sent.
    pub(crate) began: u64,
    /// A moment after its end was known. Moments are all different.
    pub(crate) ended: u64,
    pub(crate) committed: bool,
    pub(crate) ops: Vec<Op>,
}

/// # Errors
/// The first anomaly, in words.
pub(crate) fn check(history: &[Observed], n_keys: usize) -> Result<(), String> {
    let mut reads: Vec<Vec<(usize, Vec<u32>)>> = vec![Vec::new(); n_keys];
    let mut writer: HashMap<u32, usize> = HashMap::new();
    for (i, transaction) in history.iter().enumerate() {
        for (key, base) in bases(transaction)? {
            reads[key].push((i, base));
        }
        for op in &transaction.ops {
            if let Op::Append { value, .. } = op {
                writer.insert(*value, i);
            }
        }
    }
    let mut graph = Graph { edges: vec![Vec::new(); history.len()] };
    for (key, reads) in reads.iter().enumerate() {
        add_dependencies(history, key, reads, &writer, &mut graph)?;
    }
    graph.add_real_time(history);
    match graph.cycle() {
        None => Ok(()),
        Some(cycle) => {
            let mut text = "transactions depend on one another in a circle:\n".to_owned();
            for (node, why) in cycle {
                if let Some(t) = history.get(node) {
                    let _ = writeln!(text, "  {} [{}..{}] {:?}", t.about, t.began, t.ended, t.ops);
                }
                let _ = writeln!(text, "    {why}");
            }
            Err(text)
        }
    }
}

/// For each key that a transaction read, the list as it was before the transaction, which all its reads agree on.
fn bases(transaction: &Observed) -> Result<HashMap<usize, Vec<u32>>, String> {
    let mut bases: HashMap<usize, Vec<u32>> = HashMap::new();
    let mut own: HashMap<usize, Vec<u32>> = HashMap::new();
    for op in &transaction.ops {
        match op {
            Op::Append { key, value } => own.entry(*key).or_default().push(*value),
            Op::Read { key, list, shows_own } => {
                let shown = own.get(key).filter(|_| *shows_own).map_or(&[][..], Vec::as_slice);
                let Some(base) = list.strip_suffix(shown) else {
                    return Err(format!("{} does not see its own appends: {:?}", transaction.about, transaction.ops));
                };
                let known = bases.entry(*key).or_insert_with(|| base.to_vec());
                if known != base {
                    return Err(format!("{} reads key {key} twice: {:?}", transaction.about, transaction.ops));
                }
            }
        }
    }
    Ok(bases)
}

fn add_dependencies(
    history: &[Observed],
    key: usize,
    reads: &[(usize, Vec<u32>)],
    writer: &HashMap<u32, usize>,
    graph: &mut Graph,
) -> Result<(), String> {
    let Some((_, order)) = reads.iter().max_by_key(|(_, list)| list.len()) else { return Ok(()) };
    let mut writers = Vec::with_capacity(order.len());
    for value in order {
        let Some(&by) = writer.get(value) else { return Err(format!("key {key} has {value}, which nobody wrote")) };
        if !history[by].committed {
            return Err(format!("key {key} has {value} of {}, which did not commit", history[by].about));
        }
        writers.push(by);
    }
    for (by, transaction) in history.iter().enumerate().filter(|(_, t)| t.committed) {
        let appended: Vec<u32> = transaction.ops.iter().filter_map(|op| appended_to(op, key)).collect();
        let at: Vec<usize> = (0..order.len()).filter(|&i| writers[i] == by).collect();
        let is_whole = appended.is_empty()
            || at.len() == appended.len()
                && at.windows(2).all(|w| w[0] + 1 == w[1])
                && order[at[0]..][..at.len()] == appended;
        if !is_whole {
            return Err(format!(
                "key {key} is {order:?}, in which {appended:?} of {} are not whole",
                transaction.about
            ));
        }
    }
    for pair in writers.windows(2).filter(|w| w[0] != w[1]) {
        graph.add(pair[0], pair[1], format!("wrote the version of key {key} before that of"));
    }
    for (reader, list) in reads {
        let n = list.len();
        if order[..n] != list[..] {
            return Err(format!("key {key} was {list:?} to {}, and is {order:?}", history[*reader].about));
        }
        if n > 0 && n < order.len() && writers[n - 1] == writers[n] {
            return Err(format!("{} sees a part of {}", history[*reader].about, history[writers[n]].about));
        }
        if n > 0 && writers[n - 1] != *reader {
            graph.add(writers[n - 1], *reader, format!("wrote what of key {key} was read by"));
        }
        if n < order.len() && writers[n] != *reader {
            graph.add(*reader, writers[n], format!("did not see the write to key {key} of"));
        }
    }
    Ok(())
}

fn appended_to(op: &Op, wanted: usize) -> Option<u32> {
    match op {
        Op::Append { key, value } if *key == wanted => Some(*value),
        _ => None,
    }
}

/// Transactions, then moments; an edge says that the one came before the other, and why.
struct Graph {
    edges: Vec<Vec<(usize, String)>>,
}

impl Graph {
    fn add(&mut self, from: usize, to: usize, why: String) {
        self.edges[from].push((to, why));
    }

    /// What had ended before another began comes before it: through a chain of moments, so that edges stay few.
    fn add_real_time(&mut self, history: &[Observed]) {
        let mut ends: Vec<(u64, usize)> = history.iter().enumerate().map(|(i, t)| (t.ended, i)).collect();
        ends.sort_unstable();
        let first = self.edges.len();
        self.edges.resize(first + ends.len(), Vec::new());
        for (n, &(_, transaction)) in ends.iter().enumerate() {
            self.add(transaction, first + n, "had ended before".to_owned());
            if n + 1 < ends.len() {
                self.add(first + n, first + n + 1, "then".to_owned());
            }
        }
        for (i, transaction) in history.iter().enumerate() {
            let before = ends.partition_point(|(ended, _)| *ended < transaction.began);
            if before > 0 {
                self.add(first + before - 1, i, "the beginning of".to_owned());
            }
        }
    }

    /// Nodes that lead back to where they began, each with why the next one comes after it.
    fn cycle(&self) -> Option<Vec<(usize, &str)>> {
        let mut is_done = vec![false; self.edges.len()];
        let mut on_path = vec![false; self.edges.len()];
        for start in 0..self.edges.len() {
            // Nodes of the path, and which edge of each comes next.
            let mut path: Vec<(usize, usize)> = vec![(start, 0)];
            if is_done[start] {
                continue;
            }
            on_path[start] = true;
            while let Some((node, edge)) = path.last_mut() {
                let node = *node;
                let Some((to, _)) = self.edges[node].get(*edge) else {
                    is_done[node] = true;
                    on_path[node] = false;
                    path.pop();
                    continue;
                };
                *edge += 1;
                if on_path[*to] {
                    let from = path.iter().position(|(n, _)| n == to).expect("it is on the path");
                    return Some(path[from..].iter().map(|&(n, e)| (n, self.edges[n][e - 1].1.as_str())).collect());
                }
                if !is_done[*to] {
                    on_path[*to] = true;
                    path.push((*to, 0));
                }
            }
        }
        None
    }
}

fn transaction(about: &str, began: u64, ended: u64, ops: Vec<Op>) -> Observed {
    Observed { about: about.to_owned(), began, ended, committed: true, ops }
}

fn read(key: usize, list: &[u32]) -> Op {
    Op::Read { key, list: list.to_vec(), shows_own: true }
}

fn append(key: usize, value: u32) -> Op {
    Op::Append { key, value }
}

#[test]
fn a_serial_history_passes() {
    let history = [
        transaction("a", 0, 1, vec![append(0, 1), read(0, &[1])]),
        transaction("b", 2, 5, vec![read(0, &[1]), append(1, 2)]),
        transaction("c", 3, 6, vec![read(1, &[]), read(0, &[1])]),
        transaction("end", 7, 8, vec![read(0, &[1]), read(1, &[2])]),
    ];
    check(&history, 2).expect("it is serializable");
}

#[test]
fn anomalies_are_found() {
    let write_skew = [
        transaction("a", 0, 3, vec![read(0, &[]), append(1, 1)]),
        transaction("b", 1, 2, vec![read(1, &[]), append(0, 2)]),
        transaction("end", 4, 5, vec![read(0, &[2]), read(1, &[1])]),
    ];
    let lost_update = [
        transaction("a", 0, 3, vec![append(0, 1)]),
        transaction("b", 1, 2, vec![append(0, 2)]),
        transaction("end", 4, 5, vec![read(0, &[2])]),
    ];
    let stale_read = [
        transaction("a", 0, 1, vec![append(0, 1)]),
        transaction("b", 2, 3, vec![read(0, &[])]),
        transaction("end", 4, 5, vec![read(0, &[1])]),
    ];
    let torn = [
        transaction("a", 0, 3, vec![append(0, 1), append(1, 2)]),
        transaction("b", 1, 2, vec![read(0, &[1]), read(1, &[])]),
        transaction("end", 4, 5, vec![read(0, &[1]), read(1, &[2])]),
    ];
    let unrepeatable = [transaction("a", 0, 1, vec![read(0, &[]), read(0, &[1])])];
    for (what, history) in [
        ("write skew", &write_skew[..]),
        ("lost update", &lost_update),
        ("stale read", &stale_read),
        ("torn transaction", &torn),
        ("unrepeatable read", &unrepeatable),
    ] {
        assert!(check(history, 2).is_err(), "{what} is found");
    }
}
