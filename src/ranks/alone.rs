//! One rank of a group whose other ranks are not there.

use burn::tensor::Tensor;

use super::{RankError, Step, Ticket, Transport};

/// The transport of a rank that is measured by itself: every other rank sends zeros, at once.
#[derive(Debug, Clone)]
pub(super) struct Alone {
    pub rank: usize,
    pub ranks: usize,
}

impl Transport for Alone {
    fn processes(&self) -> usize {
        self.ranks
    }

    fn process(&self) -> usize {
        self.rank
    }

    fn start(
        &mut self,
        step: Step,
        mut outgoing: Vec<Option<Tensor<4>>>,
        incoming: Vec<Option<[usize; 4]>>,
    ) -> Result<Ticket, RankError> {
        Ok(Ticket::new(step, self.rank, &mut outgoing, incoming))
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError> {
        let Ticket {
            mut held,
            incoming,
            like,
            ..
        } = ticket;
        if let Some(like) = like {
            for (held, shape) in held.iter_mut().zip(incoming) {
                let zeros =
                    |shape: [usize; 4]| Tensor::zeros(shape, (&like.device(), like.dtype()));
                *held = held.take().or_else(|| shape.map(zeros));
            }
        }
        Ok(held)
    }

    fn broadcast(&mut self, _: Step, _: usize, bytes: Vec<u8>) -> Result<Vec<u8>, RankError> {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{DType, Device};

    use crate::ranks::{RankError, RankGroup, Ranks};

    use super::*;

    fn tensor(rows: usize, value: f32) -> Tensor<4> {
        Tensor::full([1, 2, rows, 4], value, &Device::flex())
    }

    fn sum(tensor: Tensor<4>) -> f32 {
        tensor.sum().into_scalar()
    }

    /// Each collective returns what other ranks would send in shape, zeros in value.
    #[test]
    fn other_ranks_send_zeros_of_the_right_shape() {
        let mut group = RankGroup::alone(2, 4).unwrap();
        assert_eq!((group.ranks(), group.world_size()), (Ranks::from(2..3), 4));
        assert!(!group.owns_last());

        let pending = group.start_all_gather(vec![tensor(3, 1.0)]).unwrap();
        let gathered = group.finish_all_gather(pending).unwrap();
        assert!(gathered.iter().all(|block| block.dims() == [1, 2, 3, 4]));
        let sums: Vec<f32> = gathered.into_iter().map(sum).collect();
        assert_eq!(sums, [0.0, 0.0, 24.0, 0.0]);

        let half = tensor(5, 1.0).cast(DType::BF16);
        let pending = group.start_shift(vec![half], |_| [1, 2, 7, 4]).unwrap();
        let shifted = group.finish_shift(pending).unwrap();
        assert_eq!(shifted[0].dims(), [1, 2, 7, 4]);
        assert_eq!(shifted[0].dtype(), DType::BF16);

        let rows = vec![(0..4).map(|_| tensor(2, 1.0)).collect()];
        let exchanged = group.all_to_all(rows, |_, _| [1, 2, 2, 4]).unwrap();
        let sums: Vec<f32> = exchanged[0].iter().cloned().map(sum).collect();
        assert_eq!(sums, [0.0, 0.0, 16.0, 0.0]);
    }

    #[test]
    fn a_rank_outside_the_group_is_refused() {
        for (rank, ranks) in [(4, 4), (0, 0), (usize::MAX, 1)] {
            let refused = RankGroup::alone(rank, ranks).unwrap_err();
            assert!(matches!(refused, RankError::NoSuchRank { .. }), "{refused}");
        }
    }
}
