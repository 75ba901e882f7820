//! The interface between a [`RankGroup`](super::RankGroup) and whatever connects its processes.

use std::fmt;

use burn::tensor::{Tensor, TensorData};

use super::watch::Watch;
use super::{RankError, Step};

/// A collective under way; [`Transport::finish`] returns its result. Only the transport that made it
/// reads it.
#[derive(Debug)]
pub struct Ticket {
    /// The collective.
    pub step: Step,
    /// Tensors `[n0, n1, n2, n3]` that are already here, by process.
    pub held: Vec<Option<Tensor<4>>>,
    /// Shapes still to be received, by process.
    pub incoming: Vec<Option<[usize; 4]>>,
    /// A tensor with the dtype and device of the received ones.
    pub like: Option<Tensor<4>>,
}

impl Ticket {
    /// Moves what process `me` sends to itself from `outgoing` to the ticket.
    pub fn new(
        step: Step,
        me: usize,
        outgoing: &mut [Option<Tensor<4>>],
        mut incoming: Vec<Option<[usize; 4]>>,
    ) -> Self {
        let like = outgoing.iter().flatten().next().cloned();
        let mut held = vec![None; outgoing.len()];
        if let (Some(held), Some(outgoing)) = (held.get_mut(me), outgoing.get_mut(me)) {
            *held = outgoing.take();
        }
        if let Some(incoming) = incoming.get_mut(me) {
            *incoming = None;
        }
        Self {
            step,
            held,
            incoming,
            like,
        }
    }
}

/// Connects the processes of a group. All processes call the same collectives in the same order, and
/// each call passes its [`Step`], so that a process in another one is found.
///
/// Sends and receives start and finish in separate calls, so that a process can compute in between.
/// Tensors have four dimensions, as all keys, values and attention outputs do; all tensors of a
/// collective have one dtype.
pub trait Transport: fmt::Debug + Send {
    /// The number of processes.
    fn processes(&self) -> usize;

    /// This process, counted from 0.
    fn process(&self) -> usize;

    /// Whether other drivers of this group compute in the same operating system process: then none of
    /// them may wait for another on one of the worker threads that they share.
    fn shares_workers(&self) -> bool {
        false
    }

    /// Fails where a process is known to be lost, without waiting. Computations call it many times a layer.
    ///
    /// # Errors
    ///
    /// [`RankError`] as that of the next collective.
    fn check(&self) -> Result<(), RankError> {
        Ok(())
    }

    /// Sends the tensor `outgoing[p]` to process `p`, where there is one, and receives one of shape
    /// `incoming[p]` from it, where there is one.
    ///
    /// # Errors
    ///
    /// [`RankError`] when a process is known to be lost.
    fn start(
        &mut self,
        step: Step,
        outgoing: Vec<Option<Tensor<4>>>,
        incoming: Vec<Option<[usize; 4]>>,
    ) -> Result<Ticket, RankError>;

    /// The tensors received, by process.
    ///
    /// # Errors
    ///
    /// [`RankError`] when a process fails, is late, or sends another shape.
    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError>;

    /// Sends one tensor `[n0, n1, n2, n3]` to every process and receives one of the same shape from
    /// each.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    fn start_all_gather(&mut self, step: Step, mine: Tensor<4>) -> Result<Ticket, RankError> {
        let shape = mine.dims();
        let processes = self.processes();
        let (outgoing, incoming) = (vec![Some(mine); processes], vec![Some(shape); processes]);
        self.start(step, outgoing, incoming)
    }

    /// Sends the bytes of process `root` to every process; all pass the same length.
    ///
    /// # Errors
    ///
    /// As [`Self::finish`].
    fn broadcast(&mut self, step: Step, root: usize, bytes: Vec<u8>) -> Result<Vec<u8>, RankError>;
}

/// A library that connects processes, once it has started.
pub(super) trait Engine: fmt::Debug + Send + Sync {
    /// A transport for one group.
    fn transport(&self, watch: &Watch) -> Result<Box<dyn Transport>, RankError>;

    /// Ends the library, which waits for all processes.
    fn finish(&self, watch: &Watch) -> Result<(), RankError>;
}

/// A tensor of these bytes, with the dtype and device of `like`.
pub(super) fn tensor_of(bytes: Vec<u8>, shape: [usize; 4], like: &Tensor<4>) -> Tensor<4> {
    let dtype = like.dtype();
    let data = TensorData::from_bytes_vec(bytes, shape, dtype);
    Tensor::from_data(data, (&like.device(), dtype))
}
