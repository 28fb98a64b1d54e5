//! What the system knows about a process: CPU time and memory. Linux only; elsewhere nothing is known.

use std::fs;
use std::path::PathBuf;

/// Clock ticks a second in `/proc`, on every architecture that Linux supports today.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds of all threads.
#[derive(Clone, Copy, Debug)]
pub struct CpuSeconds {
    /// In user mode.
    pub user: f64,
    /// In the kernel.
    pub kernel: f64,
}

impl CpuSeconds {
    /// In either mode.
    pub fn sum(self) -> f64 {
        self.user + self.kernel
    }
}

/// A process, by its directory in `/proc`.
#[derive(Clone, Debug)]
pub struct Process(PathBuf);

impl Process {
    /// This process.
    pub fn this() -> Process {
        Process(PathBuf::from("/proc/self"))
    }

    /// The process with this number.
    pub fn with_id(id: u32) -> Process {
        Process(PathBuf::from(format!("/proc/{id}")))
    }

    /// CPU seconds of all threads so far.
    pub fn cpu_seconds(&self) -> Option<CpuSeconds> {
        let stat = fs::read_to_string(self.0.join("stat")).ok()?;
        // The second field, the program's name, may contain anything but ends with the last parenthesis.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
        Some(CpuSeconds { user: ticks(11)? / TICKS_PER_SECOND, kernel: ticks(12)? / TICKS_PER_SECOND })
    }

    /// The resident set, in megabytes (10^6 bytes).
    pub fn rss_mb(&self) -> Option<f64> {
        self.status_mb("VmRSS:")
    }

    /// The largest resident set so far, in megabytes (10^6 bytes).
    pub fn rss_peak_mb(&self) -> Option<f64> {
        self.status_mb("VmHWM:")
    }

    /// Lets the largest resident set begin anew, at the present one, where that is permitted.
    pub fn forget_rss_peak(&self) {
        const PEAK: &str = "5";
        // Else the peak includes what came before, which is a number too great and no reason to stop.
        let _ = fs::write(self.0.join("clear_refs"), PEAK);
    }

    fn status_mb(&self, name: &str) -> Option<f64> {
        let status = fs::read_to_string(self.0.join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024.0 / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_uses_something() {
        for process in [Process::this(), Process::with_id(std::process::id())] {
            assert!(
                process.cpu_seconds().is_some_and(|s| (0.0..1e6).contains(&s.user) && (0.0..1e6).contains(&s.kernel))
            );
            process.forget_rss_peak();
            assert!(process.rss_mb().is_some_and(|mb| (1.0..1e6).contains(&mb)));
            assert!(process.rss_peak_mb().is_some_and(|mb| (1.0..1e6).contains(&mb)));
        }
    }
}
