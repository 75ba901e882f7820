//! SIGBUS: a file was made shorter while it was mapped, and what was cut off is read.
//!
//! There is no page that the read could go on with, so the process ends; by default without a word. The handler says which
//! file it was. It calls nothing but `open`, `read`, `write` and `_exit`, which a signal handler may.

/// Names the file before the process ends; `json`: also as an object on stdout.
#[cfg(target_os = "linux")]
pub fn name_it(json: bool) {
    use std::sync::atomic::Ordering;
    linux::JSON.store(json, Ordering::Relaxed);
    linux::install();
}

/// Other systems end the process without a word.
#[cfg(not(target_os = "linux"))]
pub fn name_it(_: bool) {}

#[cfg(target_os = "linux")]
mod linux {
    use std::sync::atomic::{AtomicBool, Ordering};

    pub static JSON: AtomicBool = AtomicBool::new(false);

    const TEXT: &[u8] =
        b"apb: a file was cut short while it was read; make it whole again, and do not write to it meanwhile: ";
    const OBJECT: &[u8] =
        b"{\"error\":{\"kind\":\"failed\",\"message\":\"a file was cut short while it was read; \
        make it whole again, and do not write to it meanwhile\",\"path\":null,\"exit_code\":1}}\n";
    /// Longest line of `/proc/self/maps` that is read: a path and what stands before it.
    const LINE: usize = 4352;

    pub fn install() {
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = ended;
        // SAFETY: zeros are a valid `sigaction` without flags or mask; the handler has the signature that SA_SIGINFO asks
        // for, and lives as long as the program.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handler as libc::sighandler_t;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESETHAND;
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    }

    extern "C" fn ended(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
        // SAFETY: the system passes a valid `siginfo_t`.
        let (code, address) = unsafe { ((*info).si_code, (*info).si_addr() as usize) };
        if code != libc::BUS_ADRERR {
            // Another reason: the read is tried again, and ends the process as it does by default.
            return;
        }
        write(libc::STDERR_FILENO, TEXT);
        show_file(address);
        write(libc::STDERR_FILENO, b"\n");
        if JSON.load(Ordering::Relaxed) {
            write(libc::STDOUT_FILENO, OBJECT);
        }
        // SAFETY: ends the process.
        unsafe { libc::_exit(1) }
    }

    fn write(to: libc::c_int, bytes: &[u8]) {
        // SAFETY: the bytes are valid for their length; an error is nothing that could be reported.
        let _ = unsafe { libc::write(to, bytes.as_ptr().cast(), bytes.len()) };
    }

    /// Writes the path of the file that is mapped at an address.
    fn show_file(address: usize) {
        // SAFETY: the path ends with 0.
        let maps = unsafe {
            libc::open(
                c"/proc/self/maps".as_ptr(),
                libc::O_RDONLY | libc::O_CLOEXEC,
            )
        };
        if maps < 0 {
            return;
        }
        let mut line = [0u8; LINE];
        let mut len = 0;
        let mut byte = 0u8;
        // A byte at a time is slow and needs no second buffer.
        // SAFETY: one byte is read into one byte.
        while unsafe { libc::read(maps, (&raw mut byte).cast(), 1) } == 1 {
            if byte != b'\n' {
                if let Some(place) = line.get_mut(len) {
                    *place = byte;
                    len += 1;
                }
                continue;
            }
            if let Some(path) = path_at(&line[..len], address) {
                for part in path {
                    // What a terminal would obey is left out.
                    let shown = if *part < b' ' || *part >= 0x7f {
                        &b'?'
                    } else {
                        part
                    };
                    write(libc::STDERR_FILENO, std::slice::from_ref(shown));
                }
                break;
            }
            len = 0;
        }
        // SAFETY: it was opened above.
        unsafe { libc::close(maps) };
    }

    /// The path in a line `START-END FLAGS OFFSET DEVICE INODE PATH` that holds the address.
    fn path_at(line: &[u8], address: usize) -> Option<&[u8]> {
        let (start, rest) = number(line)?;
        let (end, rest) = number(rest.strip_prefix(b"-")?)?;
        if !(start..end).contains(&address) {
            return None;
        }
        let path = rest.iter().position(|byte| *byte == b'/')?;
        Some(&rest[path..])
    }

    fn number(text: &[u8]) -> Option<(usize, &[u8])> {
        let mut value = 0usize;
        let mut at = 0;
        while let Some(digit) = text.get(at).and_then(|byte| char::from(*byte).to_digit(16)) {
            value = value.checked_mul(16)?.checked_add(digit as usize)?;
            at += 1;
        }
        (at > 0).then_some((value, &text[at..]))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn lines_of_maps() {
            let line = b"7f00a000-7f00b000 r--s 00000000 fe:00 123    /some/a file.safetensors";
            let path: Option<&[u8]> = Some(b"/some/a file.safetensors");
            assert_eq!(path_at(line, 0x7f00_a000), path);
            assert_eq!(path_at(line, 0x7f00_afff), path);
            assert_eq!(path_at(line, 0x7f00_b000), None);
            assert_eq!(
                path_at(b"7f00a000-7f00b000 rw-p 00000000 00:00 0 ", 0x7f00_a000),
                None
            );
            assert_eq!(path_at(b"", 0), None);
        }
    }
}
