//! NCCL's functions, looked up at run time by their names.
//!
//! The few that are used have kept their signatures since version 2.14, which brought communicators that do
//! not block. `cudarc` binds all of NCCL, but looks for `libnccl.so` alone, which only the development
//! packages have, and panics where it is missing.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use crate::ranks::RankError;

/// File names of the library: with the runtime alone, and with the headers.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// The first version with communicators that do not block, as `ncclGetVersion` writes it.
const LEAST: c_int = 21_400;
/// How to install it.
const ADVICE: &str = "install NCCL 2.14 or later (Debian's or NVIDIA's libnccl2, or PyPI's \
                      nvidia-nccl-cu12) and put its folder on LD_LIBRARY_PATH";

/// A communicator, opaque outside NCCL.
pub(super) type Comm = *mut c_void;
/// A CUDA stream, in NCCL's type.
pub(super) type Stream = *mut c_void;

/// A function's result.
pub(super) type Code = c_int;
pub(super) const SUCCESS: Code = 0;
pub(super) const IN_PROGRESS: Code = 7;
/// Elements of one byte: moved bytes are never computed with.
pub(super) const BYTES: c_int = 1;

/// Identifies a communicator; made by one process and sent to all.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct UniqueId(pub [u8; UniqueId::BYTES]);

impl UniqueId {
    pub const BYTES: usize = 128;
}

/// `ncclConfig_t` of version 2.14. Later versions append fields, and take their own defaults for those that
/// the version named here did not have.
#[repr(C)]
pub(super) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    /// The next field of later versions, which they do not read.
    padding: c_int,
}

impl Config {
    /// A communicator whose calls return at once.
    pub fn without_blocking() -> Self {
        /// `NCCL_API_MAGIC`.
        const MAGIC: u32 = 0xcafe_beef;
        Self {
            size: size_of::<Self>(),
            magic: MAGIC,
            version: LEAST.unsigned_abs(),
            blocking: 0,
            padding: c_int::MIN,
        }
    }
}

type Collective =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, Comm, Stream) -> Code;
type Rooted =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, Comm, Stream) -> Code;
type Init = unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> Code;

/// The functions that are used.
pub(super) struct Library {
    version: unsafe extern "C" fn(*mut c_int) -> Code,
    unique_id: unsafe extern "C" fn(*mut UniqueId) -> Code,
    error_string: unsafe extern "C" fn(Code) -> *const c_char,
    last_error: unsafe extern "C" fn(Comm) -> *const c_char,
    pub init: Init,
    pub async_error: unsafe extern "C" fn(Comm, *mut Code) -> Code,
    pub finalize: unsafe extern "C" fn(Comm) -> Code,
    pub destroy: unsafe extern "C" fn(Comm) -> Code,
    pub abort: unsafe extern "C" fn(Comm) -> Code,
    pub group_start: unsafe extern "C" fn() -> Code,
    pub group_end: unsafe extern "C" fn() -> Code,
    pub all_gather: Collective,
    pub broadcast: Rooted,
    pub send: unsafe extern "C" fn(*const c_void, usize, c_int, c_int, Comm, Stream) -> Code,
    pub receive: unsafe extern "C" fn(*mut c_void, usize, c_int, c_int, Comm, Stream) -> Code,
    /// Keeps the functions where they are.
    _library: libloading::Library,
}

