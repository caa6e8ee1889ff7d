//! A topic that gets another epoch while it is followed, though no event of it may come.

use super::{Need, Stage, Topic};
use shared_types::Position;

/// How many epochs that were left are remembered.
const PAST: usize = 8;

impl Topic {
    /// The topic may stand in another epoch: its history is asked, which says so. It is only a hint, whose place among
    /// events means nothing.
    pub fn renewed(&mut self) -> Vec<Need> {
        if !matches!(self.stage, Stage::Live) {
            // What is under way may have been asked before.
            self.is_doubted = true;
            return Vec::new();
        }
        self.stage = Stage::Filling;
        vec![Need::Fill(self.position.clone())]
    }

    /// The topic goes on at `to`: an epoch that it leaves never comes back.
    pub(super) fn leave(&mut self, to: &Position) {
        if to.epoch == self.position.epoch {
            return;
        }
        if self.past.len() == PAST {
            self.past.pop_front();
        }
        self.past.push_back(self.position.epoch.clone());
    }
}
