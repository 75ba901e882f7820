//! Exchanges between ranks, whichever process drives them.

use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};

use super::{Local, Operation, Place, RankError, Ticket, Transport};

/// The ranks of a computation, those of them that this process drives, and the way to the others.
///
/// Ranks are shared out in order and evenly: with 8 ranks and 2 processes the second drives ranks 4
/// to 7. Every method is called by all processes in the same order, with one tensor for each rank
/// that the process drives, in the order of ranks.
#[derive(Debug)]
pub struct RankGroup {
    world_size: usize,
    transport: Box<dyn Transport>,
    exchanges: u64,
    layer: Option<usize>,
    received: u64,
}

/// A gathering of every rank's tensor under way.
#[derive(Debug)]
pub struct PendingGather(Ticket);

/// A step around the ring under way.
#[derive(Debug)]
pub struct PendingShift {
    ticket: Ticket,
    /// What moves between ranks of this process.
    kept: Vec<Tensor<4>>,
}

impl RankGroup {
    /// `world_size` ranks, all driven by this process.
    pub fn local(world_size: usize) -> Self {
        Self::over(world_size.max(1), Box::new(Local))
    }

    /// `world_size` ranks shared out over the processes that `transport` connects.
    ///
    /// # Errors
    ///
    /// [`RankError::Uneven`] unless the processes divide the ranks.
    pub fn new(world_size: usize, mut transport: Box<dyn Transport>) -> Result<Self, RankError> {
        let processes = transport.processes();
        if world_size == 0 || !world_size.is_multiple_of(processes) {
            return Err(RankError::Uneven {
                ranks: world_size,
                processes,
            });
        }
        transport.share_out(world_size / processes);
        Ok(Self::over(world_size, transport))
    }

    fn over(world_size: usize, transport: Box<dyn Transport>) -> Self {
        Self {
            world_size,
            exchanges: transport.exchanges(),
            transport,
            layer: None,
            received: 0,
        }
    }

    /// Says which layer the exchanges that follow belong to, for messages about them.
    pub fn at_layer(&mut self, layer: Option<usize>) {
        self.layer = layer;
    }

    /// Bytes of tensors that this process has received from others.
    pub fn received_bytes(&self) -> u64 {
        self.received
    }

    /// The place of the next exchange, in which the tensors of `shapes` come from other processes.
    fn place(
        &mut self,
        operation: Operation,
        dtype: Option<DType>,
        incoming: &[Option<[usize; 4]>],
    ) -> Place {
        let me = self.transport.process();
        let elements: usize = (incoming.iter().enumerate())
            .filter(|(from, _)| *from != me)
            .filter_map(|(_, shape)| shape.map(|shape| shape.iter().product::<usize>()))
            .sum();
        let bytes = (elements * dtype.map_or(0, |dtype| dtype.size())) as u64;
        self.received += bytes;
        self.place_of(operation, bytes)
    }

    fn place_of(&mut self, operation: Operation, bytes: u64) -> Place {
        let exchange = self.exchanges;
        self.exchanges += 1;
        Place {
            exchange,
            operation,
            layer: self.layer,
            bytes,
        }
    }

