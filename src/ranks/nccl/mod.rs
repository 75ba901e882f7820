//! Ranks as processes with a GPU each, over NCCL.
//!
//! | file | holds |
//! |---|---|
//! | `library` | NCCL's functions, found at run time |
//! | `communicator` | the thread that calls them |
//! | `host` | bytes of the host, by way of the device |
//! | `gpu` | tensors of the device as addresses |
//!
//! Tensors go from device to device; those on the host, and bytes, are copied to the device first.
//!
//! NCCL works on a stream of its own. What a step sends may still be computed when the step starts: the driver orders
//! the stream behind all that the device was given before, and behind the stream all that it is given after the step is
//! finished. The host waits for neither, so that a step runs beside what is computed meanwhile, up to the next product
//! of cuBLASLt, which waits for all that the device was given. Drivers before CUDA 12.5 cannot do that: there the host
//! waits for both.
//!
//! A process that is lost is therefore found after a step, too: the transfers end when the communicator is aborted, and
//! [`Transport::check`] fails from then on. What was computed from them is worth nothing.

mod communicator;
#[cfg(feature = "cuda")]
mod gpu;
mod host;
mod library;

use std::collections::HashMap;
use std::sync::Arc;

use burn::tensor::{Bytes, DType, Tensor};

pub use self::library::version;

use self::communicator::{End, Engine, Kept, Span, Transfer};
#[cfg(feature = "cuda")]
use self::gpu::Gpu;
use self::host::{Buffer, Host, Lost};
use self::library::{Library, UniqueId};
use super::rendezvous::{self, Rendezvous};
use super::transport::tensor_of;
use super::watch::{Watch, listen};
use super::{Environment, JoinOptions, RankError, Step, Ticket, Transport, transport};
use crate::cuda::Event;

/// The rendezvous where no launcher sets one: this machine.
const LOOPBACK: &str = "127.0.0.1";

/// NCCL, with the processes connected.
#[derive(Debug)]
struct Nccl {
    engine: Engine,
    device: usize,
}

fn failed(reason: String) -> RankError {
    RankError::Connect { reason }
}

/// Connects this process, which uses GPU `device`, with all others. The rendezvous is the environment's, else
/// the options'.
pub(super) fn join(
    environment: &Environment,
    options: JoinOptions,
    device: usize,
) -> Result<(Box<dyn transport::Engine>, Watch), RankError> {
    let library = Library::get()?;
    // SAFETY: only tries to open the driver by its usual names.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(RankError::Unavailable {
            reason: "NCCL moves tensors between GPUs, and this machine has no libcuda; install NVIDIA's \
                     driver, or use --device cpu"
                .into(),
        });
    }
    let Some(port) = environment.rendezvous_port else {
        return Err(RankError::Environment {
            name: "MASTER_PORT".into(),
            found: String::new(),
            expected: "a free port of process 0's machine, the same on all".into(),
        });
    };
    let host = (environment.rendezvous.as_deref()).or(options.rendezvous.as_deref());
    let address = rendezvous::resolve(host.unwrap_or(LOOPBACK), port)?;
    let token = rendezvous::token(address.ip())?;
    let process = environment.process;
    let (listener, entry) = listen(process, options.rendezvous.as_deref().or(host))?;
    let id = match process {
        0 => library.new_id().map_err(failed)?.0.to_vec(),
        _ => Vec::new(),
    };
    let timeout = options.start_timeout();
    let rendezvous = Rendezvous {
        address,
        process,
        processes: environment.processes,
        token,
        timeout,
    };
    let response = rendezvous.join(entry, id)?;
    let id = <[u8; UniqueId::BYTES]>::try_from(&response.engine[..])
        .map_err(|_| failed("process 0 sent no id of NCCL's size".into()))?;
    let watch = Watch::start(
        process,
        response.directory,
        &listener,
        &response.token,
        options,
    )?;
    let engine = Engine::start(library, device, UniqueId(id), watch.unguarded(), timeout);
    // A rank that is lost is why NCCL does not connect the others.
    let engine = engine.map_err(|reason| watch.check().err().unwrap_or_else(|| failed(reason)))?;
    Ok((Box::new(Nccl { engine, device }), watch))
}

impl transport::Engine for Nccl {
    fn transport(&self, watch: &Watch) -> Result<Box<dyn Transport>, RankError> {
        let refused = |reason: String| RankError::Unavailable {
            reason: format!("GPU {} gives no memory: {reason}", self.device),
        };
        Ok(Box::new(NcclTransport {
            engine: self.engine.clone(),
            watch: watch.clone(),
            host: Host::new(self.device).map_err(refused)?,
            #[cfg(feature = "cuda")]
            gpu: Gpu::new(self.device).map_err(refused)?,
            moving: HashMap::new(),
        }))
    }

