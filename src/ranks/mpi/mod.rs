//! Ranks as processes over MPI: CPUs of one machine or many, GPUs by way of the host.

mod engine;

use std::time::Duration;

use burn::tensor::{Bytes, Tensor};
use serde::{Deserialize, Serialize};

use self::engine::{Engine, Job};
use super::tcp::new_token;
use super::transport::tensor_of;
use super::watch::{Entry, Watch, listen};
use super::{Environment, JoinOptions, Launcher, RankError, Step, Ticket, Transport, transport};

/// MPI guarantees tags up to this.
const TAGS: u64 = 32_767;
/// Bytes of a [`Member`] in JSON, padded.
const MEMBER_BYTES: usize = 512;

/// What each process sends to all when they connect.
#[derive(Serialize, Deserialize)]
struct Member {
    entry: Entry,
    /// Process 0's becomes the token of the links.
    token: String,
}

/// MPI, once it has started.
#[derive(Debug)]
struct Mpi {
    engine: Engine,
    timeout: Duration,
}

fn failed(reason: impl ToString) -> RankError {
    RankError::Connect {
        reason: reason.to_string(),
    }
}

/// Starts MPI and connects this process with all others.
pub(super) fn join(
    environment: &Environment,
    options: JoinOptions,
) -> Result<(Box<dyn transport::Engine>, Watch), RankError> {
    if environment.launcher == Launcher::Torchrun && environment.processes > 1 {
        return Err(RankError::Unavailable {
            reason:
                "torchrun starts no MPI; on CPUs start the ranks with `apb launch -n N -- apb ..`, \
                     mpirun or srun"
                    .into(),
        });
    }
    let timeout = options.start_timeout();
    let (engine, (process, processes)) =
        Engine::start(timeout, options.terminated.clone()).map_err(failed)?;
    if processes != environment.processes {
        return Err(RankError::Unavailable {
            reason: format!(
                "{} started {} processes, but MPI has {processes}: this apb was built with another MPI \
                 than the launcher's; build it again with that one's mpicc first in PATH, or use `srun \
                 --mpi=pmix`",
                environment.launcher.name(),
                environment.processes
            ),
        });
    }
    let (listener, entry) = listen(process, options.rendezvous.as_deref())?;
    let host = entry.peer.host.clone();
    let token = new_token();
    let mut member = serde_json::to_vec(&Member { entry, token }).map_err(failed)?;
    member.resize(MEMBER_BYTES, b' ');
    let job = Job::AllGather(Bytes::from_bytes_vec(member));
    let all = engine.run(job, timeout).map_err(failed)?.concat();
    let members: Vec<Member> = (all.chunks(MEMBER_BYTES))
        .map(serde_json::from_slice)
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    let remote = (members.iter()).filter(|member| member.entry.peer.host != host);
    let remote = remote.count();
    if remote > 0 && options.rendezvous.is_none() {
        return Err(failed(format!(
            "{remote} of them run on other machines than {host}; pass an address of the network between \
             them with --rendezvous ADDRESS or MASTER_ADDR"
        )));
    }
    let token = members[0].token.clone();
    let directory = members.into_iter().map(|member| member.entry).collect();
    let watch = Watch::start(process, directory, &listener, &token, options)?;
    let broken = watch.unguarded();
    let check = Job::StopIf(Box::new(move || broken.is_broken()));
    engine.submit(check, Box::new(drop));
    Ok((Box::new(Mpi { engine, timeout }), watch))
}

impl transport::Engine for Mpi {
    fn transport(&self, watch: &Watch) -> Result<Box<dyn Transport>, RankError> {
        Ok(Box::new(MpiTransport {
            engine: self.engine.clone(),
            watch: watch.clone(),
        }))
    }

    fn finish(&self, _: &Watch) -> Result<(), RankError> {
        let finished = self.engine.run(Job::Finalize, self.timeout);
        finished.map(drop).map_err(failed)
    }
}

/// Moves tensors by way of host memory: all-gathers and broadcasts are MPI's collectives, all else is
/// sends and receives. None of them blocks; the wait for their end has a timeout, and ends early when a
/// process is lost.
#[derive(Debug)]
struct MpiTransport {
    engine: Engine,
    watch: Watch,
}

