//! Ranks as processes with a GPU each, over NCCL.
//!
//! | file | holds |
//! |---|---|
//! | `library` | NCCL's functions, found at run time |
//! | `communicator` | the thread that calls them |
//! | `memory` | tensors as addresses on the device |
//!
//! Tensors go from device to device; what is on the host, bytes and tensors of CPUs, is staged. NCCL works on
//! a stream of its own: an exchange starts once what it sends is computed, and runs beside what is computed
//! after that.

mod communicator;
mod library;
mod memory;

use std::time::Duration;

use burn::tensor::Tensor;

pub use self::library::version;

use self::communicator::{Engine, Kept, Step};
use self::library::{Library, UniqueId};
use self::memory::{Memory, bytes};
use super::meeting::{self, Entry, Meeting};
use super::watch::{OnFailure, Watch, listen, own_address};
use super::{Environment, Peer, Place, RankError, Ticket, Transport};

/// A length on its way, in bytes.
const LENGTH_BYTES: usize = 8;
/// Where the processes meet when no launcher says: on this machine.
const LOOPBACK: &str = "127.0.0.1";

/// NCCL, with the processes connected.
#[derive(Debug)]
pub(super) struct Start {
    engine: Engine,
    device: usize,
}

impl Start {
    /// Connects this process, which takes GPU `device`, with all others. They meet at `meeting`, else where
    /// the environment says.
    pub(super) fn new(
        environment: &Environment,
        host: String,
        device: usize,
        meeting: Option<&str>,
        (start, timeout): (Duration, Duration),
        on_failure: OnFailure,
    ) -> Result<(Self, Watch), RankError> {
        let library = Library::get()?;
        // SAFETY: only tries to open the driver by its usual names.
        if !unsafe { cudarc::driver::sys::is_culib_present() } {
            return Err(RankError::Unavailable {
                reason:
                    "NCCL moves tensors between GPUs, and this machine has no libcuda; install \
                         NVIDIA's driver, or use --device cpu"
                        .into(),
            });
        }
        let Some(port) = environment.meeting_port else {
            return Err(RankError::Environment {
                name: "MASTER_PORT".into(),
                found: String::new(),
                expected: "a free port of process 0's machine, the same on all".into(),
            });
        };
        let failed = |reason: String| RankError::Connect { reason };
        let host_name = environment.meeting.as_deref().or(meeting);
        let at = meeting::resolve(host_name.unwrap_or(LOOPBACK), port)?;
        let token = meeting::token(at.ip())?;
        let listener = listen(own_address(meeting.or(host_name))?)?;
        let process = environment.process;
        let entry = Entry {
            peer: Peer {
                process,
                ranks: process..process + 1,
                host,
                pid: std::process::id(),
            },
            address: (listener.local_addr()).map_err(|error| failed(error.to_string()))?,
        };
        let id = match process {
            0 => library.new_id().map_err(failed)?.0.to_vec(),
            _ => Vec::new(),
        };
        let meeting = Meeting {
            at,
            process,
            processes: environment.processes,
            token,
            timeout: start,
        };
        let agreement = meeting.join(entry, id)?;
        let id = <[u8; UniqueId::BYTES]>::try_from(&agreement.engine[..])
            .map_err(|_| failed("process 0 speaks of another NCCL".into()))?;
        let directory = agreement.directory.into_iter();
        let watch = Watch::start(
            process,
            directory.map(|entry| (entry.peer, entry.address)).collect(),
            &listener,
            &agreement.token,
            start,
            timeout,
            on_failure,
        )?;
        let engine = Engine::start(library, device, UniqueId(id), watch.clone(), start);
        let engine = engine.map_err(failed)?;
        Ok((Self { engine, device }, watch))
    }

    /// The transport.
    pub(super) fn transport(&self, watch: Watch) -> Result<Nccl, RankError> {
        let memory = Memory::new(self.device).map_err(|reason| RankError::Unavailable {
            reason: format!("GPU {} gives no memory: {reason}", self.device),
        })?;
        Ok(Nccl {
            engine: self.engine.clone(),
            watch,
            memory,
        })
    }

