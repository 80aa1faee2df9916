//! What the tests of this folder share.

use std::future::Future;

/// Runs `main` on an executor as a core thread has it.
pub(crate) fn on_core<T>(main: impl Future<Output = T>) -> T {
    monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .enable_timer()
        .build()
        .expect("the tests need io_uring")
        .block_on(main)
}
