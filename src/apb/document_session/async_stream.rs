//! Answers as a stream of pieces in a tokio runtime.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, channel};

use super::Ask;
use crate::apb::cancel::CancelToken;
use crate::apb::error::AnswerError;

/// Pieces that are buffered, at most.
const BUFFERED: usize = 16;

/// The pieces of an answer, computed on a blocking thread of the runtime. Dropping it ends the answer.
pub struct AnswerPieces {
    pieces: Receiver<Result<String, AnswerError>>,
    cancel: CancelToken,
}

impl fmt::Debug for AnswerPieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnswerPieces")
            .field("cancel", &self.cancel)
            .finish_non_exhaustive()
    }
}

impl Ask<'_> {
    /// Answers piece by piece, as a [`Stream`] that outlives the borrow of the document: a
    /// [fork](super::DocumentSession::fork) of it answers on a blocking thread of the tokio runtime.
    ///
    /// # Errors
    ///
    /// As [`run`](Ask::run); [`AnswerError::NoRuntime`] outside a tokio runtime. What fails later is an item.
    pub fn async_stream(self) -> Result<AnswerPieces, AnswerError> {
        let runtime = Handle::try_current().map_err(|_| AnswerError::NoRuntime)?;
        // A question that cannot be asked is an error here, not an item of the stream.
        self.query()?;
        let cancel = self.cancel.child();
        let mut fork = self.document.fork()?;
        let (question, options, token) = (self.question, self.options, cancel.clone());
        let (sampler, processors) = (self.sampler, self.processors);
        let (sender, pieces) = channel(BUFFERED);
        runtime.spawn_blocking(move || {
            let ask = Ask {
                document: &mut fork,
                question,
                options,
                sampler,
                processors,
                cancel: token,
            };
            match ask.stream() {
                Ok(stream) => {
                    for piece in stream {
                        if sender.blocking_send(piece).is_err() {
                            break;
                        }
                    }
                }
                // Where it cannot be sent, the stream has been dropped.
                Err(error) => drop(sender.blocking_send(Err(error))),
            }
        });
        Ok(AnswerPieces { pieces, cancel })
    }
}

impl Stream for AnswerPieces {
    type Item = Result<String, AnswerError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.pieces.poll_recv(context)
    }
}

impl Drop for AnswerPieces {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
