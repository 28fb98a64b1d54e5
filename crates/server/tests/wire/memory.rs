//! The process as the operating system sees it: what it takes when its state is several times what it may take.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// What state and queries may take.
const LIMIT_MB: usize = 96;
const DEADLINE: Duration = Duration::from_secs(240);

/// A server that ends with the test.
struct Served(Child, u16);

impl Drop for Served {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Served {
    fn start() -> Served {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(["--listen", "127.0.0.1:0", "--in-memory", "--workers", "2"]);
        command.args(["--memory-limit", &format!("{LIMIT_MB}MB")]).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let port = loop {
            let line = lines.next().expect("it says where it listens").expect("text");
            if let Some((_, rest)) = line.split_once("listens on 127.0.0.1:") {
                let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                break digits.parse().expect("a port");
            }
        };
        // Somebody has to take what it logs.
        std::thread::spawn(move || lines.for_each(drop));
        Served(child, port)
    }

    async fn connect(&self) -> Client {
        let config = format!("host=127.0.0.1 port={} user=u dbname=millstream", self.1);
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        client
    }

    /// Anonymous memory of the process, in megabytes.
    fn anonymous_mb(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux tells it");
        line.trim().trim_end_matches("kB").trim().parse::<usize>().expect("a number") / 1024
    }
}

async fn number(client: &Client, sql: &str) -> i64 {
    let messages = client.simple_query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let row = messages.iter().find_map(|m| if let SimpleQueryMessage::Row(row) = m { Some(row) } else { None });
    row.and_then(|row| row.get(0)?.parse().ok()).unwrap_or_else(|| panic!("{sql}: no number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_stays_within_its_memory() {
    let served = Served::start();
    let (client, watcher) = (served.connect().await, served.connect().await);
    let before_mb = served.anonymous_mb();
    let sql = "CREATE STREAM s (k bigint, v bigint, t text) WITH (connector = 'generator', rows = '220000',
                   \"col.k\" = 'uniform(1, 150000)', \"col.v\" = 'sequence(1)', \"col.t\" = 'text(900, 1100)');
               CREATE MATERIALIZED VIEW v WITH (wait = false) AS SELECT k, count(*) AS n, min(t) AS t FROM s GROUP BY k";
    client.batch_execute(sql).await.expect("a stream and a view");
    let (start, mut most_mb, mut accounted) = (Instant::now(), 0, 0);
    let is_done = "SELECT count(*) FROM millstream.sources JOIN millstream.jobs ON state = 'running'
                   WHERE position = end_position";
    while number(&watcher, is_done).await == 0 {
        assert!(start.elapsed() < DEADLINE, "it takes too long");
        accounted = accounted.max(number(&watcher, "SELECT sum(state_bytes)::bigint FROM millstream.relations").await);
        most_mb = most_mb.max(served.anonymous_mb());
    }
    assert!(number(&client, "SELECT count(*) FROM v").await > 100_000);
    assert_eq!(number(&client, "SELECT sum(n)::bigint FROM v").await, 220_000);
    most_mb = most_mb.max(served.anonymous_mb());
    let spilled = "SELECT ((SELECT sum(bytes_spilled) FROM millstream.arrangements) +
                           (SELECT sum(spilled_bytes) FROM millstream.operators))::bigint";
    // Letters are compressed by a third.
    let spilled_mb = number(&client, spilled).await as usize >> 20;
    assert!(spilled_mb > 2 * LIMIT_MB, "{spilled_mb} MB are spilled");
    let accounted_mb = accounted as usize >> 20;
    assert!(accounted_mb <= LIMIT_MB, "{accounted_mb} MB are accounted for");
    let grown_mb = most_mb.saturating_sub(before_mb);
    assert!(grown_mb <= LIMIT_MB, "{grown_mb} MB on top of {before_mb} MB, {accounted_mb} MB accounted for");
}
