//! Limits of memory: what the machine has, and the shares of it that state and queries may take. Rows that are written
//! and not committed count among those of queries.

use std::fs;

use arrow::array::RecordBatch;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::runtime_env::RuntimeEnv;
use millstream_planner::errors::from_datafusion;
use millstream_types::delta::values_bytes;
use millstream_types::{Error, Result, SqlState};

/// What is assumed of a machine that does not tell.
const UNKNOWN_MACHINE: usize = 4 << 30;

/// State and queries may take so many times the memory on disk.
const SPILLED_MAX: u64 = 10;

/// Bytes that may be in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// By the state of all tables, streams, views and sinks.
    pub state: usize,
    /// By the state of all, before some of it is spilled; if it is 0, so is what queries have.
    pub spill_from: usize,
    /// By one view that names no limit of its own.
    pub view: usize,
    /// By all queries that run.
    pub queries: usize,
    /// By rows that are on their way within dataflows.
    pub in_flight: usize,
    /// On disk, by state that memory has no room for and by queries, each; nothing is spilled if it is 0.
    pub spilled: u64,
}

impl MemoryLimits {
    /// Shares of what the process may use, beside what it needs with nothing to do. The rest is for what operators and
    /// the allocator have in use for a moment.
    pub fn of_process(limit: usize) -> Self {
        let share = |percent: usize| limit / 100 * percent;
        MemoryLimits {
            state: share(60),
            spill_from: share(36),
            view: share(50),
            queries: share(15),
            in_flight: share(10),
            spilled: limit as u64 * SPILLED_MAX,
        }
    }

    /// What a process may take that is told nothing: 70 % of the machine, or of the control group that it runs in.
    pub fn of_machine() -> usize {
        machine_memory() / 10 * 7
    }
}

/// Bytes that the process may use at most.
fn machine_memory() -> usize {
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<usize>().ok());
    let control_group =
        number("/sys/fs/cgroup/memory.max").or_else(|| number("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
        line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok().map(|kib| kib << 10)
    });
    let machine = machine.unwrap_or(UNKNOWN_MACHINE);
    control_group.map_or(machine, |group| group.min(machine))
}

/// What rows take that a statement or a transaction has ready to be written. It is given back when this is dropped.
pub(crate) struct UncommittedMemory(MemoryReservation);

impl UncommittedMemory {
    /// Nothing yet, of what queries may take.
    pub(crate) fn new(queries: &RuntimeEnv) -> Self {
        UncommittedMemory(MemoryConsumer::new("uncommitted rows").register(&queries.memory_pool))
    }

    /// Rows are added.
    ///
    /// # Errors
    /// 53200 if they do not fit.
    pub(crate) fn add(&self, rows: &RecordBatch) -> Result<()> {
        self.0.try_grow(values_bytes(rows)).map_err(|error| {
            let error = from_datafusion(error);
            let detail = error.fields().detail.clone().unwrap_or_default();
            Error::out_of_memory("out of memory for rows that are not committed yet")
                .with_detail(detail)
                .with_hint("Write them in several transactions.")
        })
    }

    /// Bytes in use.
    pub(crate) fn n_bytes(&self) -> usize {
        self.0.size()
    }

    /// Rows are gone that were added after so many bytes were in use.
    pub(crate) fn shrink_to(&self, n_bytes: usize) {
        self.0.shrink(self.0.size().saturating_sub(n_bytes));
    }
}

/// A number of bytes as Postgres writes memory: `512MB`, `2GB`, or a plain number.
///
/// # Errors
/// 22023 if it is none.
pub fn parse_bytes(text: &str) -> Result<usize> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "kB" | "KB" => 10,
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => return Err(invalid(text)),
    };
    let bytes = digits.parse::<usize>().ok().and_then(|n| n.checked_mul(1 << shift)).filter(|&n| n > 0);
    bytes.ok_or_else(|| invalid(text))
}

fn invalid(text: &str) -> Error {
    Error::user(SqlState::INVALID_PARAMETER_VALUE, format!("invalid amount of memory: \"{text}\""))
        .with_hint("Valid units are \"B\", \"kB\", \"MB\", \"GB\" and \"TB\".")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_units() {
        assert_eq!(parse_bytes("4096"), Ok(4096));
        assert_eq!(parse_bytes("16 MB"), Ok(16 << 20));
        assert_eq!(parse_bytes("2GB"), Ok(2 << 30));
        for wrong in ["", "0", "12 parsecs", "-1MB", "99999999999999999999"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn shares_leave_something() {
        let limits = MemoryLimits::of_process(1 << 30);
        assert!(limits.state + limits.queries + limits.in_flight < 1 << 30 && limits.view < limits.state);
        assert!(MemoryLimits::of_machine() > 0);
    }
}