    fn finish(&self, watch: &Watch) -> Result<(), RankError> {
        self.engine.finish(watch.timeout()).map_err(failed)
    }
}

/// Moves tensors from GPU to GPU. Waits have a timeout, and end early when a process is lost.
#[derive(Debug)]
struct NcclTransport {
    engine: Engine,
    watch: Watch,
    host: Host,
    #[cfg(feature = "cuda")]
    gpu: Gpu,
    /// Steps that are not finished, by index.
    moving: HashMap<u64, Moving>,
}

/// A step under way.
#[derive(Debug)]
struct Moving {
    end: End,
    /// What arrives, by process; that of an all-gather is under 0.
    arrivals: Vec<(usize, Arrival)>,
}

/// Where a tensor arrives.
#[derive(Debug)]
enum Arrival {
    /// Memory of the device, for a tensor of the host.
    Buffer(Arc<Buffer>),
    #[cfg(feature = "cuda")]
    Tensor(Box<Tensor<4>>),
}

impl Transport for NcclTransport {
    fn processes(&self) -> usize {
        self.watch.processes()
    }

    fn process(&self) -> usize {
        self.watch.process()
    }

    fn check(&self) -> Result<(), RankError> {
        self.watch.check()
    }

    fn start(
        &mut self,
        step: Step,
        mut outgoing: Vec<Option<Tensor<4>>>,
        incoming: Vec<Option<[usize; 4]>>,
    ) -> Result<Ticket, RankError> {
        self.watch.enter(step)?;
        let ticket = Ticket::new(step, self.process(), &mut outgoing, incoming);
        self.submit(step, |memory, kept| {
            let mut transfers = Vec::new();
            for (to, tensor) in outgoing.into_iter().enumerate() {
                if let Some(tensor) =
                    tensor.filter(|tensor| bytes(tensor.dims(), tensor.dtype()) > 0)
                {
                    let span = memory.send(tensor, kept)?;
                    transfers.push(Transfer::Send { to, span });
                }
            }
            let mut arrivals = Vec::new();
            for (from, shape) in ticket.incoming.iter().enumerate() {
                let (Some(shape), Some(like)) = (shape, &ticket.like) else {
                    continue;
                };
                let (arrival, span) = memory.receive(*shape, like, kept)?;
                arrivals.push((from, arrival));
                if span.bytes > 0 {
                    transfers.push(Transfer::Receive { from, span });
                }
            }
            Ok((transfers, arrivals))
        })?;
        Ok(ticket)
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError> {
        let Ticket {
            step,
            mut held,
            incoming,
            like,
        } = ticket;
        let arrivals = self.wait(step)?;
        let Some(like) = like else { return Ok(held) };
        let processes = self.processes();
        let gathers = incoming[self.process()].is_some();
        for (process, arrival) in arrivals {
            let Some(shape) = incoming[process] else {
                continue;
            };
            let [first, rest @ ..] = shape;
            let [a, b, c] = rest;
            let whole = match gathers {
                true => [processes * first, a, b, c],
                false => shape,
            };
            let tensor = self.arrived(step, arrival, whole, &like)?;
            if !gathers {
                held[process] = Some(tensor);
            } else if bytes(shape, like.dtype()) == 0 {
                held = vec![Some(tensor_of(Vec::new(), shape, &like)); processes];
            } else {
                // Those of all processes, this one's own among them, concatenated.
                held = tensor.chunk(processes, 0).into_iter().map(Some).collect();
            }
        }
        Ok(held)
    }

    fn start_all_gather(&mut self, step: Step, mine: Tensor<4>) -> Result<Ticket, RankError> {
        self.watch.enter(step)?;
        let shape = mine.dims();
        let processes = self.processes();
        let [first, a, b, c] = shape;
        self.submit(step, |memory, kept| {
            let (arrival, to) = memory.receive([processes * first, a, b, c], &mine, kept)?;
            let transfers = match to.bytes {
                0 => Vec::new(),
                _ => {
                    let from = memory.send(mine.clone(), kept)?;
                    vec![Transfer::AllGather { from, to }]
                }
            };
            Ok((transfers, vec![(0, arrival)]))
        })?;
        Ok(Ticket {
            step,
            held: vec![None; processes],
            incoming: vec![Some(shape); processes],
            like: Some(mine),
        })
    }

    fn broadcast(&mut self, step: Step, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>, RankError> {
        self.watch.enter(step)?;
        if bytes.is_empty() {
            return Ok(bytes);
        }
        self.submit(step, |memory, kept| {
            let buffer = memory.host.put(Bytes::from_bytes_vec(bytes), kept)?;
            let span = buffer.span();
            let arrivals = vec![(root, Arrival::Buffer(buffer))];
            Ok((vec![Transfer::Broadcast { root, span }], arrivals))
        })?;
        let mut all = Vec::new();
        for (_, arrival) in self.wait(step)? {
            #[cfg_attr(
                not(feature = "cuda"),
                allow(irrefutable_let_patterns, reason = "tensors arrive on GPUs alone")
            )]
            if let Arrival::Buffer(buffer) = arrival {
                all = self.fetch(step, &buffer)?;
            }
        }
        Ok(all)
    }
}