impl Transport for MpiTransport {
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
        let mut send = Vec::new();
        for (to, tensor) in outgoing.into_iter().enumerate() {
            if let Some(tensor) = tensor {
                send.push((to, self.message(step, tensor)?));
            }
        }
        let size = (ticket.like.as_ref()).map_or(0, |tensor| tensor.dtype().size());
        let receive = (ticket.incoming.iter().enumerate())
            .filter_map(|(from, shape)| shape.map(|shape| (from, message_bytes(shape, size))));
        let receive = receive.collect();
        self.submit(step, send_receive(step, send, receive));
        Ok(ticket)
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError> {
        let Ticket {
            step,
            mut held,
            incoming,
            like,
        } = ticket;
        let mut buffers = self.watch.wait(step)?;
        let Some(like) = like else { return Ok(held) };
        if incoming[self.process()].is_some() {
            // An all-gather: one buffer with the messages of all, this process's own among them.
            let all = buffers.concat();
            let length = (all.len() / self.processes()).max(1);
            buffers = all.chunks(length).map(<[u8]>::to_vec).collect();
        }
        let mut buffers = buffers.into_iter();
        for (process, shape) in incoming.into_iter().enumerate() {
            let Some(shape) = shape else { continue };
            let message = buffers.next().unwrap_or_default();
            let expected = message_bytes(shape, like.dtype().size());
            let bytes = self.payload(step, process, &message)?;
            if message.len() != expected {
                let error = RankError::Mismatch {
                    peer: Box::new(self.watch.peer(process)),
                    at: Some(step),
                    expected: format!("{expected} bytes"),
                    found: format!("{} bytes", message.len()),
                };
                return Err(self.watch.fail_step(step, error));
            }
            held[process] = Some(tensor_of(bytes.to_vec(), shape, &like));
        }
        Ok(held)
    }

    fn start_all_gather(&mut self, step: Step, mine: Tensor<4>) -> Result<Ticket, RankError> {
        self.watch.enter(step)?;
        let shape = mine.dims();
        let bytes = self.message(step, mine.clone())?;
        self.submit(step, Job::AllGather(bytes));
        Ok(Ticket {
            step,
            held: vec![None; self.processes()],
            incoming: vec![Some(shape); self.processes()],
            like: Some(mine),
        })
    }

    fn broadcast(&mut self, step: Step, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>, RankError> {
        self.watch.enter(step)?;
        let bytes = [&step.header()[..], &bytes].concat();
        self.submit(step, Job::Broadcast { root, bytes });
        let message = self.watch.wait(step)?.concat();
        Ok(self.payload(step, root, &message)?.to_vec())
    }
}

/// Messages to and from single processes.
fn send_receive(step: Step, send: Vec<(usize, Bytes)>, receive: Vec<(usize, usize)>) -> Job {
    let tag = (step.index % TAGS) as i32;
    Job::SendReceive { send, receive, tag }
}

impl MpiTransport {
    fn submit(&self, step: Step, job: Job) {
        let watch = self.watch.unguarded();
        let done = move |result| watch.deliver(step.index, result);
        self.engine.submit(job, Box::new(done));
    }

    /// The step's header and the elements of a tensor `[n0, n1, n2, n3]` in host memory.
    fn message(&self, step: Step, tensor: Tensor<4>) -> Result<Bytes, RankError> {
        let data = tensor.try_into_data().map_err(|error| {
            let reason = error.to_string();
            self.watch
                .fail_step(step, RankError::Device { at: step, reason })
        })?;
        let message = [&step.header()[..], &data.into_bytes()].concat();
        Ok(Bytes::from_bytes_vec(message))
    }

    /// A message without its header, which must be this step's.
    fn payload<'a>(
        &self,
        step: Step,
        from: usize,
        message: &'a [u8],
    ) -> Result<&'a [u8], RankError> {
        match message.strip_prefix(&step.header()) {
            Some(bytes) => Ok(bytes),
            None => {
                let error = RankError::Mismatch {
                    peer: Box::new(self.watch.peer(from)),
                    at: Some(step),
                    expected: step.to_string(),
                    found: Step::describe_header(message),
                };
                Err(self.watch.fail_step(step, error))
            }
        }
    }
}

/// Bytes of a message with a tensor of this shape.
fn message_bytes(shape: [usize; 4], element: usize) -> usize {
    Step::HEADER + shape.iter().product::<usize>() * element
}
