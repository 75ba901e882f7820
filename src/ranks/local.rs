//! One process drives all ranks.

use burn::tensor::Tensor;

use super::{RankError, Ticket, Transport};

/// The transport of a single process: what it sends is what it receives.
#[derive(Debug, Clone, Default)]
pub struct Local {
    exchanges: u64,
}

impl Transport for Local {
    fn processes(&self) -> usize {
        1
    }

    fn process(&self) -> usize {
        0
    }

    fn start(
        &mut self,
        outgoing: Vec<Option<Tensor<4>>>,
        incoming: Vec<Option<[usize; 4]>>,
    ) -> Result<Ticket, RankError> {
        let exchange = self.exchanges;
        self.exchanges += 1;
        Ok(Ticket {
            exchange,
            held: outgoing,
            incoming,
        })
    }

    fn finish(&mut self, ticket: Ticket) -> Result<Vec<Option<Tensor<4>>>, RankError> {
        Ok(ticket.held)
    }
}
