//! Ranks as processes with a GPU each, over NCCL.
//!
//! | file | holds |
//! |---|---|
//! | `library` | NCCL's functions, found at run time |
//! | `communicator` | the thread that calls them |
//! | `memory` | tensors as addresses on the device |
//!
//! Tensors go from device to device; those on the host, and bytes, are copied to the device first. NCCL works
//! on a stream of its own: a step starts once the tensors it sends are computed, and runs beside what is
//! computed after that, up to the next product of cuBLASLt, which waits for all that the device was given.

mod communicator;
mod library;
mod memory;

use burn::tensor::Tensor;

pub use self::library::version;

use self::communicator::{Engine, Kept, Transfer};
use self::library::{Library, UniqueId};
use self::memory::{Memory, bytes};
use super::rendezvous::{self, Rendezvous};
use super::watch::{Watch, listen};
use super::{Environment, JoinOptions, RankError, Step, Ticket, Transport, transport};

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
    let engine = engine.map_err(failed)?;
    Ok((Box::new(Nccl { engine, device }), watch))
}

impl transport::Engine for Nccl {
    fn transport(&self, watch: &Watch) -> Result<Box<dyn Transport>, RankError> {
        let memory = Memory::new(self.device).map_err(|reason| RankError::Unavailable {
            reason: format!("GPU {} gives no memory: {reason}", self.device),
        })?;
        Ok(Box::new(NcclTransport {
            engine: self.engine.clone(),
            watch: watch.clone(),
            memory,
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
    memory: Memory,
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
        let mut ticket = Ticket::new(step, self.process(), &mut outgoing, incoming);
        let mut kept = Kept::new();
        let mut transfers = Vec::new();
        for (to, tensor) in outgoing.into_iter().enumerate() {
            if let Some(tensor) = tensor.filter(|tensor| bytes(tensor.dims(), tensor.dtype()) > 0) {
                let span = self.memory.read(tensor, &mut kept);
                let span = span.map_err(|reason| self.refused(step, reason))?;
                transfers.push(Transfer::Send { to, span });
            }
        }
        for (from, shape) in ticket.incoming.iter().enumerate() {
            let (Some(shape), Some(like)) = (shape, &ticket.like) else {
                continue;
            };
            let new = self.memory.write(*shape, like.dtype(), &mut kept);
            let (tensor, span) = new.map_err(|reason| self.refused(step, reason))?;
            ticket.held[from] = Some(tensor);
            if span.bytes > 0 {
                transfers.push(Transfer::Receive { from, span });
            }
        }
        self.submit(step, transfers, kept)?;
        Ok(ticket)
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError> {
        let Ticket {
            step,
            mut held,
            incoming,
            like,
        } = ticket;
        self.watch.wait(step)?;
        let Some(like) = like else { return Ok(held) };
        let home = like.device();
        let back = |tensor: Tensor<4>| match home == *self.memory.device() {
            true => tensor,
            false => tensor.to_device(&home),
        };
        if incoming[self.process()].is_some() {
            // Those of all processes, this one's own among them, concatenated.
            let all = held.iter_mut().find_map(Option::take);
            let all = all.map_or_else(Vec::new, |all| back(all).chunk(self.processes(), 0));
            return Ok(all.into_iter().map(Some).collect());
        }
        for (tensor, _) in (held.iter_mut().zip(&incoming)).filter(|(_, shape)| shape.is_some()) {
            *tensor = tensor.take().map(back);
        }
        Ok(held)
    }

    fn start_all_gather(&mut self, step: Step, mine: Tensor<4>) -> Result<Ticket, RankError> {
        self.watch.enter(step)?;
        let (shape, dtype) = (mine.dims(), mine.dtype());
        let processes = self.processes();
        let mut kept = Kept::new();
        let from = self.memory.read(mine.clone(), &mut kept);
        let from = from.map_err(|reason| self.refused(step, reason))?;
        let [first, rest @ ..] = shape;
        let [a, b, c] = rest;
        let new = (self.memory).write([processes * first, a, b, c], dtype, &mut kept);
        let (all, to) = new.map_err(|reason| self.refused(step, reason))?;
        let transfers = match from.bytes {
            0 => Vec::new(),
            _ => vec![Transfer::AllGather { from, to }],
        };
        self.submit(step, transfers, kept)?;
        let mut held = vec![None; processes];
        held[0] = Some(all);
        Ok(Ticket {
            step,
            held,
            incoming: vec![Some(shape); processes],
            like: Some(mine),
        })
    }

    fn broadcast(&mut self, step: Step, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>, RankError> {
        self.watch.enter(step)?;
        self.broadcast_bytes(step, root, bytes)
    }
}

impl NcclTransport {
    /// Process `root`'s bytes, by way of the devices.
    fn broadcast_bytes(
        &self,
        step: Step,
        root: usize,
        bytes: Vec<u8>,
    ) -> Result<Vec<u8>, RankError> {
        if bytes.is_empty() {
            return Ok(bytes);
        }
        let mut kept = Kept::new();
        let staged = self.memory.stage(&bytes, &mut kept);
        let (handle, span) = staged.map_err(|reason| self.refused(step, reason))?;
        self.submit(step, vec![Transfer::Broadcast { root, span }], kept)?;
        self.watch.wait(step)?;
        let fetched = self.memory.fetch(handle);
        fetched.map_err(|reason| self.refused(step, reason))
    }

    /// Starts transfers once the device has computed the tensors that they move.
    fn submit(&self, step: Step, transfers: Vec<Transfer>, kept: Kept) -> Result<(), RankError> {
        let synced = self.memory.sync();
        synced.map_err(|reason| self.refused(step, reason))?;
        self.engine.submit(step.index, transfers, kept);
        Ok(())
    }

    /// The error where memory of the device could not be read or allocated.
    fn refused(&self, step: Step, reason: String) -> RankError {
        (self.watch).fail_step(step, RankError::Device { at: step, reason })
    }
}
