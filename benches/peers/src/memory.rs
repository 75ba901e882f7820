//! Resident memory of the process, as Linux counts it.

/// Bytes that are resident now.
pub fn resident() -> Option<u64> {
    field("VmRSS:")
}

/// The most that was resident since [`reset_peak`], in bytes.
pub fn peak() -> Option<u64> {
    field("VmHWM:")
}

/// Begins the peak anew, as `apb bench prefill` does before each run.
pub fn reset_peak() {
    // 5 resets the peak and nothing else (proc(5), /proc/pid/clear_refs).
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

fn field(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
