//! Which node leads which group, as far as a client has learnt.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::tally::Progress;

/// A node per group. Wrong guesses cost a round trip and are corrected by what comes back.
#[derive(Debug)]
pub(super) struct Routes {
    node_of: Vec<u8>,
    progress: Arc<Progress>,
}

impl Routes {
    /// Groups are first looked for on each node in turn.
    pub(super) fn new(groups: u32, progress: Arc<Progress>) -> Self {
        let nodes = progress.led.len();
        let node_of: Vec<u8> = (0..groups).map(|group| (group as usize % nodes) as u8).collect();
        for &node in &node_of {
            progress.led[usize::from(node)].fetch_add(1, Ordering::Relaxed);
        }
        Self { node_of, progress }
    }

    #[inline]
    pub(super) fn node_of(&self, group: u32) -> usize {
        usize::from(self.node_of[group as usize])
    }

    /// Moves on from a node that does not lead the group: to the one it names, or else to the next. Without effect if
    /// another answer has moved it on already. `true` if the new guess is worth trying at once.
    pub(super) fn correct(&mut self, group: u32, tried: usize, hint: Option<usize>) -> bool {
        let nodes = self.progress.led.len();
        let before = self.node_of(group);
        if before != tried {
            return true;
        }
        let hint = hint.filter(|&node| node < nodes && node != tried);
        let after = hint.unwrap_or((tried + 1) % nodes);
        self.node_of[group as usize] = after as u8;
        self.progress.led[before].fetch_sub(1, Ordering::Relaxed);
        self.progress.led[after].fetch_add(1, Ordering::Relaxed);
        hint.is_some()
    }

    /// The groups routed to a node.
    pub(super) fn groups_of(&self, node: usize) -> impl Iterator<Item = u32> + '_ {
        let numbered = self.node_of.iter().enumerate();
        numbered.filter(move |(_, at)| usize::from(**at) == node).map(|(group, _)| group as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_followed_at_once_and_without_one_the_next_node_is_tried() {
        let progress = Arc::new(Progress::new(3));
        let mut routes = Routes::new(6, Arc::clone(&progress));
        assert_eq!(routes.groups_of(1).collect::<Vec<_>>(), [1, 4]);
        assert!(routes.correct(4, 1, Some(2)));
        assert!(routes.correct(4, 1, Some(0)), "an answer that is late changes nothing");
        assert_eq!(routes.node_of(4), 2);
        assert!(!routes.correct(4, 2, None));
        assert!(!routes.correct(1, 1, Some(7)), "a hint out of range is none");
        assert_eq!((routes.node_of(4), routes.node_of(1)), (0, 2));
        assert_eq!(progress.leads_most(), 0);
    }
}
