//! Waiting for facts. A test asks until something is so; time only decides when to give up.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// When a fact that has not come is a failure. No test passes or fails by how far below this it stays.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
///
/// # Panics
/// If there is none within [`PATIENCE`]; `what` says in the message what was waited for.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begin = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begin.elapsed() < PATIENCE, "never: {what}");
        thread::yield_now();
    }
}

/// Does something that must end, on a thread of its own, so that a test whose call hangs fails instead of hanging.
///
/// # Panics
/// If it does not end within [`PATIENCE`], or panics.
pub fn ends<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(call()));
    match ended.recv_timeout(PATIENCE) {
        Ok(result) => result,
        Err(_) => panic!("does not end: {what}"),
    }
}
