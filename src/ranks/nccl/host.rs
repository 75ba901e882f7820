//! Bytes of the host, by way of memory on the device.

use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Bytes;
use cudarc::driver::result::{free_async, malloc_async, memcpy_dtoh_async, memcpy_htod_async};
use cudarc::driver::sys::CUdeviceptr;

use super::communicator::{Kept, Span};
use crate::cuda::Order;
use crate::ranks::RankError;
use crate::ranks::watch::Watch;

/// Time between two looks at a copy.
const REST: Duration = Duration::from_micros(20);

/// Copies between the host and one GPU, on a stream of their own.
#[derive(Debug)]
pub(super) struct Host {
    order: Arc<Order>,
}

/// Memory of the device, freed behind what the copies' stream was given.
#[derive(Debug)]
pub(super) struct Buffer {
    order: Arc<Order>,
    address: CUdeviceptr,
    bytes: usize,
}

/// Why bytes do not come back.
pub(super) enum Lost {
    /// A rank is lost.
    Rank(RankError),
    /// The device or its driver refused.
    Device(String),
}

impl From<String> for Lost {
    fn from(reason: String) -> Self {
        Self::Device(reason)
    }
}

impl Host {
    /// Copies to and from GPU `index`.
    pub(super) fn new(index: usize) -> Result<Self, String> {
        let order = Arc::new(Order::new(index)?);
        Ok(Self { order })
    }

    /// Starts to copy bytes to the device. `kept` is not to be dropped before they are there.
    pub(super) fn put(&self, bytes: Bytes, kept: &mut Kept) -> Result<Arc<Buffer>, String> {
        let buffer = self.room(bytes.len(), kept)?;
        let copied = self.order.within(|stream| {
            // SAFETY: the buffer has as many bytes, and `kept` has both until the copy is made.
            unsafe { memcpy_htod_async(buffer.address, &bytes[..], stream) }
                .map_err(|error| format!("a copy to the device: {error:?}"))
        });
        kept.push(Box::new(bytes));
        copied.map(|()| buffer)
    }

    /// Memory for bytes that arrive. `kept` is not to be dropped before they have.
    pub(super) fn room(&self, bytes: usize, kept: &mut Kept) -> Result<Arc<Buffer>, String> {
        let address = self.order.within(|stream| {
            // SAFETY: only an address is made of the memory until something is copied there.
            unsafe { malloc_async(stream, bytes.max(1)) }
                .map_err(|error| format!("{bytes} bytes of the device: {error:?}"))
        })?;
        let buffer = Arc::new(Buffer {
            order: self.order.clone(),
            address,
            bytes,
        });
        kept.push(Box::new(buffer.clone()));
        Ok(buffer)
    }

    /// The bytes of a buffer, once all is done that the device was to do before; fails early where a rank is lost.
    pub(super) fn fetch(&self, buffer: &Buffer, watch: &Watch) -> Result<Vec<u8>, Lost> {
        let mut bytes = vec![0; buffer.bytes];
        if bytes.is_empty() {
            return Ok(bytes);
        }
        let started = self.order.within(|stream| {
            // SAFETY: there are as many bytes, which are not freed before they are copied (below).
            unsafe { memcpy_dtoh_async(&mut bytes[..], buffer.address, stream) }
                .map_err(|error| format!("a copy from the device: {error:?}"))
        });
        let copied = started.map_err(Lost::from).and_then(|()| {
            let copied = self.order.point()?;
            while !copied.is_reached()? {
                watch.check().map_err(Lost::Rank)?;
                std::thread::sleep(REST);
            }
            Ok(())
        });
        match copied {
            Ok(()) => Ok(bytes),
            Err(lost) => {
                // The copy may still come.
                std::mem::forget(bytes);
                Err(lost)
            }
        }
    }

    /// Waits until all copies to the device are made.
    pub(super) fn sync(&self) -> Result<(), String> {
        self.order.sync()
    }
}

impl Buffer {
    pub(super) fn span(&self) -> Span {
        Span {
            address: self.address,
            bytes: self.bytes,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let freed = self.order.within(|stream| {
            // SAFETY: allocated on this stream; whatever used it is done, or is before this in the stream.
            unsafe { free_async(self.address, stream) }
                .map_err(|error| format!("cuMemFreeAsync: {error:?}"))
        });
        if let Err(error) = freed {
            tracing::debug!(%error, "memory was left");
        }
    }
}
