//! Ranks as processes over MPI: CPUs of one machine or many, GPUs by way of the host.

mod engine;

use std::time::Duration;

use burn::tensor::{Bytes, DType, Tensor, TensorData};

use self::engine::{Engine, Job};
use super::watch::Watch;
use super::{Operation, Place, RankError, Ticket, Transport};

/// MPI guarantees tags up to this.
const TAGS: u64 = 32_767;
/// A length on its way, in bytes.
const LENGTH_BYTES: usize = 8;

/// MPI before the processes know each other.
#[derive(Debug)]
pub(super) struct Start {
    engine: Engine,
    timeout: Duration,
    pub process: usize,
    pub processes: usize,
}

impl Start {
    /// Starts MPI.
    pub(super) fn new(timeout: Duration) -> Result<Self, RankError> {
        let (engine, (process, processes)) =
            Engine::start(timeout).map_err(|reason| RankError::Connect { reason })?;
        Ok(Self {
            engine,
            timeout,
            process,
            processes,
        })
    }

    /// Every process's text of at most `room` bytes.
    pub(super) fn gather(&self, text: &str, room: usize) -> Result<Vec<String>, RankError> {
        let failed = |reason: String| RankError::Connect { reason };
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(room, b' ');
        let job = Job::AllGather(Bytes::from_bytes_vec(bytes));
        let all = self.engine.run(job, self.timeout).map_err(failed)?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Ok(all.concat().chunks(room).map(text).collect())
    }

    /// Process 0's text; all give one of the same length.
    pub(super) fn broadcast(&self, text: &str) -> Result<String, RankError> {
        let bytes = text.as_bytes().to_vec();
        let job = Job::Broadcast { root: 0, bytes };
        let found = self.engine.run(job, self.timeout);
        let found = found.map_err(|reason| RankError::Connect { reason })?;
        Ok(String::from_utf8_lossy(&found.concat()).into_owned())
    }

    /// Leaves MPI alone once a process is lost.
    pub(super) fn heed(&self, watch: &Watch) {
        let watch = watch.clone();
        let check = Box::new(move || watch.is_broken());
        self.engine.submit(Job::Heed(check), Box::new(drop));
    }

    /// The transport, now that the processes watch each other.
    pub(super) fn transport(&self, watch: Watch) -> Mpi {
        Mpi {
            engine: self.engine.clone(),
            watch,
        }
    }

    /// Says goodbye to MPI, which waits for all processes.
    pub(super) fn finish(&self) -> Result<(), RankError> {
        match self.engine.run(Job::Finalize, self.timeout) {
            Ok(_) => Ok(()),
            Err(reason) => Err(RankError::Connect { reason }),
        }
    }
}

/// Moves tensors by way of host memory: all-gathers, broadcasts, scatters and all-to-alls are MPI's
/// collectives, a step of the ring is a send and a receive. None of them blocks; the wait for their
/// end has a deadline, and ends early when a process is lost.
#[derive(Debug)]
pub(super) struct Mpi {
    engine: Engine,
    watch: Watch,
}

