//! Ticks that are due at exact times; the runtime's own timer has a grain of a millisecond, coarser than what is measured.

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::sys::{
    time::TimeSpec,
    timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
};
use tokio::net::unix::pipe::Receiver;

/// A tick every period, the first after a delay.
pub(crate) struct Ticker {
    /// A timer's descriptor, which the kernel lets one wait for and read from as from a pipe.
    timer: Receiver,
    due: Instant,
    period: Duration,
    /// Ticks the timer has given that were not handed out yet.
    pending: u64,
}

impl Ticker {
    /// `period` and `delay` are not zero: a zero delay would disarm the timer.
    pub(crate) fn new(delay: Duration, period: Duration) -> Result<Self> {
        let timer =
            TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC)
                .context("make a timer")?;
        let due = Instant::now() + delay;
        let expiration =
            Expiration::IntervalDelayed(TimeSpec::from_duration(delay), TimeSpec::from_duration(period));
        timer.set(expiration, TimerSetTimeFlags::empty()).context("set a timer")?;
        let timer = Receiver::from_owned_fd_unchecked(timer.into()).context("register a timer")?;
        Ok(Self { timer, due, period, pending: 0 })
    }

    /// Waits for the next tick and returns when it was due. Ticks that were missed come at once, one by one.
    pub(crate) async fn tick(&mut self) -> Result<Instant> {
        while self.pending == 0 {
            self.timer.readable().await?;
            let mut count = [0; 8];
            match self.timer.try_read(&mut count) {
                Ok(_) => self.pending += u64::from_ne_bytes(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("read a timer"),
            }
        }
        self.pending -= 1;
        let due = self.due;
        self.due += self.period;
        Ok(due)
    }
}
