//! What the system knows about this process: CPU time and memory. Linux only; elsewhere nothing is known.

use std::fs;

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

/// CPU seconds of all threads so far.
pub fn cpu_seconds() -> Option<CpuSeconds> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, the program's name, may contain anything but ends with the last parenthesis.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some(CpuSeconds { user: ticks(11)? / TICKS_PER_SECOND, kernel: ticks(12)? / TICKS_PER_SECOND })
}

/// The largest resident set so far, in megabytes (10^6 bytes).
pub fn rss_peak_mb() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_process_uses_something() {
        assert!(cpu_seconds().is_some_and(|s| (0.0..1e6).contains(&s.user) && (0.0..1e6).contains(&s.kernel)));
        assert!(rss_peak_mb().is_some_and(|mb| (1.0..1e6).contains(&mb)));
    }
}