impl Transport for Mpi {
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
        let like = outgoing.iter().flatten().next().cloned();
        let size = like.as_ref().map_or(0, |tensor| tensor.dtype().size());
        let lengths: Vec<usize> = (incoming.iter())
            .map(|shape| shape.map_or(0, |shape| message_bytes(shape, size)))
            .collect();
        let mut send = Vec::new();
        for (to, tensor) in outgoing.into_iter().enumerate() {
            if let Some(tensor) = tensor {
                send.push((to, self.stamped(place, tensor)?));
            }
        }
        let job = match place.operation {
            Operation::AllToAll => {
                let mut send_counts = vec![0; self.processes()];
                let mut packed = Vec::new();
                for (to, bytes) in send {
                    send_counts[to] = bytes.len();
                    packed.extend_from_slice(&bytes);
                }
                Job::AllToAll {
                    send: Bytes::from_bytes_vec(packed),
                    send_counts,
                    receive_counts: lengths,
                }
            }
            _ => Job::Exchange {
                send,
                receive: (incoming.iter().zip(lengths).enumerate())
                    .filter_map(|(from, (shape, length))| shape.map(|_| (from, length)))
                    .collect(),
                tag: (place.exchange % TAGS) as i32,
            },
        };
        self.submit(place, job);
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
        let buffers = self.wait(place)?;
        let Some(like) = like else { return Ok(held) };
        let whole = matches!(
            place.operation,
            Operation::AllGather | Operation::GatherPartials | Operation::AllToAll
        );
        let mut buffers = buffers.into_iter();
        let all = whole.then(|| buffers.next().unwrap_or_default());
        let mut start = 0;
        for (process, shape) in incoming.into_iter().enumerate() {
            let Some(shape) = shape else { continue };
            let length = message_bytes(shape, like.dtype().size());
            let single;
            let message = match &all {
                Some(all) => {
                    let message = all.get(start..start + length).unwrap_or_default();
                    start += length;
                    message
                }
                None => {
                    single = buffers.next().unwrap_or_default();
                    &single[..]
                }
            };
            let bytes = self.checked(place, process, message)?;
            if message.len() != length {
                let error = RankError::Mismatch {
                    peer: Box::new(self.watch.peer(process)),
                    at: Some(place),
                    expected: format!("{length} bytes"),
                    found: format!("{} bytes", message.len()),
                };
                return Err(self.watch.raise(place, error));
            }
            held[process] = Some(tensor(bytes.to_vec(), shape, &like));
        }
        Ok(held)
    }

    fn start_all_gather(&mut self, place: Place, mine: Tensor<4>) -> Result<Ticket, RankError> {
        self.watch.enter(place)?;
        let shape = mine.dims();
        let bytes = self.stamped(place, mine.clone())?;
        self.submit(place, Job::AllGather(bytes));
        Ok(Ticket {
            place,
            held: vec![None; self.processes()],
            // This process's own comes back with the others'.
            incoming: vec![Some(shape); self.processes()],
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
        let bytes = [&place.stamp()[..], &bytes].concat();
        self.submit(place, Job::Broadcast { root, bytes });
        let message = self.wait(place)?.concat();
        Ok(self.checked(place, root, &message)?.to_vec())
    }

    fn scatter(
        &mut self,
        place: Place,
        root: usize,
        parts: Vec<Vec<u8>>,
    ) -> Result<Vec<u8>, RankError> {
        self.watch.enter(place)?;
        // Lengths first: nobody else knows them.
        let lengths = parts.iter().flat_map(|part| {
            let length = (part.len() as u64).to_le_bytes();
            [&place.stamp()[..], &length].concat()
        });
        let header = Place::STAMP + LENGTH_BYTES;
        self.submit(
            place,
            Job::Scatter {
                root,
                send: lengths.collect(),
                counts: vec![header; parts.len()],
                receive: header,
            },
        );
        let message = self.wait(place)?.concat();
        let length = self.checked(place, root, &message)?;
        let length = length
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        self.submit(
            place,
            Job::Scatter {
                root,
                counts: parts.iter().map(Vec::len).collect(),
                send: parts.concat(),
                receive: usize::try_from(length).unwrap_or(usize::MAX),
            },
        );
        Ok(self.wait(place)?.concat())
    }
}

impl Mpi {
    fn submit(&self, place: Place, job: Job) {
        let watch = self.watch.clone();
        let reply = move |result| watch.deliver(place.exchange, result);
        self.engine.submit(job, Box::new(reply));
    }

    fn wait(&self, place: Place) -> Result<Vec<Vec<u8>>, RankError> {
        let result = self.watch.wait(place, |state| state.take(place.exchange))?;
        result.map_err(|reason| {
            let error = RankError::Engine { at: place, reason };
            self.watch.raise(place, error)
        })
    }

    /// A tensor's elements in host memory, behind the place's stamp.
    fn stamped(&self, place: Place, tensor: Tensor<4>) -> Result<Bytes, RankError> {
        let data = tensor.try_into_data().map_err(|error| {
            let reason = error.to_string();
            self.watch
                .raise(place, RankError::Device { at: place, reason })
        })?;
        let message = [&place.stamp()[..], &data.into_bytes()].concat();
        Ok(Bytes::from_bytes_vec(message))
    }

    /// A message without its stamp, which must be this place's.
    fn checked<'a>(
        &self,
        place: Place,
        from: usize,
        message: &'a [u8],
    ) -> Result<&'a [u8], RankError> {
        match message.strip_prefix(&place.stamp()) {
            Some(bytes) => Ok(bytes),
            None => {
                let error = RankError::Mismatch {
                    peer: Box::new(self.watch.peer(from)),
                    at: Some(place),
                    expected: place.to_string(),
                    found: Place::read_stamp(message),
                };
                Err(self.watch.raise(place, error))
            }
        }
    }
}

/// Bytes of a message with a tensor of this shape.
fn message_bytes(shape: [usize; 4], element: usize) -> usize {
    Place::STAMP + shape.iter().product::<usize>() * element
}

/// Bytes as a tensor of another's dtype and device.
fn tensor(bytes: Vec<u8>, shape: [usize; 4], like: &Tensor<4>) -> Tensor<4> {
    let dtype: DType = like.dtype();
    let data = TensorData::from_bytes_vec(bytes, shape, dtype);
    Tensor::from_data(data, (&like.device(), dtype))
}
