//! Peak resident memory of the process, and settings of the allocator.

/// Peak resident memory in bytes since the start or the last [`reset_peak`]; Linux only.
pub fn peak_bytes() -> Option<u64> {
    field("/proc/self/status", "VmHWM:")
}

/// Resident memory in bytes now; Linux only.
pub fn resident_bytes() -> Option<u64> {
    field("/proc/self/status", "VmRSS:")
}

/// Bytes that the system can still give: available memory and swap, less where the process or its control group has a
/// limit; Linux only.
pub fn available_bytes() -> Option<u64> {
    let free = field("/proc/meminfo", "MemAvailable:")?
        .saturating_add(field("/proc/meminfo", "SwapFree:").unwrap_or(0));
    let limits = [
        group_bytes(&VERSION_2),
        group_bytes(&VERSION_1),
        address_bytes(),
    ];
    Some(limits.into_iter().flatten().fold(free, u64::min))
}

/// Bytes of address space left to the process (`ulimit -v`); none where it has no limit.
fn address_bytes() -> Option<u64> {
    #[cfg(target_os = "linux")]
    {
        let mut limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the system writes the structure that it is given.
        let asked = unsafe { libc::getrlimit(libc::RLIMIT_AS, &raw mut limit) };
        if asked == 0 && limit.rlim_cur != libc::RLIM_INFINITY {
            let taken = field("/proc/self/status", "VmSize:").unwrap_or(0);
            return Some(limit.rlim_cur.saturating_sub(taken));
        }
    }
    None
}

/// Where a version of control groups says how much memory a group may take and has.
struct Groups {
    /// What stands before a group's path in `/proc/self/cgroup`.
    controllers: fn(&str) -> bool,
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Pages of files that are given back when they are needed.
    files: &'static str,
}

const VERSION_2: Groups = Groups {
    controllers: str::is_empty,
    root: "/sys/fs/cgroup",
    limit: "memory.max",
    used: "memory.current",
    files: "inactive_file",
};
const VERSION_1: Groups = Groups {
    controllers: |named| named.split(',').any(|name| name == "memory"),
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    files: "total_inactive_file",
};

/// Bytes left in the control group; none where it has no limit.
fn group_bytes(version: &Groups) -> Option<u64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = groups.lines().find_map(|line| {
        let (_, rest) = line.split_once(':')?;
        let (controllers, path) = rest.split_once(':')?;
        (version.controllers)(controllers).then_some(path)
    })?;
    let mut folder = std::path::PathBuf::from(version.root);
    folder.push(path.trim_start_matches('/'));
    let mut least = None;
    // A group is also held to the limits of those that it is in.
    while folder.starts_with(version.root) {
        let number = |name: &str| -> Option<u64> {
            let text = std::fs::read_to_string(folder.join(name)).ok()?;
            text.trim().parse().ok()
        };
        if let (Some(limit), Some(used)) = (number(version.limit), number(version.used)) {
            let files = field_of(&folder.join("memory.stat"), version.files).unwrap_or(0);
            let left = limit.saturating_sub(used.saturating_sub(files));
            least = Some(least.map_or(left, |least: u64| least.min(left)));
        }
        if !folder.pop() {
            break;
        }
    }
    least
}

/// A line `NAME: N kB` of a file of `/proc`, in bytes.
fn field(path: &str, name: &str) -> Option<u64> {
    Some(field_of(std::path::Path::new(path), name)?.saturating_mul(1024))
}

/// The number behind a name that begins a line.
fn field_of(path: &std::path::Path, name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace().nth(1)?.parse().ok()
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
