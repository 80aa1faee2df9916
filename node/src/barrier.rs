//! Where the cores of a node wait for each other while they start.

use std::cell::{Cell, RefCell};

use futures_channel::oneshot;

/// Cores that have arrived, and whether all of them said yes.
#[derive(Default)]
pub(crate) struct Barrier {
    waiting: RefCell<Vec<oneshot::Sender<bool>>>,
    refused: Cell<bool>,
}

impl Barrier {
    /// Waits until all of `cores` have arrived; returns whether each said yes. Then the barrier is as new.
    pub(crate) async fn arrive(&self, cores: usize, yes: bool) -> bool {
        self.refused.set(self.refused.get() || !yes);
        if self.waiting.borrow().len() + 1 < cores {
            let (tell, all) = oneshot::channel();
            self.waiting.borrow_mut().push(tell);
            return all.await.expect("invariant: the barrier outlives the start");
        }
        let all = !self.refused.replace(false);
        for core in self.waiting.take() {
            // A core that is gone has failed, and says why.
            let _ = core.send(all);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::future::join3;

    #[test]
    fn one_refusal_counts_for_all_and_for_this_time_only() {
        let barrier = Barrier::default();
        for no in 0..4 {
            let mut all = std::pin::pin!(join3(
                barrier.arrive(3, no != 0),
                barrier.arrive(3, no != 1),
                barrier.arrive(3, no != 2)
            ));
            // The last to arrive has told the others by the end of the first turn.
            let outcome = all.as_mut().now_or_never().or_else(|| all.as_mut().now_or_never());
            assert_eq!(outcome, Some((no == 3, no == 3, no == 3)));
        }
    }
}
