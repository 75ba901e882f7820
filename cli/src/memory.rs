//! Peak resident memory of the process, and settings of the allocator.

/// Peak resident memory in bytes since the start or the last [`reset_peak`]; Linux only.
pub fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Resets the peak; where the system refuses, the peak stays that of the process.
pub fn reset_peak() {
    // 5 resets the peak and nothing else (proc(5), /proc/pid/clear_refs).
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Sets one heap for all threads, before any starts: with a heap a thread, glibc keeps what each has freed,
/// and a process of ranks peaks some 40 MiB higher. Tensors are few and large, so threads rarely contend.
pub fn share_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: a setting of the allocator; a refusal leaves it as it was.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns freed memory to the system, where the allocator can: parsing a tokenizer and a long text, and
/// the activations of a prefill, leave tens of megabytes.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the allocator's own call, for memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
