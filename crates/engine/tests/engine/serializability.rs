//! Many sessions at once: what they see must be what one after the other would.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use arrow::util::display::array_value_to_string;
use millstream_engine::{Engine, EngineConfig, Sabotage, Session};
use millstream_types::{Error, SqlState};

use crate::engine::history::{Observed, Op, check};

const N_KEYS: usize = 6;
const N_SESSIONS: usize = 8;
/// Transactions of each session; `MILLSTREAM_SERIALIZABILITY` multiplies it.
const N_TRANSACTIONS: usize = 40;

/// Numbers from a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// What all sessions share.
#[derive(Default)]
struct Shared {
    moments: AtomicU64,
    values: AtomicU32,
}

impl Shared {
    fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }
}

fn session(engine: &Engine) -> Session {
    engine.session("tester", "millstream", &[]).expect("the database exists")
}

/// The rows' columns as texts.
async fn rows(session: &mut Session, sql: &str) -> Result<Vec<Vec<String>>, Error> {
    let mut rows = Vec::new();
    for batch in session.query(sql).await? {
        for i in 0..batch.num_rows() {
            let text = |c| array_value_to_string(c, i).expect("it can be shown");
            rows.push(batch.columns().iter().map(|c| text(c.as_ref())).collect());
        }
    }
    Ok(rows)
}

fn list_of(text: &str) -> Vec<u32> {
    text.split(',').filter(|v| !v.is_empty()).map(|v| v.parse().expect("a number")).collect()
}

fn budget() -> usize {
    std::env::var("MILLSTREAM_SERIALIZABILITY").ok().and_then(|v| v.parse().ok()).unwrap_or(1)
}

/// One statement of a transaction over lists.
#[derive(Clone, Copy, Debug)]
enum Step {
    ReadKey(usize),
    ReadAll,
    ReadView,
    ReadJoin,
    Update(usize),
    Upsert(usize),
    UpdateWhere(usize),
}

fn step(random: &mut Random, writes: bool) -> Step {
    let key = random.below(N_KEYS);
    match random.below(if writes { 9 } else { 5 }) {
        0 | 1 => Step::ReadKey(key),
        2 => Step::ReadAll,
        3 => Step::ReadView,
        4 => Step::ReadJoin,
        5 | 6 => Step::Update(key),
        7 => Step::Upsert(key),
        _ => Step::UpdateWhere(key),
    }
}

/// Runs a statement and notes what it did.
async fn run_step(session: &mut Session, step: Step, shared: &Shared, ops: &mut Vec<Op>) -> Result<(), Error> {
    let by_key = |rows: Vec<Vec<String>>, shows_own| {
        rows.into_iter().map(move |row| {
            let key = row[0].parse().expect("a key");
            Op::Read { key, list: list_of(&row[1]), shows_own }
        })
    };
    let value = || shared.values.fetch_add(1, Ordering::Relaxed) + 1;
    match step {
        Step::ReadKey(key) => {
            ops.extend(by_key(rows(session, &format!("SELECT k, v FROM lists WHERE k = {key}")).await?, true));
        }
        Step::ReadAll => ops.extend(by_key(rows(session, "SELECT k, v FROM lists").await?, true)),
        Step::ReadView => ops.extend(by_key(rows(session, "SELECT k, v FROM copies").await?, false)),
        Step::ReadJoin => {
            let found = rows(session, "SELECT c.k, c.v, l.len FROM copies c JOIN lengths l ON l.k = c.k").await?;
            for row in &found {
                assert_eq!(row[1].len().to_string(), row[2], "two views of one table agree");
            }
            ops.extend(by_key(found, false));
        }
        Step::Update(key) => {
            let value = value();
            ops.push(Op::Append { key, value });
            session.query(&format!("UPDATE lists SET v = v || '{value},' WHERE k = {key}")).await?;
        }
        Step::Upsert(key) => {
            let value = value();
            ops.push(Op::Append { key, value });
            let sql = format!(
                "INSERT INTO lists VALUES ({key}, '{value},') ON CONFLICT (k) DO UPDATE SET v = lists.v || excluded.v"
            );
            session.query(&sql).await?;
        }
        Step::UpdateWhere(key) => {
            // Read by relation, not by key.
            let value = value();
            ops.push(Op::Append { key, value });
            session.query(&format!("UPDATE lists SET v = v || '{value},' WHERE k + 1 = {}", key + 1)).await?;
        }
    }
    Ok(())
}

