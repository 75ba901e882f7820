//! What a strategy needs from whatever connects processes.

use std::fmt;

use burn::tensor::Tensor;

use super::{Place, RankError};

/// An exchange under way; [`Transport::finish`] gives its result. What it holds is the transport's.
#[derive(Debug)]
pub struct Ticket {
    /// Which exchange it is.
    pub place: Place,
    /// What this process sent to itself or has received already.
    pub held: Vec<Option<Tensor<4>>>,
    /// Shapes still to come, by process.
    pub incoming: Vec<Option<[usize; 4]>>,
    /// What the transport needs to make tensors of it.
    pub like: Option<Tensor<4>>,
}

/// Connects the processes of a group. Every process calls the same exchanges in the same order, and
/// says with each [`Place`] which one it means.
///
/// An exchange starts and finishes apart, so that a process can compute in between. Tensors have four
/// dimensions, as all keys, values and attention outputs do; all tensors of an exchange have one dtype.
pub trait Transport: fmt::Debug + Send {
    /// How many processes there are.
    fn processes(&self) -> usize;

    /// Which of them this is, counted from 0.
    fn process(&self) -> usize;

    /// Whether other drivers of this group compute in this very process: then none of them may wait
    /// for another on one of the worker threads that they share.
    fn shares_workers(&self) -> bool {
        false
    }

    /// Exchanges made so far, where groups follow one another over the same processes.
    fn exchanges(&self) -> u64 {
        0
    }

    /// Hears how many ranks each process drives, for the names in its messages.
    fn share_out(&mut self, ranks_each: usize) {
        let _ = ranks_each;
    }

    /// Gives process `p` the tensor `outgoing[p]`, where there is one, and takes one of shape
    /// `incoming[p]` from it, where there is one.
    ///
    /// # Errors
    ///
    /// [`RankError`] when a process is known to be gone.
    fn start(
        &mut self,
        place: Place,
        outgoing: Vec<Option<Tensor<4>>>,
        incoming: Vec<Option<[usize; 4]>>,
    ) -> Result<Ticket, RankError>;

    /// What the exchange brought, by process.
    ///
    /// # Errors
    ///
    /// [`RankError`] when a process fails, is late, or sends another shape.
    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError>;

    /// Gives every process the same tensor and takes one of the same shape from each: one
    /// collective, by process.
    ///
    /// # Errors
    ///
    /// As [`Self::start`].
    fn start_all_gather(&mut self, place: Place, mine: Tensor<4>) -> Result<Ticket, RankError> {
        let shape = mine.dims();
        let processes = self.processes();
        let (outgoing, incoming) = (vec![Some(mine); processes], vec![Some(shape); processes]);
        self.start(place, outgoing, incoming)
    }

    /// Gives every process the bytes of process `root`; all give as many.
    ///
    /// # Errors
    ///
    /// As [`Self::finish`].
    fn broadcast(
        &mut self,
        place: Place,
        root: usize,
        bytes: Vec<u8>,
    ) -> Result<Vec<u8>, RankError>;

    /// Gives process `p` the bytes `parts[p]` of process `root`; the others give none.
    ///
    /// # Errors
    ///
    /// As [`Self::finish`].
    fn scatter(
        &mut self,
        place: Place,
        root: usize,
        parts: Vec<Vec<u8>>,
    ) -> Result<Vec<u8>, RankError>;
}