    /// Says goodbye to NCCL, which waits for all processes.
    pub(super) fn finish(&self, timeout: Duration) -> Result<(), RankError> {
        let finished = self.engine.finish(timeout);
        finished.map_err(|reason| RankError::Connect { reason })
    }
}

/// Moves tensors from GPU to GPU. Waits have a deadline, and end early when a process is lost.
#[derive(Debug)]
pub(super) struct Nccl {
    engine: Engine,
    watch: Watch,
    memory: Memory,
}

impl Transport for Nccl {
    fn processes(&self) -> usize {
        self.watch.processes()
    }

    fn process(&self) -> usize {
        self.watch.process()
    }

    fn exchanges(&self) -> u64 {
        self.watch.exchanges()
    }

    fn share_out(&mut self, ranks_each: usize) {
        self.watch.share_out(ranks_each);
    }

    fn start(
        &mut self,
        place: Place,
        mut outgoing: Vec<Option<Tensor<4>>>,
        mut incoming: Vec<Option<[usize; 4]>>,
    ) -> Result<Ticket, RankError> {
        self.watch.enter(place)?;
        let me = self.process();
        let mut held = vec![None; self.processes()];
        held[me] = outgoing[me].take();
        incoming[me] = None;
        let like = (outgoing.iter().chain(&held)).flatten().next().cloned();
        let mut kept = Kept::new();
        let mut steps = Vec::new();
        for (to, tensor) in outgoing.into_iter().enumerate() {
            if let Some(tensor) = tensor.filter(|tensor| bytes(tensor.dims(), tensor.dtype()) > 0) {
                let span = self.memory.read(tensor, &mut kept);
                let span = span.map_err(|reason| self.refused(place, reason))?;
                steps.push(Step::Send { to, span });
            }
        }
        for (from, shape) in incoming.iter().enumerate() {
            let (Some(shape), Some(like)) = (shape, &like) else {
                continue;
            };
            let new = self.memory.write(*shape, like.dtype(), &mut kept);
            let (tensor, span) = new.map_err(|reason| self.refused(place, reason))?;
            held[from] = Some(tensor);
            if span.bytes > 0 {
                steps.push(Step::Receive { from, span });
            }
        }
        self.submit(place, steps, kept)?;
        Ok(Ticket {
            place,
            held,
            incoming,
            like,
        })
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError> {
        let Ticket {
            place,
            mut held,
            incoming,
            like,
        } = ticket;
        self.wait(place)?;
        let Some(like) = like else { return Ok(held) };
        let home = like.device();
        let back = |tensor: Tensor<4>| match home == *self.memory.device() {
            true => tensor,
            false => tensor.to_device(&home),
        };
        if incoming[self.process()].is_some() {
            // Everybody's, this process's own among them, one after the other.
            let all = held.iter_mut().find_map(Option::take);
            let all = all.map_or_else(Vec::new, |all| back(all).chunk(self.processes(), 0));
            return Ok(all.into_iter().map(Some).collect());
        }
        for (tensor, _) in (held.iter_mut().zip(&incoming)).filter(|(_, shape)| shape.is_some()) {
            *tensor = tensor.take().map(back);
        }
        Ok(held)
    }

    fn start_all_gather(&mut self, place: Place, mine: Tensor<4>) -> Result<Ticket, RankError> {
        self.watch.enter(place)?;
        let (shape, dtype) = (mine.dims(), mine.dtype());
        let processes = self.processes();
        let mut kept = Kept::new();
        let from = self.memory.read(mine.clone(), &mut kept);
        let from = from.map_err(|reason| self.refused(place, reason))?;
        let [first, rest @ ..] = shape;
        let [a, b, c] = rest;
        let new = (self.memory).write([processes * first, a, b, c], dtype, &mut kept);
        let (all, to) = new.map_err(|reason| self.refused(place, reason))?;
        let steps = match from.bytes {
            0 => Vec::new(),
            _ => vec![Step::AllGather { from, to }],
        };
        self.submit(place, steps, kept)?;
        let mut held = vec![None; processes];
        held[0] = Some(all);
        Ok(Ticket {
            place,
            held,
            incoming: vec![Some(shape); processes],
            like: Some(mine),
        })
    }

    fn broadcast(
        &mut self,
        place: Place,
        root: usize,
        bytes: Vec<u8>,
    ) -> Result<Vec<u8>, RankError> {
        self.watch.enter(place)?;
        self.broadcast_bytes(place, root, bytes)
    }

    fn scatter(
        &mut self,
        place: Place,
        root: usize,
        parts: Vec<Vec<u8>>,
    ) -> Result<Vec<u8>, RankError> {
        self.watch.enter(place)?;
        let (me, processes) = (self.process(), self.processes());
        // Lengths first: nobody else knows them.
        let mut lengths: Vec<u8> = (parts.iter())
            .flat_map(|part| (part.len() as u64).to_le_bytes())
            .collect();
        lengths.resize(processes * LENGTH_BYTES, 0);
        let lengths = self.broadcast_bytes(place, root, lengths)?;
        let mut kept = Kept::new();
        let mut steps = Vec::new();
        let stage = |bytes: &[u8], kept: &mut Kept| {
            let staged = self.memory.stage(bytes, kept);
            staged.map_err(|reason| self.refused(place, reason))
        };
        if me == root {
            for (to, part) in parts.iter().enumerate() {
                if to != me && !part.is_empty() {
                    let (_, span) = stage(part, &mut kept)?;
                    steps.push(Step::Send { to, span });
                }
            }
            self.submit(place, steps, kept)?;
            self.wait(place)?;
            return Ok(parts.into_iter().nth(me).unwrap_or_default());
        }
        let length = lengths.chunks_exact(LENGTH_BYTES).nth(me);
        let length = length.and_then(<[u8]>::first_chunk).copied();
        let length = usize::try_from(length.map_or(0, u64::from_le_bytes)).unwrap_or(usize::MAX);
        if length == 0 {
            return Ok(Vec::new());
        }
        let (handle, span) = stage(&vec![0; length], &mut kept)?;
        steps.push(Step::Receive { from: root, span });
        self.submit(place, steps, kept)?;
        self.wait(place)?;
        let fetched = self.memory.fetch(handle);
        fetched.map_err(|reason| self.refused(place, reason))
    }
}

impl Nccl {
    /// Process `root`'s bytes, by way of the devices.
    fn broadcast_bytes(
        &self,
        place: Place,
        root: usize,
        bytes: Vec<u8>,
    ) -> Result<Vec<u8>, RankError> {
        if bytes.is_empty() {
            return Ok(bytes);
        }
        let mut kept = Kept::new();
        let staged = self.memory.stage(&bytes, &mut kept);
        let (handle, span) = staged.map_err(|reason| self.refused(place, reason))?;
        self.submit(place, vec![Step::Broadcast { root, span }], kept)?;
        self.wait(place)?;
        let fetched = self.memory.fetch(handle);
        fetched.map_err(|reason| self.refused(place, reason))
    }

    /// Starts movements once the device has computed what they move.
    fn submit(&self, place: Place, steps: Vec<Step>, kept: Kept) -> Result<(), RankError> {
        let synced = self.memory.sync();
        synced.map_err(|reason| self.refused(place, reason))?;
        self.engine.submit(place.exchange, steps, kept);
        Ok(())
    }

    fn wait(&self, place: Place) -> Result<(), RankError> {
        let result = self.watch.wait(place, |state| state.take(place.exchange))?;
        result.map(|_| ()).map_err(|reason| {
            let error = RankError::Engine { at: place, reason };
            self.watch.raise(place, error)
        })
    }

    /// The device could not give or take memory.
    fn refused(&self, place: Place, reason: String) -> RankError {
        (self.watch).raise(place, RankError::Device { at: place, reason })
    }
}
