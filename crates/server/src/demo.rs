//! The demo: a server with a live Nexmark auction house and five views over it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use millstream_engine::{DATABASE, Session};
use millstream_types::pg::FormatSettings;
use millstream_types::{Error, Result, SqlState};

use crate::cli::DemoArgs;
use crate::serve::{Service, StopSignals};
use crate::table::format_table;

/// Events of the auction house in a second; the state of all views stays small for days at any rate.
const EVENTS_PER_SECOND: u32 = 5_000;
/// How often the line about progress is written anew.
const PROGRESS_EVERY: Duration = Duration::from_millis(500);

/// The demo's views, with what each shows.
const VIEWS: [(&str, &str, &str); 5] = [
    (
        "bids_by_minute",
        "bids in each minute of event time",
        "SELECT window_start, count(*) AS bids, avg(price) AS average, max(price) AS highest
         FROM TUMBLE(bid, date_time, INTERVAL '1 minute') GROUP BY window_start",
    ),
    (
        "bids_by_size",
        "how prices are spread: bids by number of digits",
        "SELECT length(price::text) AS digits, count(*) AS bids, sum(price) AS total FROM bid GROUP BY length(price::text)",
    ),
    (
        "highest_bids",
        "the ten highest bids so far",
        "SELECT auction, bidder, price, date_time FROM bid ORDER BY price DESC, date_time LIMIT 10",
    ),
    (
        "categories",
        "auctions by category",
        "SELECT category, count(*) AS auctions, avg(initial_bid) AS average_start, max(reserve) AS highest_reserve
         FROM auction GROUP BY category",
    ),
    ("people_by_state", "people by state", "SELECT state, count(*) AS people FROM person GROUP BY state"),
];

/// Serves the demo until asked to stop, or for the time given; then prints what the views hold.
///
/// # Errors
/// 22023 with a data directory; what goes wrong when the server starts or a statement runs.
pub async fn demo(args: &DemoArgs) -> Result<()> {
    if args.serve.data_dir.is_some() {
        let message = "the demo keeps its data in memory, whatever --data-dir says";
        return Err(Error::user(SqlState::INVALID_PARAMETER_VALUE, message)
            .with_hint("Keep data of your own with: millstream serve --data-dir FOLDER"));
    }
    let service = Service::start(&args.serve).await?;
    let mut session = service.engine.session("demo", DATABASE, &[])?;
    for table in ["person", "auction", "bid"] {
        let create = format!(
            "CREATE STREAM {table} WITH (connector = 'nexmark', \"table\" = '{table}', rate = '{EVENTS_PER_SECOND}')"
        );
        session.query(&create).await?;
    }
    for (name, _, query) in VIEWS {
        session.query(&format!("CREATE MATERIALIZED VIEW {name} AS {query}")).await?;
    }
    introduce(&service);
    let mut signals = StopSignals::new()?;
    let stop = async {
        match args.time() {
            Some(time) => {
                tokio::select! {
                    () = tokio::time::sleep(time) => {}
                    () = signals.next() => {}
                }
            }
            None => signals.next().await,
        }
    };
    tokio::select! {
        () = stop => {}
        outcome = show_progress(&mut session) => outcome?,
    }
    if args.time().is_some() {
        show_views(&mut session).await?;
    }
    service.stop().await;
    Ok(())
}

fn introduce(service: &Service) {
    let address = service.address();
    println!(
        "Millstream serves a live auction house, {EVENTS_PER_SECOND} events a second: streams person, auction, bid."
    );
    println!("Views over them, always up to date:");
    for (name, about, _) in VIEWS {
        println!("  {name:<16} {about}");
    }
    println!();
    println!("Connect with:   psql -h {} -p {} millstream", address.ip(), address.port());
    println!(
        "Then try:       SELECT * FROM highest_bids;   SUBSCRIBE TO categories;   SELECT * FROM millstream.operators;"
    );
    println!("All data is in memory and is gone when this process ends. Ctrl-C stops it.");
    println!();
}

/// Writes how far the streams are, over and over: on a terminal in one line.
async fn show_progress(session: &mut Session) -> Result<()> {
    let start = Instant::now();
    let in_place = std::io::stdout().is_terminal();
    let mut ticks = 0u32;
    loop {
        tokio::time::sleep(PROGRESS_EVERY).await;
        ticks += 1;
        // A log is not a screen: every five seconds will do.
        if !in_place && !ticks.is_multiple_of(10) {
            continue;
        }
        let batches = session.query("SELECT max(position) AS events FROM millstream.sources").await?;
        let table = format_table(&batches, &FormatSettings::default());
        let events = table.last_value().unwrap_or_default();
        let line = format!("{:>6} s   {events} events", start.elapsed().as_secs());
        let mut out = std::io::stdout().lock();
        // A terminal that has gone away is no reason to stop serving.
        let _ = if in_place { write!(out, "\r{line}") } else { writeln!(out, "{line}") };
        let _ = out.flush();
    }
}

async fn show_views(session: &mut Session) -> Result<()> {
    for (name, about, _) in VIEWS {
        println!("\n\n{name}: {about}");
        let batches = session.query(&format!("SELECT * FROM {name} ORDER BY 1 LIMIT 12")).await?;
        print!("{}", format_table(&batches, &FormatSettings::default()));
    }
    Ok(())
}
