//! Whether a request still moves, and its end when it does not, or has no time left; and the end of a connection that no
//! request comes on.
//!
//! Whoever moves a piece of a body stamps the time; the task that carries the request has one timer, which compares that
//! stamp when it fires and never before: no piece costs a timer. Knows neither routes nor what is told of a request. The
//! surprising thing: the task is ended from outside, because a client that does not read keeps everything inside from
//! being looked at, the body and its deadline included.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio::task::futures::TaskLocalFuture;
use tokio::time::{Instant, Sleep, sleep_until};

use super::IDLE_DEADLINE;

/// How long a request may stand still, unless the operator says otherwise: nothing of it arrives, and nothing of its answer
/// leaves (Envoy's default of `stream_idle_timeout`, which counts for gRPC and for changed protocols too; Istio's own
/// proxies have none).
pub const STREAM_IDLE_DEADLINE: Duration = Duration::from_secs(300);

/// No time.
const NEVER: u64 = u64::MAX;

tokio::task_local! {
    /// That of the HTTP/2 stream whose task this is.
    static OF_STREAM: Arc<Pulse>;
}

/// The pulse of one request, or of the requests of an HTTP/1.1 connection, which come one by one.
#[derive(Debug)]
pub struct Pulse {
    /// What times are counted from, in nanoseconds.
    epoch: Instant,
    /// When something moved last.
    moved: AtomicU64,
    /// When the answer has to be over.
    deadline: AtomicU64,
    /// Until when a request that has arrived may stand still, by what a route states; 0 is not at all.
    stated: AtomicU64,
    /// Whether the request has arrived to its end, or there is none.
    is_whole: AtomicBool,
    /// Whether all of the last answer has been handed on, or there was none.
    is_answered: AtomicBool,
    /// Why it is ended: an [`Over`] as a number, or 0.
    over: AtomicU8,
    /// Whether other requests follow.
    is_of_connection: bool,
    /// How long a request may stand still; `None` is for ever.
    idle: Option<Duration>,
}

/// Why a request is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// It stood still, or there was none.
    Idle = 1,
    /// Its time is up.
    Late = 2,
}

impl Pulse {
    /// That of a request that begins now, and of no other. It may stand still for `idle`, or for ever.
    pub fn of_request(idle: Option<Duration>) -> Self {
        Self::new(false, idle)
    }

    /// That of a connection on which requests come one by one; of none as yet. Each may stand still for `idle`, or for ever,
    /// and the connection waits [`IDLE_DEADLINE`] for the next.
    pub fn of_connection(idle: Option<Duration>) -> Self {
        Self::new(true, idle)
    }

    /// That of the HTTP/2 stream whose task this is.
    ///
    /// # Panics
    /// Anywhere else.
    pub fn of_stream() -> Arc<Self> {
        OF_STREAM.try_with(Arc::clone).expect("`Streams` runs the task of each stream with its pulse")
    }

    fn new(is_of_connection: bool, idle: Option<Duration>) -> Self {
        Self {
            epoch: Instant::now(),
            moved: AtomicU64::new(0),
            deadline: AtomicU64::new(NEVER),
            stated: AtomicU64::new(0),
            is_whole: AtomicBool::new(is_of_connection),
            is_answered: AtomicBool::new(is_of_connection),
            over: AtomicU8::new(0),
            is_of_connection,
            idle,
        }
    }

    /// A request begins, of which there is nothing but a head when it `is_whole`.
    pub fn begin(&self, is_whole: bool) {
        self.is_whole.store(is_whole, Relaxed);
        self.is_answered.store(false, Relaxed);
        self.renew();
    }

    /// The request is answered here, whatever became of it, and the answer has all its time.
    pub fn renew(&self) {
        self.deadline.store(NEVER, Relaxed);
        self.stated.store(0, Relaxed);
        self.over.store(0, Relaxed);
        self.moves();
    }

    /// A piece of the request has arrived, or one of its answer has been handed on.
    pub fn moves(&self) {
        self.moved.store(self.since_epoch(Instant::now()), Relaxed);
    }

    /// The request has arrived to its end.
    pub fn arrived(&self) {
        self.is_whole.store(true, Relaxed);
    }

    /// Whether the request has arrived to its end.
    pub fn is_whole(&self) -> bool {
        self.is_whole.load(Relaxed)
    }

    /// The head of the answer is there, and all of it has to be handed on by `deadline`.
    pub fn answer_by(&self, deadline: Option<Instant>) {
        let deadline = deadline.map(|at| self.since_epoch(at));
        self.deadline.store(deadline.unwrap_or(NEVER), Relaxed);
        self.stated.store(deadline.unwrap_or(0), Relaxed);
        self.moves();
    }

    /// All of the answer has been handed on. What of it still waits for the client's window goes on being watched, and so
    /// does a connection on which the client has not sent all of its request.
    pub fn answered(&self) {
        self.deadline.store(NEVER, Relaxed);
        self.stated.store(0, Relaxed);
        if self.is_of_connection {
            self.is_answered.store(true, Relaxed);
            // From here on it waits for the next request.
            self.moves();
        }
    }

