//! One statement that several connections run over and over.

use std::io;
use std::time::{Duration, Instant};

use crate::figure::Figure;
use crate::server_process::{ServerProcess, Spent};
use crate::wire_client::{Answer, WireClient};

/// A statement that several connections run over and over.
pub struct Repeated<'a> {
    /// What each connection sends first.
    pub prepare: Option<Vec<u8>>,
    /// Whether an answer is as it has to be.
    pub is_right: &'a (dyn Fn(&Answer) -> bool + Sync),
    /// How many connections run it.
    pub n_connections: u64,
    /// For how long they do.
    pub time: Duration,
}

/// What running a statement over and over took.
pub struct Runs {
    /// All of them together.
    pub spent: Spent,
    /// Each by itself.
    pub times: Vec<Duration>,
}

impl Repeated<'_> {
    /// Runs it; `messages` gives what is sent by a number that is never used twice.
    ///
    /// # Errors
    /// What the server or a socket says, and if an answer is not right.
    pub fn run(&self, server: &ServerProcess, messages: &(dyn Fn(u64) -> Vec<u8> + Sync)) -> io::Result<Runs> {
        let connect = || {
            let mut client = server.connect()?;
            if let Some(prepare) = &self.prepare {
                client.send(prepare)?;
                client.answer()?;
            }
            Ok(client)
        };
        let clients = (0..self.n_connections).map(|_| connect()).collect::<io::Result<Vec<_>>>()?;
        let until = Instant::now() + self.time;
        let mut times = Vec::new();
        let spent = server.measure(|| {
            let of_all = std::thread::scope(|scope| {
                let numbered = (0..).zip(clients);
                let run = |(first, mut client)| {
                    scope.spawn(move || {
                        let numbers = (first..).step_by(self.n_connections as usize);
                        self.run_on(&mut client, until, &mut numbers.map(messages))
                    })
                };
                let threads: Vec<_> = numbered.map(run).collect();
                threads.into_iter().map(|thread| thread.join().expect("a client does not panic")).collect::<Vec<_>>()
            });
            for of_one in of_all {
                times.extend(of_one?);
            }
            Ok(times.len() as u64)
        })?;
        Ok(Runs { spent, times })
    }

    /// As [`Repeated::run`], as a figure.
    ///
    /// # Errors
    /// As there.
    pub fn figure(
        &self,
        server: &ServerProcess,
        name: &str,
        unit: &str,
        messages: &(dyn Fn(u64) -> Vec<u8> + Sync),
    ) -> io::Result<Figure> {
        let Runs { spent, times } = self.run(server, messages)?;
        Ok(spent.figure(name, unit).with("connections", self.n_connections).with_times(times))
    }

    /// The time of each statement of one connection.
    fn run_on(
        &self,
        client: &mut WireClient,
        until: Instant,
        messages: &mut dyn Iterator<Item = Vec<u8>>,
    ) -> io::Result<Vec<Duration>> {
        let mut times = Vec::new();
        let mut sent = Instant::now();
        while sent < until
            && let Some(messages) = messages.next()
        {
            client.send(&messages)?;
            let answer = client.answer()?;
            if !(self.is_right)(&answer) {
                return Err(io::Error::other(format!("an answer is wrong: {answer:?}")));
            }
            let now = Instant::now();
            times.push(now - sent);
            sent = now;
        }
        Ok(times)
    }
}
