//! A stream of our own, in order with all other work of a device.
//!
//! CubeCL's streams are private. The driver orders whole contexts instead: an event of the context captures all that was
//! submitted to any of its streams, and a context that waits for an event holds back all that is submitted later. On an
//! H100 both ways together take 3 microseconds of the host.

use std::sync::OnceLock;

use cudarc::driver::result::{ctx, device, event, init, primary_ctx, stream};
use cudarc::driver::sys::{
    self, CUcontext, CUevent, CUevent_flags, CUevent_wait_flags, CUresult, CUstream,
};

/// The driver's first version with events of a context, as `cuDriverGetVersion` writes it.
const LEAST_DRIVER: i32 = 12_050;

/// A stream of a device's primary context, which CubeCL uses too.
#[derive(Debug)]
pub struct Order {
    context: CUcontext,
    stream: CUstream,
}

// SAFETY: the driver's objects may be used from any thread, and by several at once.
unsafe impl Send for Order {}
// SAFETY: the same.
unsafe impl Sync for Order {}

/// The events around what is put on a stream, one use after another.
#[derive(Debug)]
pub struct Turn {
    before: Event,
    after: Event,
}

/// A point in the work of a device.
#[derive(Debug)]
pub struct Event {
    context: CUcontext,
    event: CUevent,
}

// SAFETY: the driver's objects may be used from any thread, and by several at once.
unsafe impl Send for Event {}
// SAFETY: the same.
unsafe impl Sync for Event {}

type OfContext = unsafe extern "C" fn(CUcontext, CUevent) -> CUresult;

/// The driver's events of a context. `cudarc` binds them only beside the headers of CUDA 12.5 or later.
struct ContextEvents {
    record: OfContext,
    wait: OfContext,
    /// Keeps the functions where they are.
    _driver: libloading::Library,
}

impl ContextEvents {
    fn get() -> Result<&'static Self, String> {
        static FOUND: OnceLock<Result<ContextEvents, String>> = OnceLock::new();
        FOUND
            .get_or_init(Self::open)
            .as_ref()
            .map_err(String::clone)
    }

    fn open() -> Result<Self, String> {
        driver_version()?;
        let name = if cfg!(windows) {
            "nvcuda.dll"
        } else {
            "libcuda.so.1"
        };
        // SAFETY: the driver's initialisers set variables of their own; the types are those of `cuda.h`.
        unsafe {
            let driver =
                libloading::Library::new(name).map_err(|error| format!("{name}: {error}"))?;
            let missing = |error: libloading::Error| {
                format!("the driver has no events of a context: {error}")
            };
            Ok(Self {
                record: *driver.get(b"cuCtxRecordEvent\0").map_err(missing)?,
                wait: *driver.get(b"cuCtxWaitEvent\0").map_err(missing)?,
                _driver: driver,
            })
        }
    }
}

/// The error of a step.
fn failed<E: std::fmt::Debug>(step: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{step}: {error:?}")
}

impl Order {
    /// A stream on device `index`.
    pub fn new(index: usize) -> Result<Self, String> {
        init().map_err(failed("cuInit"))?;
        let ordinal = i32::try_from(index).map_err(failed("device"))?;
        let device = device::get(ordinal).map_err(failed("cuDeviceGet"))?;
        // SAFETY: the device is the driver's own. The primary context is retained for good, as CubeCL does.
        let context = unsafe { primary_ctx::retain(device) }.map_err(failed("context"))?;
        let _current = Current::new(context)?;
        let kind = stream::StreamKind::NonBlocking;
        Ok(Self {
            context,
            stream: stream::create(kind).map_err(failed("cuStreamCreate"))?,
        })
    }

    /// Makes the device's context this thread's, for what `call` does.
    pub fn within<T>(&self, call: impl FnOnce(CUstream) -> Result<T, String>) -> Result<T, String> {
        let _current = Current::new(self.context)?;
        call(self.stream)
    }

    /// Whether the driver can order this stream with all other work of the device.
    pub fn is_total(&self) -> bool {
        ContextEvents::get()
            .inspect_err(|error| tracing::debug!(%error, "exchanges wait on the host"))
            .is_ok()
    }

    fn event(&self) -> Result<Event, String> {
        let flags = CUevent_flags::CU_EVENT_DISABLE_TIMING;
        Ok(Event {
            context: self.context,
            event: event::create(flags).map_err(failed("cuEventCreate"))?,
        })
    }

    /// The end of all that was submitted to the device so far.
    pub fn mark(&self) -> Result<Event, String> {
        let events = ContextEvents::get()?;
        self.within(|_| {
            let event = self.event()?;
            // SAFETY: context and event are alive.
            let recorded = unsafe { (events.record)(self.context, event.event) }.result();
            recorded.map_err(failed("cuCtxRecordEvent"))?;
            Ok(event)
        })
    }

    /// Lets what is submitted to the stream later wait for `event`.
    pub fn follow(&self, event: &Event) -> Result<(), String> {
        self.within(|stream| {
            let flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            // SAFETY: stream and event are alive.
            unsafe { stream::wait_event(stream, event.event, flags) }
                .map_err(failed("cuStreamWaitEvent"))
        })
    }

