//! Why the process is asked to stop: a signal, or an operator through the admin server.

use std::fmt;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Who asked the process to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// SIGTERM, as Kubernetes sends it.
    Terminated,
    /// SIGINT, as a terminal sends it.
    Interrupted,
    /// `/quitquitquit` of the admin server.
    Asked,
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminated => "SIGTERM",
            Self::Interrupted => "SIGINT",
            Self::Asked => "asked by /quitquitquit",
        })
    }
}

/// Waits for a reason to stop.
#[derive(Debug)]
pub struct Shutdown {
    terminate: Signal,
    interrupt: Signal,
    asked: Arc<Notify>,
}

/// Asks the process to stop. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StopRequest {
    asked: Arc<Notify>,
}

impl Shutdown {
    /// Starts listening for signals: from now on they no longer end the process by themselves.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed. Must be called on a runtime.
    pub fn listen() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt, asked: Arc::default() })
    }

    /// The handle for the admin server.
    pub fn request(&self) -> StopRequest {
        StopRequest { asked: self.asked.clone() }
    }

    /// Waits for the next reason to stop. Called again during a drain, it tells of a second, more impatient one.
    pub async fn wait(&mut self) -> StopReason {
        tokio::select! {
            Some(()) = self.terminate.recv() => StopReason::Terminated,
            Some(()) = self.interrupt.recv() => StopReason::Interrupted,
            () = self.asked.notified() => StopReason::Asked,
        }
    }
}

impl StopRequest {
    /// Asks the process to stop; remembered when nobody waits yet.
    pub fn stop(&self) {
        self.asked.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    // One test, because signals belong to the process and tests share it.
    #[tokio::test]
    async fn each_way_to_ask_is_told_apart() {
        let mut shutdown = Shutdown::listen().unwrap();
        raise(Signal::SIGTERM).unwrap();
        assert_eq!(shutdown.wait().await, StopReason::Terminated);
        raise(Signal::SIGINT).unwrap();
        assert_eq!(shutdown.wait().await, StopReason::Interrupted);
        shutdown.request().stop();
        assert_eq!(shutdown.wait().await, StopReason::Asked);
    }
}