    /// Whatever stands still until `at` waits as a route says it should, once the request has arrived to its end.
    pub fn waits_until(&self, at: Instant) {
        self.stated.store(self.since_epoch(at), Relaxed);
    }

    /// Nobody looks at the request until `at`, as a route says.
    pub fn rests_until(&self, at: Instant) {
        self.moved.store(self.since_epoch(at), Relaxed);
    }

    /// Why the request is ended, if it is.
    pub fn over(&self) -> Option<Over> {
        match self.over.load(Relaxed) {
            0 => None,
            1 => Some(Over::Idle),
            _ => Some(Over::Late),
        }
    }

    /// What `walk` comes to; `None` when the request stood still before that. Only for what [`Pulse::bound`] runs.
    pub fn poll_unless_over<F: Future>(
        &self,
        cx: &mut Context<'_>,
        walk: Pin<&mut F>,
    ) -> Poll<Option<F::Output>> {
        match self.over() {
            Some(_) => Poll::Ready(None),
            None => walk.poll(cx).map(Some),
        }
    }

    /// Runs `work`, which carries the request. When the request is [over](Self::over), `work` is run once more, so that it
    /// may tell the client, and given up if that does not end it: then nothing is returned.
    pub async fn bound<F: Future>(&self, mut work: Pin<&mut F>) -> Option<F::Output> {
        let mut timer = pin!(sleep_until(self.epoch));
        let mut armed = None;
        poll_fn(|cx| self.poll_bound(cx, work.as_mut(), timer.as_mut(), &mut armed)).await
    }

    fn poll_bound<F: Future>(
        &self,
        cx: &mut Context<'_>,
        mut work: Pin<&mut F>,
        mut timer: Pin<&mut Sleep>,
        armed: &mut Option<Instant>,
    ) -> Poll<Option<F::Output>> {
        loop {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if self.over().is_some() {
                return Poll::Ready(None);
            }
            let over = ready!(self.poll_over(cx, timer.as_mut(), armed));
            self.over.store(over as u8, Relaxed);
        }
    }

    /// Ready when the request is to be ended. The timer is set anew only where it would fire too late, and when it has
    /// fired.
    fn poll_over(
        &self,
        cx: &mut Context<'_>,
        mut timer: Pin<&mut Sleep>,
        armed: &mut Option<Instant>,
    ) -> Poll<Over> {
        loop {
            let Some((due, over)) = self.due() else { return Poll::Pending };
            if armed.is_none_or(|armed| due < armed) {
                timer.as_mut().reset(due);
                *armed = Some(due);
            }
            ready!(timer.as_mut().poll(cx));
            *armed = None;
            if due <= Instant::now() {
                return Poll::Ready(over);
            }
        }
    }

    /// When the request is to be ended, or the connection that waits for one, as far as is known now, and why.
    fn due(&self) -> Option<(Instant, Over)> {
        let (is_whole, is_answered) = (self.is_whole(), self.is_answered.load(Relaxed));
        let idle = match (is_whole, is_answered) {
            (true, true) => Some(IDLE_DEADLINE),
            // Whoever owes the rest of a request that is answered is not waited for any longer.
            (false, true) => self.idle.or(Some(IDLE_DEADLINE)),
            (_, false) => self.idle,
        };
        let stated = if is_whole { self.stated.load(Relaxed) } else { 0 };
        let moved = self.moved.load(Relaxed).max(stated);
        let idle = idle.map(|idle| (self.epoch + Duration::from_nanos(moved) + idle, Over::Idle));
        let deadline = match self.deadline.load(Relaxed) {
            NEVER => None,
            nanos => Some((self.epoch + Duration::from_nanos(nanos), Over::Late)),
        };
        // Of two at the same time the first.
        deadline.into_iter().chain(idle).min_by_key(|(at, _)| *at)
    }

    /// What is over five centuries away never comes.
    fn since_epoch(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(NEVER)
    }
}

/// Runs each stream of an HTTP/2 connection on a task of its own, which ends with the stream's [`Pulse`].
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    /// How long a stream may stand still; `None` is for ever.
    pub idle: Option<Duration>,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let pulse = Arc::new(Pulse::of_request(self.idle));
        let timer = sleep_until(pulse.epoch);
        let stream = OF_STREAM.scope(pulse.clone(), stream);
        tokio::spawn(Stream { stream, timer, armed: None, pulse });
    }
}

pin_project! {
    /// The task of a stream: [`Pulse::bound`], which would keep room for a stream twice, and it is large.
    struct Stream<F> {
        #[pin]
        stream: TaskLocalFuture<Arc<Pulse>, F>,
        #[pin]
        timer: Sleep,
        armed: Option<Instant>,
        pulse: Arc<Pulse>,
    }
}

impl<F: Future<Output = ()>> Future for Stream<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        this.pulse.poll_bound(cx, this.stream, this.timer, this.armed).map(drop)
    }
}

#[cfg(test)]
mod tests;
