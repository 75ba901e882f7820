//! The method: lengths, strategies and, over ranks, the exchange.
