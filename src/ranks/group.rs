//! Collectives between ranks, whichever process drives them.

use burn::tensor::{DType, Tensor};

use super::alone::Alone;
use super::{Local, Operation, RankError, RankOrder, Ranks, Step, Ticket, Transport};

/// The ranks of a computation, those of them that this process drives, and the transport to the others.
///
/// Ranks are divided evenly and, unless another [`RankOrder`] is chosen, in order: with 8 ranks and 2 processes the
/// second drives ranks 4 to 7. Every method is called by all processes in the same order, with one tensor for each rank
/// that the process drives, in the order of ranks.
#[derive(Debug)]
pub struct RankGroup {
    world_size: usize,
    transport: Box<dyn Transport>,
    order: RankOrder,
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
    /// For each rank of this process, what another one of them sends.
    kept: Vec<Option<Tensor<4>>>,
    /// From each process: which of this process's ranks receive, and tensors of which shapes.
    incoming: Vec<Vec<(usize, [usize; 4])>>,
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
            order: RankOrder::default(),
            next_step: 0,
            layer: None,
            received: 0,
        }
    }

    /// The same with its ranks divided in another order, which all processes must choose.
    pub fn with_order(mut self, order: RankOrder) -> Self {
        self.order = order;
        self
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
    pub fn ranks(&self) -> Ranks {
        self.ranks_of(self.transport.process())
    }

    /// The ranks that a process drives; none where there is no such process.
    pub fn ranks_of(&self, process: usize) -> Ranks {
        self.order.ranks_of(process, self.processes(), self.share())
    }

    /// Whether this process drives the last rank, which owns the tokens after the document.
    pub fn owns_last(&self) -> bool {
        self.process_of(self.world_size - 1) == self.transport.process()
    }

    /// Whether other processes of the group are threads of this one and share its worker threads, on
    /// which none of them may then wait for another: work that exchanges must stay on the caller's
    /// thread.
    pub fn shares_workers(&self) -> bool {
        self.transport.shares_workers()
    }

    fn process_of(&self, rank: usize) -> usize {
        self.order.process_of(rank, self.processes(), self.share())
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
        let of_process = |(process, all): (usize, Tensor<4>)| {
            let tensors = match share {
                1 => vec![all],
                _ => all.chunk(share, 0),
            };
            self.ranks_of(process).zip(tensors)
        };
        let all = received.into_iter().flatten().enumerate();
        let mut all: Vec<_> = all.flat_map(of_process).collect();
        all.sort_by_key(|(rank, _)| *rank);
        Ok(all.into_iter().map(|(_, tensor)| tensor).collect())
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

    /// Starts to send each process its tensors of `outgoing`, `[n0, n1, n2, n3]` each, and to receive tensors of the
    /// shapes `incoming` from it. Between two processes one tensor travels.
    fn start(
        &mut self,
        operation: Operation,
        outgoing: Vec<Vec<Tensor<4>>>,
        incoming: &[Vec<[usize; 4]>],
    ) -> Result<Ticket, RankError> {
        let outgoing: Vec<Option<Tensor<4>>> = outgoing.into_iter().map(packed).collect();
        let incoming: Vec<_> = incoming.iter().map(|shapes| packed_shape(shapes)).collect();
        let dtype = outgoing.iter().flatten().next().map(Tensor::dtype);
        let step = self.step(operation, dtype, &incoming);
        self.transport.start(step, outgoing, incoming)
    }

    /// Starts to send each rank's tensor `[n0, n1, n2, n3]` to the next rank, and the last's to the first.
    /// `incoming` gives the shape that a rank of this process receives, and is asked where another process sends it.
    /// Between two processes one tensor is sent.
    ///
    /// # Errors
    ///
    /// [`RankError::Tensors`] unless there is one tensor for each rank of this process; else as the
    /// transport's.
    pub fn start_shift(
        &mut self,
        mine: Vec<Tensor<4>>,
        incoming: impl Fn(usize) -> [usize; 4],
    ) -> Result<PendingShift, RankError> {
        self.check_count(Operation::Shift, mine.len())?;
        let ranks = self.ranks();
        let next = |rank: usize| (rank + 1) % self.world_size;
        let mut kept = vec![None; mine.len()];
        let mut outgoing = vec![Vec::new(); self.processes()];
        for (rank, tensor) in ranks.clone().zip(mine) {
            match ranks.index_of(next(rank)) {
                Some(index) => kept[index] = Some(tensor),
                None => outgoing[self.process_of(next(rank))].push(tensor),
            }
        }
        // In the order in which the other process sends them.
        let from = |process: usize| -> Vec<(usize, [usize; 4])> {
            let to = self.ranks_of(process).map(next);
            to.filter_map(|rank| Some((ranks.index_of(rank)?, incoming(rank))))
                .collect()
        };
        let me = self.transport.process();
        let incoming: Vec<_> = (0..self.processes())
            .map(|process| match process == me {
                true => Vec::new(),
                false => from(process),
            })
            .collect();
        let shapes: Vec<Vec<_>> = incoming.iter().map(|from| shapes_of(from)).collect();
        Ok(PendingShift {
            ticket: self.start(Operation::Shift, outgoing, &shapes)?,
            kept,
            incoming,
        })
    }

    /// The tensors that each rank of this process received from the rank before it.
    ///
    /// # Errors
    ///
    /// [`RankError`] as the transport's.
    pub fn finish_shift(&mut self, pending: PendingShift) -> Result<Vec<Tensor<4>>, RankError> {
        let PendingShift {
            ticket,
            kept: mut shifted,
            incoming,
        } = pending;
        let received = self.transport.finish(ticket)?;
        for (tensor, from) in received.into_iter().zip(incoming) {
            let Some(tensor) = tensor else { continue };
            let tensors = unpacked(tensor, &shapes_of(&from));
            for ((index, _), tensor) in from.into_iter().zip(tensors) {
                shifted[index] = Some(tensor);
            }
        }
        Ok(shifted.into_iter().flatten().collect())
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
        // By rank of this process and by sender.
        let mut result: Vec<Vec<Option<Tensor<4>>>> =
            vec![vec![None; self.world_size]; outgoing.len()];
        let mut flattened: Vec<Vec<Tensor<4>>> = vec![Vec::new(); self.processes()];
        for (from, row) in mine.clone().zip(outgoing) {
            for (to, tensor) in row.into_iter().enumerate() {
                match mine.index_of(to) {
                    Some(index) => result[index][from] = Some(tensor),
                    None => flattened[self.process_of(to)].push(flat(tensor)),
                }
            }
        }
        let pairs = |process: usize| -> Vec<(usize, usize, usize)> {
            let to = |from: usize| {
                let mine = mine.clone().enumerate();
                mine.map(move |(index, to)| (from, index, to))
            };
            match process == me {
                true => Vec::new(),
                false => self.ranks_of(process).flat_map(to).collect(),
            }
        };
        let pairs: Vec<Vec<_>> = (0..self.processes()).map(pairs).collect();
        let flat_shape =
            |(from, _, to): &(usize, usize, usize)| [1, 1, 1, elements(shape(*from, *to))];
        let shapes: Vec<Vec<_>> = (pairs.iter())
            .map(|pairs| pairs.iter().map(flat_shape).collect())
            .collect();
        let ticket = self.start(Operation::AllToAll, flattened, &shapes)?;
        let received = self.transport.finish(ticket)?;
        for ((tensor, pairs), shapes) in received.into_iter().zip(pairs).zip(&shapes) {
            let Some(tensor) = tensor else { continue };
            for ((from, index, to), tensor) in pairs.into_iter().zip(unpacked(tensor, shapes)) {
                result[index][from] = Some(tensor.reshape(shape(from, to)));
            }
        }
        let rows = result.into_iter();
        Ok(rows
            .map(|row| row.into_iter().flatten().collect())
            .collect())
    }
}

/// The tensors concatenated along the first dimension.
fn cat_or_only(mut tensors: Vec<Tensor<4>>) -> Tensor<4> {
    match tensors.len() {
        1 => tensors.remove(0),
        _ => Tensor::cat(tensors, 0),
    }
}

fn elements(shape: [usize; 4]) -> usize {
    shape.into_iter().product()
}

/// All elements in the last dimension.
fn flat(tensor: Tensor<4>) -> Tensor<4> {
    let count = elements(tensor.dims());
    tensor.reshape([1, 1, 1, count])
}

/// Tensors in one: the only one as it is, several flattened, one after another.
fn packed(mut tensors: Vec<Tensor<4>>) -> Option<Tensor<4>> {
    match tensors.len() {
        0 | 1 => tensors.pop(),
        _ => Some(Tensor::cat(tensors.into_iter().map(flat).collect(), 3)),
    }
}

/// The shape of what [`packed`] makes of tensors of these shapes.
fn packed_shape(shapes: &[[usize; 4]]) -> Option<[usize; 4]> {
    match shapes {
        [] => None,
        [shape] => Some(*shape),
        shapes => Some([1, 1, 1, shapes.iter().copied().map(elements).sum()]),
    }
}

/// The tensors of these shapes that [`packed`] made one.
fn unpacked(tensor: Tensor<4>, shapes: &[[usize; 4]]) -> Vec<Tensor<4>> {
    if shapes.len() == 1 {
        return vec![tensor];
    }
    let mut start = 0;
    let part = |shape: &[usize; 4]| {
        let end = start + elements(*shape);
        let part = tensor.clone().slice([0..1, 0..1, 0..1, start..end]);
        start = end;
        part.reshape(*shape)
    };
    shapes.iter().map(part).collect()
}

fn shapes_of(incoming: &[(usize, [usize; 4])]) -> Vec<[usize; 4]> {
    incoming.iter().map(|(_, shape)| *shape).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::ranks::threads;

    const ORDERS: [RankOrder; 2] = [RankOrder::InOrder, RankOrder::Folded];

    /// A tensor whose values tell its number and their place.
    fn tensor(shape: [usize; 4], id: usize) -> Tensor<4> {
        let values: Vec<f32> = (0..elements(shape))
            .map(|place| (id * 100 + place) as f32)
            .collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    fn assert_same(got: Tensor<4>, shape: [usize; 4], id: usize) {
        assert_eq!(got.into_data(), tensor(shape, id).into_data(), "{id}");
    }

    /// Every collective, as one of the processes that make it.
    fn exchange(group: &mut RankGroup) {
        let world = group.world_size();
        let ranks: Vec<usize> = group.ranks().collect();
        assert_eq!(group.owns_last(), ranks.contains(&(world - 1)));

        let shape = [2, 1, 2, 3];
        let mine = ranks.iter().map(|rank| tensor(shape, *rank)).collect();
        let pending = group.start_all_gather(mine).unwrap();
        let gathered = group.finish_all_gather(pending).unwrap();
        assert_eq!(gathered.len(), world);
        for (rank, got) in gathered.into_iter().enumerate() {
            assert_same(got, shape, rank);
        }

        let shape = |rank: usize| [2, 1, 1 + rank % 3, 2];
        let before = |rank: usize| (rank + world - 1) % world;
        let mine = ranks.iter().map(|rank| tensor(shape(*rank), *rank));
        let pending = group
            .start_shift(mine.collect(), |rank| shape(before(rank)))
            .unwrap();
        let shifted = group.finish_shift(pending).unwrap();
        assert_eq!(shifted.len(), ranks.len());
        for (rank, got) in ranks.iter().zip(shifted) {
            assert_same(got, shape(before(*rank)), before(*rank));
        }

        let shape = |from: usize, to: usize| [1, 1 + to % 2, 1 + from % 3, 2];
        let id = |from: usize, to: usize| from * world + to;
        let row = |from: &usize| {
            let tensors = (0..world).map(|to| tensor(shape(*from, to), id(*from, to)));
            tensors.collect()
        };
        let outgoing = ranks.iter().map(row).collect();
        let exchanged = group.all_to_all(outgoing, shape).unwrap();
        assert_eq!(exchanged.len(), ranks.len());
        for (to, row) in ranks.iter().zip(exchanged) {
            assert_eq!(row.len(), world);
            for (from, got) in row.into_iter().enumerate() {
                assert_same(got, shape(from, *to), id(from, *to));
            }
        }
    }

    #[test]
    fn ranks_of_any_order_receive_what_is_theirs() {
        for order in ORDERS {
            for (processes, each) in (1..=4).flat_map(|p| (1..=3).map(move |each| (p, each))) {
                std::thread::scope(|scope| {
                    for transport in threads(processes, Duration::from_secs(60)) {
                        scope.spawn(move || {
                            let group = RankGroup::new(processes * each, Box::new(transport));
                            exchange(&mut group.unwrap().with_order(order));
                        });
                    }
                });
            }
        }
    }

    /// By step, the shape of what is sent to each process.
    type Sent = Arc<Mutex<Vec<Vec<Option<[usize; 4]>>>>>;

    /// Process 0 of two, which notes what it sends.
    #[derive(Debug)]
    struct Noted(Sent);

    impl Transport for Noted {
        fn processes(&self) -> usize {
            2
        }

        fn process(&self) -> usize {
            0
        }

        fn start(
            &mut self,
            step: Step,
            mut outgoing: Vec<Option<Tensor<4>>>,
            incoming: Vec<Option<[usize; 4]>>,
        ) -> Result<Ticket, RankError> {
            let shapes = outgoing.iter().map(|sent| sent.as_ref().map(Tensor::dims));
            self.0.lock().unwrap().push(shapes.collect());
            Ok(Ticket::new(step, 0, &mut outgoing, incoming))
        }

        fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError> {
            Ok(ticket.held)
        }

        fn broadcast(&mut self, _: Step, _: usize, bytes: Vec<u8>) -> Result<Vec<u8>, RankError> {
            Ok(bytes)
        }
    }

    /// One tensor is sent as it is; of several, one with the elements of all.
    #[test]
    fn one_tensor_travels_between_two_processes() {
        let sent = |order: RankOrder, ranks: usize| {
            let noted = Sent::default();
            let transport = Box::new(Noted(noted.clone()));
            let group = RankGroup::new(ranks, transport).unwrap();
            let mut group = group.with_order(order);
            let mine = group.ranks().map(|rank| tensor([2, 1, 1 + rank, 3], rank));
            let mine = mine.collect();
            group.start_shift(mine, |_| [1; 4]).unwrap();
            let noted = noted.lock().unwrap();
            noted[0].clone()
        };
        assert_eq!(sent(RankOrder::InOrder, 8), [None, Some([2, 1, 4, 3])]);
        assert_eq!(sent(RankOrder::Folded, 4), [None, Some([2, 1, 1, 3])]);
        // Of ranks 0, 3, 4 and 7, 0 and 4 have a neighbour in the other process.
        let both = 2 * 3 * (1 + 5);
        assert_eq!(sent(RankOrder::Folded, 8), [None, Some([1, 1, 1, both])]);
    }
}