    /// The end of all that was submitted to the stream so far.
    pub fn point(&self) -> Result<Event, String> {
        self.within(|stream| {
            let event = self.event()?;
            // SAFETY: stream and event are alive.
            unsafe { event::record(event.event, stream) }.map_err(failed("cuEventRecord"))?;
            Ok(event)
        })
    }

    /// Lets all that is submitted to the device later wait for `event`.
    pub fn hold(&self, event: &Event) -> Result<(), String> {
        let events = ContextEvents::get()?;
        self.within(|_| {
            // SAFETY: context and event are alive.
            let waits = unsafe { (events.wait)(self.context, event.event) }.result();
            waits.map_err(failed("cuCtxWaitEvent"))
        })
    }

    /// Events for [`run`](Self::run), which uses them again every time.
    pub fn turn(&self) -> Result<Turn, String> {
        let _current = Current::new(self.context)?;
        Ok(Turn {
            before: self.event()?,
            after: self.event()?,
        })
    }

    /// Runs `submit`, which puts work on the stream: it starts when all that was submitted to the device before is done,
    /// and all that is submitted later waits for it. After an error the stream is idle.
    pub fn run<T>(
        &self,
        turn: &mut Turn,
        submit: impl FnOnce(CUstream) -> Result<T, String>,
    ) -> Result<T, String> {
        let events = ContextEvents::get()?;
        let (before, after) = (turn.before.event, turn.after.event);
        let done = self.within(|stream| {
            let flags = CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
            // SAFETY: context, stream and events are alive.
            unsafe {
                let recorded = (events.record)(self.context, before).result();
                recorded.map_err(failed("cuCtxRecordEvent"))?;
                let waits = stream::wait_event(stream, before, flags);
                waits.map_err(failed("cuStreamWaitEvent"))?;
                let submitted = submit(stream)?;
                event::record(after, stream).map_err(failed("cuEventRecord"))?;
                let waits = (events.wait)(self.context, after).result();
                waits.map_err(failed("cuCtxWaitEvent"))?;
                Ok(submitted)
            }
        });
        if done.is_err() {
            // Part of the work may have been submitted, and nothing waits for it.
            self.sync()?;
        }
        done
    }

    /// Waits on the host for the stream.
    pub fn sync(&self) -> Result<(), String> {
        self.within(|stream| {
            // SAFETY: the stream is this object's and alive.
            unsafe { stream::synchronize(stream) }.map_err(failed("cuStreamSynchronize"))
        })
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        let destroyed = self.within(|stream| {
            // SAFETY: nothing else holds the stream; the driver ends what is submitted first.
            unsafe { stream::destroy(stream) }.map_err(failed("cuStreamDestroy"))
        });
        if let Err(error) = destroyed {
            tracing::debug!(%error, "a stream was left");
        }
    }
}

impl Event {
    /// Whether the device has come to it.
    pub fn is_reached(&self) -> Result<bool, String> {
        let _current = Current::new(self.context)?;
        // SAFETY: the event is alive.
        match unsafe { event::query(self.event) } {
            Ok(()) => Ok(true),
            Err(error) if error.0 == CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            Err(error) => Err(failed("cuEventQuery")(error)),
        }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let destroyed = Current::new(self.context).and_then(|_current| {
            // SAFETY: nothing else holds the event; the driver keeps it until nothing waits for it.
            unsafe { event::destroy(self.event) }.map_err(failed("cuEventDestroy"))
        });
        if let Err(error) = destroyed {
            tracing::debug!(%error, "an event was left");
        }
    }
}

/// A context as this thread's current one, until it is dropped.
struct Current {
    before: Option<CUcontext>,
}

impl Current {
    fn new(context: CUcontext) -> Result<Self, String> {
        let before = ctx::get_current().map_err(failed("cuCtxGetCurrent"))?;
        // SAFETY: the context is retained.
        unsafe { ctx::set_current(context) }.map_err(failed("cuCtxSetCurrent"))?;
        Ok(Self { before })
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        let before = self.before.unwrap_or(std::ptr::null_mut());
        // SAFETY: it was the current one, or none was.
        let restored = unsafe { ctx::set_current(before) };
        if let Err(error) = restored {
            tracing::debug!(?error, "the context was left");
        }
    }
}

/// The driver's version, where it knows events of a context.
pub fn driver_version() -> Result<i32, String> {
    // SAFETY: only tries to open the driver by its usual names.
    if !unsafe { sys::is_culib_present() } {
        return Err("no libcuda: install NVIDIA's driver".into());
    }
    let mut version = 0;
    // SAFETY: writes one integer.
    let read = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
    read.map_err(failed("cuDriverGetVersion"))?;
    match version >= LEAST_DRIVER {
        true => Ok(version),
        false => Err(format!(
            "the driver is of CUDA {}.{}, expected 12.5 or later: update NVIDIA's driver to 555 or later",
            version / 1000,
            version % 1000 / 10
        )),
    }
}