/// One transaction, begun and ended in one of the ways there are.
async fn transaction(session: &mut Session, shared: &Shared, random: &mut Random, about: String) -> Observed {
    let n_steps = 1 + random.below(4);
    let writes = random.below(3) > 0;
    let steps: Vec<Step> = (0..n_steps).map(|_| step(random, writes)).collect();
    let is_alone = n_steps == 1 && random.below(2) == 0;
    let rolls_back = !is_alone && random.below(10) == 0;
    let mut ops = Vec::new();
    let began = shared.moment();
    let outcome = async {
        if is_alone {
            return run_step(session, steps[0], shared, &mut ops).await;
        }
        session.query("BEGIN").await?;
        for &step in &steps {
            run_step(session, step, shared, &mut ops).await?;
            tokio::task::yield_now().await;
        }
        session.query(if rolls_back { "ROLLBACK" } else { "COMMIT" }).await.map(|_| ())
    }
    .await;
    let ended = shared.moment();
    let conflicts = match &outcome {
        Ok(()) => false,
        Err(error) if error.state() == SqlState::SERIALIZATION_FAILURE => true,
        Err(error) => panic!("{about}: {steps:?}: {error}"),
    };
    if conflicts {
        session.query("ROLLBACK").await.expect("it can always be said");
    }
    Observed { about: format!("{about} {steps:?}"), began, ended, committed: !conflicts && !rolls_back, ops }
}