    /// The bytes of process 0, on every process; all give as many.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn broadcast(&mut self, bytes: Vec<u8>) -> Result<Vec<u8>, RankError> {
        if self.processes() == 1 {
            return Ok(bytes);
        }
        let place = self.place_of(Operation::Broadcast, bytes.len() as u64);
        self.transport.broadcast(place, 0, bytes)
    }

    /// Gives process `p` the bytes `parts[p]` of process 0; the others give none.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn scatter(&mut self, parts: Vec<Vec<u8>>) -> Result<Vec<u8>, RankError> {
        let place = self.place_of(Operation::Scatter, 0);
        self.transport.scatter(place, 0, parts)
    }

    /// All ranks.
    pub fn world_size(&self) -> usize {
        self.world_size
    }

    /// How many processes drive them.
    pub fn processes(&self) -> usize {
        self.transport.processes()
    }

    /// Ranks of each process.
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
        process * self.share()..(process + 1) * self.share()
    }

    /// Whether this process drives the last rank, the owner of what follows the document.
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

    /// Starts giving every rank's tensor `[n, ..]`, of one shape, to all ranks.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn start_all_gather(&mut self, mine: Vec<Tensor<4>>) -> Result<PendingGather, RankError> {
        // One collective, whatever the number of ranks a process drives.
        let mine = cat_or_only(mine);
        let incoming = vec![Some(mine.dims()); self.processes()];
        let place = self.place(Operation::AllGather, Some(mine.dtype()), &incoming);
        let ticket = self.transport.start_all_gather(place, mine)?;
        Ok(PendingGather(ticket))
    }

    /// Every rank's tensor, in the order of ranks.
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

    /// Every process's tensor, all of one shape, in the order of processes.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn gather_processes(&mut self, mine: Tensor<4>) -> Result<Vec<Tensor<4>>, RankError> {
        let incoming = vec![Some(mine.dims()); self.processes()];
        let place = self.place(Operation::GatherPartials, Some(mine.dtype()), &incoming);
        let ticket = self.transport.start_all_gather(place, mine)?;
        Ok(self
            .transport
            .finish(ticket)?
            .into_iter()
            .flatten()
            .collect())
    }

    /// Starts moving each rank's tensor to the next rank, and the last's to the first. `incoming` is
    /// the shape that this process's first rank will receive.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn start_shift(
        &mut self,
        mut mine: Vec<Tensor<4>>,
        incoming: [usize; 4],
    ) -> Result<PendingShift, RankError> {
        let processes = self.transport.processes();
        let me = self.transport.process();
        let mut outgoing = vec![None; processes];
        let mut shapes = vec![None; processes];
        outgoing[(me + 1) % processes] = mine.pop();
        shapes[(me + processes - 1) % processes] = Some(incoming);
        let dtype = outgoing.iter().flatten().next().map(Tensor::dtype);
        let place = self.place(Operation::Shift, dtype, &shapes);
        Ok(PendingShift {
            ticket: self.transport.start(place, outgoing, shapes)?,
            kept: mine,
        })
    }

    /// What each rank of this process received from the rank before it.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn finish_shift(&mut self, pending: PendingShift) -> Result<Vec<Tensor<4>>, RankError> {
        let received = self.transport.finish(pending.ticket)?;
        Ok(received.into_iter().flatten().chain(pending.kept).collect())
    }

    /// Gives rank `j` what each rank holds for it: `outgoing[i][j]` is from this process's `i`-th rank
    /// to rank `j`, of shape `shape(from, to)`. Returns, for each rank of this process, what every
    /// rank sent to it, in the order of ranks.
    ///
    /// Between two processes everything travels as one tensor.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn all_to_all(
        &mut self,
        outgoing: Vec<Vec<Tensor<4>>>,
        shape: impl Fn(usize, usize) -> [usize; 4],
    ) -> Result<Vec<Vec<Tensor<4>>>, RankError> {
        let mine = self.ranks();
        let me = self.transport.process();
        let share = self.share();
        let processes = self.transport.processes();
        let ranks_of = |process: usize| process * share..(process + 1) * share;

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
            ranks_of(from).flat_map(move |from| mine.clone().map(move |to| (from, to)))
        };
        let elements = |shape: [usize; 4]| shape.iter().product::<usize>();
        let incoming: Vec<_> = (0..processes)
            .map(|process| {
                let total: usize = pairs(process).map(|(f, t)| elements(shape(f, t))).sum();
                (process != me).then_some([1, 1, 1, total])
            })
            .collect();
        let dtype = outgoing.iter().flatten().next().map(Tensor::dtype);
        let place = self.place(Operation::AllToAll, dtype, &incoming);
        let ticket = self.transport.start(place, outgoing, incoming)?;
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

/// The tensors side by side along the first dimension.
fn cat_or_only(mut tensors: Vec<Tensor<4>>) -> Tensor<4> {
    match tensors.len() {
        1 => tensors.remove(0),
        _ => Tensor::cat(tensors, 0),
    }
}