impl Library {
    /// The library of this machine, opened once.
    ///
    /// # Errors
    ///
    /// [`RankError::Unavailable`] where there is none, or an old one, with how to install it.
    pub fn get() -> Result<&'static Self, RankError> {
        static LIBRARY: OnceLock<Result<Library, String>> = OnceLock::new();
        let library = LIBRARY.get_or_init(|| Self::open(&NAMES));
        library.as_ref().map_err(|reason| RankError::Unavailable {
            reason: reason.clone(),
        })
    }

    fn open(names: &[&str]) -> Result<Self, String> {
        let mut why = String::new();
        for name in names {
            // SAFETY: NCCL's initialisers set variables of their own and nothing else.
            match unsafe { libloading::Library::new(*name) } {
                Ok(library) => {
                    let library = Self::bind(library).map_err(|error| {
                        format!(
                            "{name} is no usable NCCL: {}; {ADVICE}",
                            loader_message(&error)
                        )
                    })?;
                    let version = library.version()?;
                    return match version >= LEAST {
                        true => Ok(library),
                        false => Err(format!("{name} is NCCL {}; {ADVICE}", written(version))),
                    };
                }
                Err(error) if why.is_empty() => why = loader_message(&error),
                Err(_) => {}
            }
        }
        Err(format!("no NCCL was found ({why}); {ADVICE}"))
    }

    fn bind(library: libloading::Library) -> Result<Self, libloading::Error> {
        // SAFETY: the types are those of `nccl.h` under these names, unchanged since 2.14. The functions
        // stay valid as long as the library, which is kept beside them.
        unsafe {
            Ok(Self {
                version: *library.get(b"ncclGetVersion")?,
                unique_id: *library.get(b"ncclGetUniqueId")?,
                error_string: *library.get(b"ncclGetErrorString")?,
                last_error: *library.get(b"ncclGetLastError")?,
                init: *library.get(b"ncclCommInitRankConfig")?,
                async_error: *library.get(b"ncclCommGetAsyncError")?,
                finalize: *library.get(b"ncclCommFinalize")?,
                destroy: *library.get(b"ncclCommDestroy")?,
                abort: *library.get(b"ncclCommAbort")?,
                group_start: *library.get(b"ncclGroupStart")?,
                group_end: *library.get(b"ncclGroupEnd")?,
                all_gather: *library.get(b"ncclAllGather")?,
                broadcast: *library.get(b"ncclBroadcast")?,
                send: *library.get(b"ncclSend")?,
                receive: *library.get(b"ncclRecv")?,
                _library: library,
            })
        }
    }

    /// In NCCL's form: 22105 is 2.21.5.
    fn version(&self) -> Result<c_int, String> {
        let mut version = 0;
        // SAFETY: the pointer is to a number of this function.
        let code = unsafe { (self.version)(&mut version) };
        self.check(code, std::ptr::null_mut()).map(|_| version)
    }

    /// A new communicator's id.
    pub fn new_id(&self) -> Result<UniqueId, String> {
        let mut id = UniqueId([0; UniqueId::BYTES]);
        // SAFETY: the pointer is to as many bytes as `nccl.h` says.
        let code = unsafe { (self.unique_id)(&mut id) };
        self.check(code, std::ptr::null_mut()).map(|_| id)
    }

    /// Whether a call is complete; false while it is in progress.
    pub fn check(&self, code: Code, comm: Comm) -> Result<bool, String> {
        match code {
            SUCCESS => return Ok(true),
            IN_PROGRESS => return Ok(false),
            _ => {}
        }
        // SAFETY: both give text that lives at least until the next call of this thread; NCCL takes a
        // null communicator for the last error of any.
        let (what, detail) = unsafe {
            (
                text((self.error_string)(code)),
                text((self.last_error)(comm)),
            )
        };
        Err(match detail.is_empty() {
            true => format!("NCCL: {what}"),
            false => format!("NCCL: {what}: {detail}"),
        })
    }
}

/// The loader's message, which the error leaves to its source.
fn loader_message(error: &libloading::Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    }
}

/// # Safety
///
/// `text` is null or points to text with an end.
unsafe fn text(text: *const c_char) -> String {
    match text.is_null() {
        true => String::new(),
        // SAFETY: as the caller promises.
        false => unsafe { CStr::from_ptr(text) }
            .to_string_lossy()
            .trim()
            .to_owned(),
    }
}

fn written(version: c_int) -> String {
    let (major, minor, patch) = (version / 10_000, version / 100 % 100, version % 100);
    format!("{major}.{minor}.{patch}")
}

/// The version of the NCCL that this machine has.
///
/// # Errors
///
/// [`RankError::Unavailable`] where there is none, or one older than 2.14, with how to install it.
pub fn version() -> Result<String, RankError> {
    let version = Library::get()?.version();
    version
        .map(written)
        .map_err(|reason| RankError::Unavailable { reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_names_what_is_missing_and_how_to_install_it() {
        let Err(reason) = Library::open(&["libnccl-that-there-is-not.so"]) else {
            panic!("opened");
        };
        assert!(reason.contains("no NCCL was found"), "{reason}");
        assert!(reason.contains("nvidia-nccl-cu12"), "{reason}");
        // A library that every machine has, and that is not NCCL.
        let Err(reason) = Library::open(&["libc.so.6"]) else {
            panic!("opened");
        };
        assert!(reason.contains("ncclGetVersion"), "{reason}");
    }

    #[test]
    fn versions_are_read() {
        assert_eq!(written(22_105), "2.21.5");
        // Where the machine has NCCL: it opens, and makes ids that differ.
        if let Ok(library) = Library::get() {
            assert!(library.version().is_ok_and(|version| version >= LEAST));
            let ids = (library.new_id().unwrap(), library.new_id().unwrap());
            assert_ne!(ids.0.0, ids.1.0);
        }
    }
}
