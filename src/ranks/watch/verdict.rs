//! The error that the state of the other processes amounts to.

use std::time::{Duration, Instant};

use super::{Member, QUIET, State};
use crate::ranks::{Operation, Peer, RankError, Step};

fn peers<'a>(members: impl IntoIterator<Item = &'a Member>) -> Vec<Peer> {
    members.into_iter().map(|m| m.peer.clone()).collect()
}

impl State {
    /// A process that is in another collective at the same index.
    pub(super) fn mismatch(&self, step: Step) -> Option<RankError> {
        // Gathers of values have a count of their own.
        let (other, found) = (self
            .others()
            .filter(|_| step.operation != Operation::GatherValues))
        .filter_map(|member| Some((member, member.step?)))
        .find(|(_, found)| !found.agrees_with(&step))?;
        Some(RankError::Mismatch {
            peer: Box::new(other.peer.clone()),
            at: Some(step),
            expected: step.to_string(),
            found: found.to_string(),
        })
    }

    /// Processes without a message for longer than the timeout, together with those past half of it: one
    /// failure usually stops several.
    pub(super) fn unresponsive(&self, now: Instant, timeout: Duration) -> Option<RankError> {
        let quiet_for = |member: &Member| now.saturating_duration_since(member.last_seen);
        let others = || self.others().filter(|member| !member.left);
        let silence = others().map(quiet_for).max()?;
        (silence >= timeout).then(|| RankError::Unresponsive {
            peers: peers(others().filter(|member| quiet_for(member) >= timeout / 2)),
            at: self.step,
            silence,
        })
    }

    /// Why a collective was not finished in time, where the processes `missing` have not entered it.
    pub(super) fn late(&self, step: Step, waited: Duration, missing: &[usize]) -> RankError {
        let quiet = |member: &&Member| member.last_seen.elapsed() >= QUIET.min(waited / 2);
        let silent: Vec<&Member> = self.others().filter(quiet).collect();
        if let Some(silence) = silent.iter().map(|m| m.last_seen.elapsed()).max() {
            return RankError::Unresponsive {
                peers: peers(silent),
                at: Some(step),
                silence,
            };
        }
        let is_missing = |member: &&Member| missing.contains(&member.peer.process);
        let mut behind: Vec<&Member> = self.others().filter(is_missing).collect();
        if behind.is_empty() {
            // All have entered it, and yet it does not end.
            behind = self.others().collect();
        }
        let doing = behind.iter().map(|member| match member.step {
            Some(step) => format!("last at the {step}"),
            None => "not yet at its first step".into(),
        });
        RankError::Timeout {
            doing: doing.collect::<Vec<_>>().join(" and "),
            peers: peers(behind),
            at: step,
            waited,
        }
    }
}
