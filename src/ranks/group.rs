//! Collectives between ranks, whichever process drives them.

use std::ops::Range;

use burn::tensor::{DType, Tensor};

use super::alone::Alone;
use super::{Local, Operation, RankError, Step, Ticket, Transport};

/// The ranks of a computation, those of them that this process drives, and the transport to the others.
///
/// Ranks are divided evenly and in order: with 8 ranks and 2 processes the second drives ranks 4
/// to 7. Every method is called by all processes in the same order, with one tensor for each rank
/// that the process drives, in the order of ranks.
#[derive(Debug)]
pub struct RankGroup {
    world_size: usize,
    transport: Box<dyn Transport>,
    next_step: u64,
    layer: Option<usize>,
    received: u64,
}

/// An all-gather under way.
#[derive(Debug)]
pub struct PendingGather(Ticket);

/// A ring shift under way.
#[derive(Debug)]
pub struct PendingShift {
    ticket: Ticket,
    /// Tensors that stay within this process.
    kept: Vec<Tensor<4>>,
}

impl RankGroup {
    /// `world_size` ranks, all driven by this process.
    pub fn local(world_size: usize) -> Self {
        Self::over(world_size.max(1), Box::new(Local))
    }

    /// `world_size` ranks divided over the processes that `transport` connects.
    ///
    /// # Errors
    ///
    /// [`RankError::Uneven`] unless the processes divide the ranks.
    pub fn new(world_size: usize, transport: Box<dyn Transport>) -> Result<Self, RankError> {
        let processes = transport.processes();
        if world_size == 0 || !world_size.is_multiple_of(processes) {
            return Err(RankError::Uneven {
                ranks: world_size,
                processes,
            });
        }
        Ok(Self::over(world_size, transport))
    }

    /// The `rank`-th of `world_size` ranks by itself: every other rank sends zeros, at once. Its time and memory are
    /// those of a rank with a device of its own, without the network's; its results mean nothing.
    ///
    /// # Errors
    ///
    /// [`RankError::NoSuchRank`] unless `rank` is less than `world_size`.
    pub fn alone(rank: usize, world_size: usize) -> Result<Self, RankError> {
        match rank < world_size {
            true => Ok(Self::over(
                world_size,
                Box::new(Alone {
                    rank,
                    ranks: world_size,
                }),
            )),
            false => Err(RankError::NoSuchRank {
                rank,
                ranks: world_size,
            }),
        }
    }

    fn over(world_size: usize, transport: Box<dyn Transport>) -> Self {
        Self {
            world_size,
            transport,
            next_step: 0,
            layer: None,
            received: 0,
        }
    }

    /// Numbers the steps from `index`, where groups follow one another over the same processes.
    pub(super) fn starting_at(mut self, index: u64) -> Self {
        self.next_step = index;
        self
    }

    /// Fails where a process is known to be lost, without waiting.
    ///
    /// # Errors
    ///
    /// [`RankError`] as that of the next collective.
    pub fn check(&self) -> Result<(), RankError> {
        self.transport.check()
    }

    /// Sets the layer of the steps that follow, for messages about them.
    pub fn at_layer(&mut self, layer: Option<usize>) {
        self.layer = layer;
    }

    /// Bytes of tensors that this process has received from others.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    /// The next step, in which the tensors of `shapes` come from other processes.
    fn step(
        &mut self,
        operation: Operation,
        dtype: Option<DType>,
        shapes: &[Option<[usize; 4]>],
    ) -> Step {
        let me = self.transport.process();
        let elements: usize = (shapes.iter().enumerate())
            .filter(|(from, _)| *from != me)
            .filter_map(|(_, shape)| shape.map(|shape| shape.iter().product::<usize>()))
            .sum();
        let bytes = (elements * dtype.map_or(0, |dtype| dtype.size())) as u64;
        self.received += bytes;
        self.step_of(operation, bytes)
    }

    fn step_of(&mut self, operation: Operation, bytes: u64) -> Step {
        let index = self.next_step;
        self.next_step += 1;
        Step {
            index,
            operation,
            layer: self.layer,
            bytes,
        }
    }

