//! A request's body of which the beginning may have been read already, for somebody who had to see it first.
//!
//! What was read is handed on like any other part of the body. One that was not looked at costs nothing.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::authorizer::Seen;
use crate::serve::pulse::Pulse;

/// Bytes that all requests of the process hold for authorizers to see; beyond, a request is refused.
pub const SHOWN_BODIES_BYTES: usize = 64 << 20;
/// What is held now.
static SHOWN: AtomicUsize = AtomicUsize::new(0);

/// The body of a request.
#[derive(Debug)]
pub struct Inbound<B = Incoming> {
    rest: B,
    shown: Option<Box<Shown>>,
}

/// What was read of it.
#[derive(Debug)]
struct Shown {
    bytes: BytesMut,
    trailers: Option<HeaderMap>,
    /// Nothing comes behind it.
    is_whole: bool,
    room: Room,
}

/// Room for what is held.
#[derive(Debug)]
struct Room(usize);

impl Room {
    /// Makes room for more; false when there is none.
    fn grow(&mut self, bytes: usize) -> bool {
        let fits = |held: usize| held.checked_add(bytes).filter(|sum| *sum <= SHOWN_BODIES_BYTES);
        let has_grown = SHOWN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).is_ok();
        self.0 += if has_grown { bytes } else { 0 };
        has_grown
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        SHOWN.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Why a body cannot be shown.
#[derive(Debug)]
pub enum Hidden {
    /// There is no room for it.
    NoRoom,
    /// Its client broke it off.
    Broken,
}

impl<B> From<B> for Inbound<B> {
    fn from(rest: B) -> Self {
        Self { rest, shown: None }
    }
}

impl<B> Inbound<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Its first `most` bytes, once they have arrived; what arrives tells `pulse`.
    ///
    /// # Errors
    /// [`Hidden`], and then there may be less of it than there was.
    pub async fn show(&mut self, most: usize, pulse: &Pulse) -> Result<Seen, Hidden> {
        let shown = match &mut self.shown {
            Some(shown) => shown,
            None => {
                let is_whole = self.rest.is_end_stream();
                let bytes = BytesMut::new();
                self.shown.insert(Box::new(Shown { bytes, trailers: None, is_whole, room: Room(0) }))
            }
        };
        while shown.bytes.len() <= most && !shown.is_whole {
            let frame = self.rest.frame().await;
            pulse.moves();
            match frame {
                None => shown.is_whole = true,
                Some(Err(_)) => return Err(Hidden::Broken),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) if !shown.room.grow(data.len()) => return Err(Hidden::NoRoom),
                    Ok(data) => shown.bytes.extend_from_slice(&data),
                    Err(frame) => {
                        shown.trailers = frame.into_trailers().ok();
                        shown.is_whole = true;
                    }
                },
            }
        }
        let is_partial = shown.bytes.len() > most || !shown.is_whole;
        let bytes = Bytes::copy_from_slice(&shown.bytes[..shown.bytes.len().min(most)]);
        Ok(Seen { bytes, is_partial })
    }
}

impl<B> Body for Inbound<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(shown) = &mut self.shown {
            if !shown.bytes.is_empty() {
                let bytes = std::mem::take(&mut shown.bytes).freeze();
                shown.room = Room(0);
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if let Some(trailers) = shown.trailers.take() {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
            if shown.is_whole {
                return Poll::Ready(None);
            }
        }
        Pin::new(&mut self.rest).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        match &self.shown {
            None => self.rest.is_end_stream(),
            Some(shown) => {
                let is_read = shown.bytes.is_empty() && shown.trailers.is_none();
                is_read && (shown.is_whole || self.rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let Some(shown) = &self.shown else { return self.rest.size_hint() };
        let held = shown.bytes.len() as u64;
        if shown.is_whole {
            return SizeHint::with_exact(held);
        }
        let rest = self.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + held);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + held);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    fn body(
        pieces: &[&'static str],
    ) -> Inbound<impl Body<Data = Bytes, Error = std::io::Error> + Unpin + use<>> {
        let frames: Vec<_> =
            pieces.iter().map(|it| Ok(Frame::data(Bytes::from_static(it.as_bytes())))).collect();
        Inbound::from(StreamBody::new(futures_util::stream::iter(frames)))
    }

    #[tokio::test]
    async fn what_was_shown_is_handed_on_with_the_rest() {
        for (most, seen, is_partial) in [
            (1, "o", true),
            (3, "one", true),
            (4, "onet", true),
            (9, "onetwofou", true),
            (10, "onetwofour", false),
        ] {
            let mut body = body(&["one", "two", "four"]);
            let pulse = Pulse::of_request(None);
            let shown = body.show(most, &pulse).await.unwrap();
            assert_eq!((&*shown.bytes, shown.is_partial), (seen.as_bytes(), is_partial), "{most}");
            assert_eq!(body.show(most, &pulse).await.unwrap(), shown, "a second one sees the same");
            assert!(!body.is_end_stream());
            assert_eq!(&*body.collect().await.unwrap().to_bytes(), b"onetwofour", "{most}");
        }
        let mut empty = body(&[]);
        let shown = empty.show(5, &Pulse::of_request(None)).await.unwrap();
        assert!(shown.bytes.is_empty() && !shown.is_partial && empty.is_end_stream());
    }

    #[tokio::test]
    async fn there_is_only_so_much_room_and_it_is_given_back() {
        // No divisor of all there is: tests that run beside this one find room in what is left.
        let large: &'static str = "x".repeat(7 << 20).leak();
        let mut bodies: Vec<_> = (0..20).map(|_| body(&[large])).collect();
        let pulse = Pulse::of_request(None);
        let mut refused = 0;
        for body in &mut bodies {
            refused += usize::from(body.show(7 << 20, &pulse).await.is_err());
        }
        assert!(refused >= 11, "{refused}");
        drop(bodies);
        assert!(body(&[large]).show(7 << 20, &pulse).await.is_ok());
    }
}
