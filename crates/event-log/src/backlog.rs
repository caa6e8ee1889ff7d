//! How far side-effect readers are behind, and when that is said.
//!
//! Owns the thresholds. An implementation measures, and says what it is told to.

/// From this share of the limit on, the backlog is worth an alert.
pub const ALERT_SHARE: f64 = 0.5;
/// An alert ends below this share, so that one that hovers around the threshold is said once.
const RELIEF_SHARE: f64 = 0.45;

/// What to say about the backlog now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BacklogNews {
    /// It has grown past [`ALERT_SHARE`].
    Alert,
    /// It has reached the limit: appends are refused.
    Full,
    /// Appends are taken again, and the alert stands.
    NotFull,
    /// It has fallen clearly below [`ALERT_SHARE`].
    Relief,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    #[default]
    Calm,
    Alert,
    Full,
}

/// Remembers what was said, so that each change is said once.
#[derive(Debug, Default)]
pub struct BacklogWatch {
    level: Level,
}

impl BacklogWatch {
    /// Takes a measurement: the share of the limit (0 for no backlog), and whether appends are refused.
    pub fn measured(&mut self, share: f64, is_full: bool) -> Option<BacklogNews> {
        let stays = self.level != Level::Calm && share >= RELIEF_SHARE;
        let level = match (is_full, share >= ALERT_SHARE || stays) {
            (true, _) => Level::Full,
            (false, true) => Level::Alert,
            (false, false) => Level::Calm,
        };
        let before = std::mem::replace(&mut self.level, level);
        match (before, level) {
            (before, now) if before == now => None,
            (_, Level::Full) => Some(BacklogNews::Full),
            (Level::Full, Level::Alert) => Some(BacklogNews::NotFull),
            (_, Level::Alert) => Some(BacklogNews::Alert),
            (_, Level::Calm) => Some(BacklogNews::Relief),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_said_once() {
        let mut watch = BacklogWatch::default();
        let said: Vec<_> = [
            (0.0, false),
            (0.49, false),
            (0.5, false),
            (0.7, false),
            (0.48, false),
            (0.52, false),
            (1.01, true),
            (1.01, true),
            (0.9, false),
            (0.44, false),
            (0.48, false),
            (1.2, true),
            (0.1, false),
        ]
        .into_iter()
        .filter_map(|(share, full)| watch.measured(share, full))
        .collect();
        use BacklogNews::{Alert, Full, NotFull, Relief};
        assert_eq!(said, [Alert, Full, NotFull, Relief, Full, Relief]);
    }
}
