//! The error that the state of the other processes amounts to.

use std::time::{Duration, Instant};

use super::{Member, QUIET, State};
use crate::ranks::{Operation, Peer, RankError, Step};

fn peers<'a>(members: impl IntoIterator<Item = &'a Member>) -> Vec<Peer> {
    members.into_iter().map(|m| m.peer.clone()).collect()
}

impl State {
    /// A process that is in another collective than most at the same index. It may be this one.
    pub(super) fn mismatch(&self, step: Step) -> Option<RankError> {
        // Gathers of values have a count of their own.
        if step.operation == Operation::GatherValues {
            return None;
        }
        let here = || {
            let steps = (self.others()).filter_map(|member| Some((member, member.step?)));
            steps.filter(|(_, at)| at.index == step.index)
        };
        let (other, theirs) = here().find(|(_, at)| !at.agrees_with(&step))?;
        let against = here().filter(|(_, at)| !at.agrees_with(&step)).count();
        let with = here().count() - against + 1;
        let to_come = |member: &Member| member.step.is_none_or(|at| at.index < step.index);
        if with == against && self.others().any(to_come) {
            // Which of the two is odd shows once the others are here.
            return None;
        }
        let (peer, expected, found) = match with < against {
            true => (&self.members[self.me], theirs, step),
            false => (other, step, theirs),
        };
        Some(RankError::Mismatch {
            peer: Box::new(peer.peer.clone()),
            at: Some(step),
            expected: expected.to_string(),
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

    /// The other processes that have not entered a collective.
    pub(super) fn behind(&self, step: Step) -> Vec<usize> {
        let behind = |member: &&Member| member.step.is_none_or(|at| at.index < step.index);
        let others = self.others().filter(behind);
        others.map(|member| member.peer.process).collect()
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