/// A history of many sessions over lists, and the checker's verdict on it.
///
/// With a data directory every third session does not wait until its commits are durable.
async fn lists(
    workers: usize,
    seed: u64,
    sabotage: Option<Sabotage>,
    data_dir: Option<&Path>,
) -> Result<usize, String> {
    let config = EngineConfig {
        workers,
        query_threads: 2,
        sabotage,
        data_dir: data_dir.map(|folder| folder.to_owned().into()),
        ..EngineConfig::default()
    };
    let engine = Engine::start(config).expect("an engine starts");
    let mut s = session(&engine);
    s.query(
        "CREATE TABLE lists (k int PRIMARY KEY, v text NOT NULL);
         CREATE MATERIALIZED VIEW copies AS SELECT k, v FROM lists;
         CREATE MATERIALIZED VIEW lengths AS SELECT k, length(v) AS len FROM lists;",
    )
    .await
    .expect("the statements are right");
    let values = (0..N_KEYS).map(|k| format!("({k}, '')")).collect::<Vec<_>>().join(", ");
    s.query(&format!("INSERT INTO lists VALUES {values}")).await.expect("it is right");
    let shared = Arc::new(Shared::default());
    let tasks: Vec<_> = (0..N_SESSIONS)
        .map(|n| {
            let (engine, shared) = (engine.clone(), Arc::clone(&shared));
            tokio::spawn(async move {
                let mut session = session(&engine);
                if n % 3 == 1 {
                    session.query("SET synchronous_commit = off").await.expect("it can be set");
                }
                let mut random = Random(seed.wrapping_mul(1009).wrapping_add(n as u64));
                let mut history = Vec::new();
                for i in 0..N_TRANSACTIONS * budget() {
                    history.push(transaction(&mut session, &shared, &mut random, format!("{n}.{i}")).await);
                }
                history
            })
        })
        .collect();
    let mut history = Vec::new();
    for task in tasks {
        history.extend(task.await.expect("a session does not panic"));
    }
    let mut ops = Vec::new();
    let began = shared.moment();
    // In a transaction, which a broken engine must not spoil.
    s.query("BEGIN").await.expect("it begins");
    run_step(&mut s, Step::ReadAll, &shared, &mut ops).await.expect("it can be read");
    s.query("COMMIT").await.expect("it ends");
    history.push(Observed { about: "the end".to_owned(), began, ended: shared.moment(), committed: true, ops });
    engine.shutdown().await;
    let n_committed = history.iter().filter(|t| t.committed).count();
    check(&history, N_KEYS).map(|()| n_committed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lists_are_strictly_serializable() {
    for (workers, seed) in [(1, 11), (2, 12), (2, 13), (4, 14)] {
        let n_committed =
            lists(workers, seed, None, None).await.unwrap_or_else(|e| panic!("workers {workers}, seed {seed}: {e}"));
        println!("workers {workers}, seed {seed}: {n_committed} transactions committed");
        assert!(n_committed > N_SESSIONS * N_TRANSACTIONS / 4, "most transactions commit");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn lists_on_a_disk_are_strictly_serializable() {
    for (workers, seed) in [(1, 15), (2, 16)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let outcome = lists(workers, seed, None, Some(folder.path())).await;
        let n_committed = outcome.unwrap_or_else(|e| panic!("workers {workers}, seed {seed}: {e}"));
        println!("workers {workers}, seed {seed}: {n_committed} transactions committed on a disk");
        assert!(n_committed > N_SESSIONS * N_TRANSACTIONS / 4, "most transactions commit");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broken_engine_is_caught() {
    for sabotage in [Sabotage::StaleReads, Sabotage::NoValidation] {
        let mut verdicts = Vec::new();
        for seed in 21..29 {
            verdicts.push(lists(2, seed, Some(sabotage), None).await);
            if verdicts.last().is_some_and(Result::is_err) {
                break;
            }
        }
        assert!(verdicts.iter().any(Result::is_err), "{sabotage:?} is found within {} seeds", verdicts.len());
    }
}

/// Moves money about, and looks whether it is all there.
async fn banker(engine: Engine, seed: u64, n_accounts: usize) -> (usize, usize) {
    let mut session = session(&engine);
    let mut random = Random(seed);
    let (mut n_committed, mut n_conflicts) = (0, 0);
    for _ in 0..N_TRANSACTIONS / 2 * budget() {
        let (from, to, amount) = (random.below(n_accounts), random.below(n_accounts), random.below(50));
        let outcome = async {
            session.query("BEGIN").await?;
            let found = rows(&mut session, &format!("SELECT balance FROM accounts WHERE id = {from}")).await?;
            let balance: i64 = found[0][0].parse().expect("a number");
            if balance >= amount as i64 {
                let debit = format!("UPDATE accounts SET balance = balance - {amount} WHERE id = {from}");
                session.query(&debit).await?;
                let credit = format!("UPDATE accounts SET balance = balance + {amount} WHERE id = {to}");
                session.query(&credit).await?;
                session.query(&format!("INSERT INTO moves VALUES ({from}, {to}, {amount})")).await?;
            }
            session.query("COMMIT").await
        }
        .await;
        match outcome {
            Ok(_) => n_committed += 1,
            Err(e) if e.state() == SqlState::SERIALIZATION_FAILURE => {
                n_conflicts += 1;
                session.query("ROLLBACK").await.expect("it can always be said");
            }
            Err(e) => panic!("seed {seed}: {e}"),
        }
        let sql =
            "SELECT t.total, s.total, l.lowest, (SELECT sum(balance) FROM accounts) FROM total t, sums s, lowest l";
        let found = rows(&mut session, sql).await.expect("it can be read");
        let all = (100 * n_accounts).to_string();
        assert_eq!(found[0][0], all, "seed {seed}: no money is made or lost");
        assert_eq!(found[0][1], all, "seed {seed}: the sum by moves agrees");
        assert_eq!(found[0][3], all, "seed {seed}: the table agrees with its views");
        assert!(found[0][2].parse::<i64>().expect("a number") >= 0, "seed {seed}: nobody overdraws");
    }
    (n_committed, n_conflicts)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn transfers_keep_the_total() {
    for (workers, seed) in [(1, 31), (2, 32)] {
        println!("workers {workers}, seed {seed}");
        let config = EngineConfig { workers, query_threads: 2, ..EngineConfig::default() };
        let engine = Engine::start(config).expect("an engine starts");
        let n_accounts = 10;
        let mut s = session(&engine);
        s.query(
            "CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
             CREATE STREAM moves (source int, target int, amount bigint);
             CREATE MATERIALIZED VIEW total AS SELECT CAST(sum(balance) AS bigint) AS total FROM accounts;
             CREATE MATERIALIZED VIEW lowest AS SELECT min(balance) AS lowest FROM accounts;
             CREATE MATERIALIZED VIEW changes AS
               SELECT source AS id, -amount AS change FROM moves UNION ALL SELECT target, amount FROM moves
               UNION ALL SELECT id, 0 FROM accounts;
             CREATE MATERIALIZED VIEW by_moves AS SELECT id, CAST(sum(change) AS bigint) + 100 AS balance FROM changes GROUP BY id;
             CREATE MATERIALIZED VIEW sums AS
               SELECT CAST(sum(b.balance) AS bigint) AS total FROM by_moves b JOIN accounts a ON a.id = b.id AND a.balance = b.balance;",
        )
        .await
        .expect("the statements are right");
        let values = (0..n_accounts).map(|k| format!("({k}, 100)")).collect::<Vec<_>>().join(", ");
        s.query(&format!("INSERT INTO accounts VALUES {values}")).await.expect("it is right");
        let bankers: Vec<_> =
            (0..N_SESSIONS).map(|n| tokio::spawn(banker(engine.clone(), seed * 100 + n as u64, n_accounts))).collect();
        for banker in bankers {
            let (n_committed, n_conflicts) = banker.await.expect("a session does not panic");
            assert!(n_committed > 0, "nobody starves: {n_conflicts} conflicts");
        }
        engine.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn somebody_stays_on_call() {
    let seed = 41;
    println!("seed {seed}");
    let config = EngineConfig { workers: 2, query_threads: 2, ..EngineConfig::default() };
    let engine = Engine::start(config).expect("an engine starts");
    let mut s = session(&engine);
    s.query(
        "CREATE TABLE doctors (id int PRIMARY KEY, on_call boolean NOT NULL);
         CREATE MATERIALIZED VIEW on_call AS SELECT count(*) AS n FROM doctors WHERE on_call;
         INSERT INTO doctors VALUES (0, true), (1, true), (2, true), (3, true);",
    )
    .await
    .expect("the statements are right");
    let tasks: Vec<_> = (0..4)
        .map(|id| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let mut session = session(&engine);
                let mut random = Random(seed + id);
                for _ in 0..N_TRANSACTIONS * budget() {
                    // The view and the table are as good as one another.
                    let count =
                        ["SELECT n FROM on_call", "SELECT count(*) FROM doctors WHERE on_call"][random.below(2)];
                    let outcome = async {
                        session.query("BEGIN").await?;
                        let n: i64 = rows(&mut session, count).await?[0][0].parse().expect("a number");
                        assert!(n >= 1, "seed {seed}: somebody is on call");
                        if n >= 2 {
                            session.query(&format!("UPDATE doctors SET on_call = false WHERE id = {id}")).await?;
                        }
                        session.query("COMMIT").await
                    }
                    .await;
                    match outcome {
                        Ok(_) => {
                            let back = format!("UPDATE doctors SET on_call = true WHERE id = {id}");
                            session.query(&back).await.expect("a statement runs again by itself");
                        }
                        Err(e) if e.state() == SqlState::SERIALIZATION_FAILURE => {
                            session.query("ROLLBACK").await.expect("it can always be said");
                        }
                        Err(e) => panic!("seed {seed}: {e}"),
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a session does not panic");
    }
    engine.shutdown().await;
}