    /// Sends the bytes of process 0 to every process; all pass the same length.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn broadcast(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>, RankError> {
        if self.processes() == 1 {
            return Ok(bytes);
        }
        let step = self.step_of(Operation::Broadcast, bytes.len() as u64);
        self.transport.broadcast(step, 0, bytes)
    }

    /// The number of ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// The number of processes that drive them.
    pub fn processes(&self) -> usize {
        self.transport.processes()
    }

    /// The number of ranks of each process.
    fn share(&self) -> usize {
        self.world_size / self.transport.processes()
    }

    /// The ranks that this process drives.
    pub fn ranks(&self) -> Range<usize> {
        let share = self.share();
        let first = self.transport.process() * share;
        first..first + share
    }

    /// The ranks that a process drives.
    pub fn ranks_of(&self, process: usize) -> Range<usize> {
        let first = process.saturating_mul(self.share());
        first..first.saturating_add(self.share())
    }

    /// Whether this process drives the last rank, which owns the tokens after the document.
    pub fn owns_last(&self) -> bool {
        self.ranks().end == self.world_size
    }

    /// Whether other processes of the group are threads of this one and share its worker threads, on
    /// which none of them may then wait for another: work that exchanges must stay on the caller's
    /// thread.
    pub fn shares_workers(&self) -> bool {
        self.transport.shares_workers()
    }

    fn process_of(&self, rank: usize) -> usize {
        rank / self.share()
    }

    /// Starts to send every rank's tensor `[n, ..]`, all of one shape, to all ranks.
    ///
    /// # Errors
    ///
    /// [`RankError::Tensors`] unless there is one tensor for each rank of this process, all of one shape and
    /// dtype; else as the transport's.
    pub fn start_all_gather(&mut self, mine: Vec<Tensor<4>>) -> Result<PendingGather, RankError> {
        self.check_count(Operation::AllGather, mine.len())?;
        let same = |tensor: &Tensor<4>| (tensor.dims(), tensor.dtype());
        if let Some(other) = mine.iter().find(|tensor| same(tensor) != same(&mine[0])) {
            return Err(RankError::Tensors {
                operation: Operation::AllGather,
                expected: format!("tensors {:?}", same(&mine[0])),
                found: format!("{:?}", same(other)),
            });
        }
        // One collective, however many ranks a process drives.
        let mine = cat_or_only(mine);
        let incoming = vec![Some(mine.dims()); self.processes()];
        let step = self.step(Operation::AllGather, Some(mine.dtype()), &incoming);
        let ticket = self.transport.start_all_gather(step, mine)?;
        Ok(PendingGather(ticket))
    }

    /// Every rank's tensor `[n, ..]`, in the order of ranks.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn finish_all_gather(
        &mut self,
        pending: PendingGather,
    ) -> Result<Vec<Tensor<4>>, RankError> {
        let share = self.share();
        let received = self.transport.finish(pending.0)?;
        Ok(received
            .into_iter()
            .flatten()
            .flat_map(|all| match share {
                1 => vec![all],
                _ => all.chunk(share, 0),
            })
            .collect())
    }

    /// Every process's tensor `[n, ..]`, all of one shape, in the order of processes.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn gather_processes(&mut self, mine: Tensor<4>) -> Result<Vec<Tensor<4>>, RankError> {
        let incoming = vec![Some(mine.dims()); self.processes()];
        let step = self.step(Operation::GatherPartials, Some(mine.dtype()), &incoming);
        let ticket = self.transport.start_all_gather(step, mine)?;
        let received = self.transport.finish(ticket)?;
        Ok(received.into_iter().flatten().collect())
    }

    /// Refuses another number of tensors than this process has ranks.
    fn check_count(&self, operation: Operation, found: usize) -> Result<(), RankError> {
        match found == self.share() {
            true => Ok(()),
            false => Err(RankError::Tensors {
                operation,
                expected: format!("{} tensors, one a rank", self.share()),
                found: found.to_string(),
            }),
        }
    }

    /// Starts to send each rank's tensor `[n0, n1, n2, n3]` to the next rank, and the last's to the first.
    /// `incoming` is the shape that this process's first rank receives.
    ///
    /// # Errors
    ///
    /// [`RankError::Tensors`] unless there is one tensor for each rank of this process; else as the
    /// transport's.
    pub fn start_shift(
        &mut self,
        mut mine: Vec<Tensor<4>>,
        incoming: [usize; 4],
    ) -> Result<PendingShift, RankError> {
        self.check_count(Operation::Shift, mine.len())?;
        let processes = self.transport.processes();
        let me = self.transport.process();
        let mut outgoing = vec![None; processes];
        let mut shapes = vec![None; processes];
        outgoing[(me + 1) % processes] = mine.pop();
        shapes[(me + processes - 1) % processes] = Some(incoming);
        let dtype = outgoing.iter().flatten().next().map(Tensor::dtype);
        let step = self.step(Operation::Shift, dtype, &shapes);
        Ok(PendingShift {
            ticket: self.transport.start(step, outgoing, shapes)?,
            kept: mine,
        })
    }

    /// The tensors that each rank of this process received from the rank before it.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn finish_shift(&mut self, pending: PendingShift) -> Result<Vec<Tensor<4>>, RankError> {
        let received = self.transport.finish(pending.ticket)?;
        Ok(received.into_iter().flatten().chain(pending.kept).collect())
    }

    /// Sends every rank a tensor from each rank: `outgoing[i][j]` is from this process's `i`-th rank to
    /// rank `j`, of shape `shape(from, to)`. Returns, for each rank of this process, what every rank sent
    /// to it, in the order of ranks.
    ///
    /// Between two processes one tensor is sent.
    ///
    /// # Errors
    ///
    /// [`RankError::Tensors`] unless each rank of this process has one tensor for every rank; else as the
    /// transport's.
    pub fn all_to_all(
        &mut self,
        outgoing: Vec<Vec<Tensor<4>>>,
        shape: impl Fn(usize, usize) -> [usize; 4],
    ) -> Result<Vec<Vec<Tensor<4>>>, RankError> {
        self.check_count(Operation::AllToAll, outgoing.len())?;
        if let Some(row) = outgoing.iter().find(|row| row.len() != self.world_size) {
            return Err(RankError::Tensors {
                operation: Operation::AllToAll,
                expected: format!(
                    "{} tensors of each rank, one for every rank",
                    self.world_size
                ),
                found: row.len().to_string(),
            });
        }
        let mine = self.ranks();
        let me = self.transport.process();
        let share = self.share();
        let processes = self.transport.processes();

        let mut kept: Vec<Option<Tensor<4>>> = vec![None; share * share];
        let mut packed: Vec<Vec<Tensor<4>>> = vec![Vec::new(); processes];
        for (i, row) in outgoing.into_iter().enumerate() {
            for (to, tensor) in row.into_iter().enumerate() {
                match self.process_of(to) {
                    process if process == me => kept[i * share + to - mine.start] = Some(tensor),
                    process => packed[process].push(tensor.reshape([1, 1, 1, -1])),
                }
            }
        }
        let outgoing: Vec<Option<Tensor<4>>> = packed
            .into_iter()
            .map(|parts| (!parts.is_empty()).then(|| Tensor::cat(parts, 3)))
            .collect();
        let pairs = |from: usize| {
            let mine = mine.clone();
            (from * share..(from + 1) * share)
                .flat_map(move |from| mine.clone().map(move |to| (from, to)))
        };
        let elements = |shape: [usize; 4]| shape.iter().product::<usize>();
        let incoming: Vec<_> = (0..processes)
            .map(|process| {
                let total: usize = pairs(process).map(|(f, t)| elements(shape(f, t))).sum();
                (process != me).then_some([1, 1, 1, total])
            })
            .collect();
        let dtype = outgoing.iter().flatten().next().map(Tensor::dtype);
        let step = self.step(Operation::AllToAll, dtype, &incoming);
        let ticket = self.transport.start(step, outgoing, incoming)?;
        let received = self.transport.finish(ticket)?;

        let mut result: Vec<Vec<Tensor<4>>> = vec![Vec::new(); share];
        for (process, packed) in received.into_iter().enumerate() {
            let mut start = 0;
            for (from, to) in pairs(process) {
                let tensor = match &packed {
                    None => kept[(from - mine.start) * share + to - mine.start].take(),
                    Some(packed) => {
                        let shape = shape(from, to);
                        let end = start + elements(shape);
                        let part = packed.clone().slice([0..1, 0..1, 0..1, start..end]);
                        start = end;
                        Some(part.reshape(shape))
                    }
                };
                result[to - mine.start].extend(tensor);
            }
        }
        Ok(result)
    }
}

/// The tensors concatenated along the first dimension.
fn cat_or_only(mut tensors: Vec<Tensor<4>>) -> Tensor<4> {
    match tensors.len() {
        1 => tensors.remove(0),
        _ => Tensor::cat(tensors, 0),
    }
}