/// What is to be moved, and where it arrives.
type Planned = (Vec<Transfer>, Vec<(usize, Arrival)>);

impl NcclTransport {
    /// Starts the transfers that `plan` makes.
    fn submit(
        &mut self,
        step: Step,
        plan: impl FnOnce(&Self, &mut Kept) -> Result<Planned, String>,
    ) -> Result<(), RankError> {
        let mut kept = Kept::new();
        let planned = plan(self, &mut kept).and_then(|planned| Ok((planned, self.ready()?)));
        match planned {
            Ok(((transfers, arrivals), ready)) => {
                let end = self.engine.submit(step, ready, transfers, kept);
                self.moving.insert(step.index, Moving { end, arrivals });
                Ok(())
            }
            Err(reason) => {
                // Copies to the device may be under way.
                std::mem::forget(kept);
                Err(self.refused(step, reason))
            }
        }
    }

    /// What transfers start behind: all that the device was given, or nothing, where the host has waited for that.
    fn ready(&self) -> Result<Option<Event>, String> {
        if self.engine.order().is_total() {
            return self.engine.order().mark().map(Some);
        }
        self.host.sync()?;
        #[cfg(feature = "cuda")]
        self.gpu.sync()?;
        Ok(None)
    }

    /// What arrives in a step, once the device is to do all that it is given from now on behind it.
    fn wait(&mut self, step: Step) -> Result<Vec<(usize, Arrival)>, RankError> {
        let moving = self.moving.remove(&step.index);
        self.watch.wait(step)?;
        let Some(Moving { end, arrivals }) = moving else {
            return Ok(Vec::new());
        };
        if let Some(end) = end.get().filter(|_| self.engine.order().is_total()) {
            let held = self.engine.order().hold(end);
            held.map_err(|reason| self.refused(step, reason))?;
        }
        Ok(arrivals)
    }

    /// The elements of a tensor `[n0, n1, n2, n3]` on the device, in the order of its dimensions.
    fn send(&self, tensor: Tensor<4>, kept: &mut Kept) -> Result<Span, String> {
        #[cfg(feature = "cuda")]
        if tensor.device() == *self.gpu.device() {
            return self.gpu.read(tensor, kept);
        }
        let data = tensor.try_into_data().map_err(|error| error.to_string())?;
        Ok(self.host.put(data.into_bytes(), kept)?.span())
    }

    /// Memory of the device for a tensor of this shape, with the dtype and device of `like`.
    fn receive(
        &self,
        shape: [usize; 4],
        like: &Tensor<4>,
        kept: &mut Kept,
    ) -> Result<(Arrival, Span), String> {
        #[cfg(feature = "cuda")]
        if like.device() == *self.gpu.device() {
            let (tensor, span) = self.gpu.write(shape, like.dtype(), kept)?;
            return Ok((Arrival::Tensor(Box::new(tensor)), span));
        }
        let buffer = self.host.room(bytes(shape, like.dtype()), kept)?;
        let span = buffer.span();
        Ok((Arrival::Buffer(buffer), span))
    }

    /// A tensor that has arrived.
    fn arrived(
        &self,
        step: Step,
        arrival: Arrival,
        shape: [usize; 4],
        like: &Tensor<4>,
    ) -> Result<Tensor<4>, RankError> {
        match arrival {
            Arrival::Buffer(buffer) => Ok(tensor_of(self.fetch(step, &buffer)?, shape, like)),
            #[cfg(feature = "cuda")]
            Arrival::Tensor(tensor) => Ok(*tensor),
        }
    }

    fn fetch(&self, step: Step, buffer: &Buffer) -> Result<Vec<u8>, RankError> {
        let fetched = self.host.fetch(buffer, &self.watch);
        let fetched = fetched.map_err(|lost| match lost {
            Lost::Rank(error) => error,
            Lost::Device(reason) => self.refused(step, reason),
        })?;
        // Transfers that were aborted end, too.
        self.watch.check()?;
        Ok(fetched)
    }

    /// The error where memory of the device could not be read or allocated.
    fn refused(&self, step: Step, reason: String) -> RankError {
        (self.watch).fail_step(step, RankError::Device { at: step, reason })
    }
}

/// Bytes of a tensor.
fn bytes(shape: [usize; 4], dtype: DType) -> usize {
    shape.iter().product::<usize>() * dtype.size()
}
