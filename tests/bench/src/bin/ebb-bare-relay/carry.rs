//! Carries bytes between a plain connection and one in TLS, or between two in TLS.
//!
//! Copies no byte that it need not: what is read goes into TLS from one buffer for all connections, and what TLS has decrypted
//! is written from where it stands.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, tcp::ReadHalf},
};

/// Four records of TLS: as much as `rustls` takes at once, and best for bulk (one record at a time costs a seventh more CPU).
const BUFFER_BYTES: usize = 4 * 16_384;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; BUFFER_BYTES]);
}

/// Carries both ways until both have ended or one failed.
pub(crate) async fn carry(
    mut plain: TcpStream,
    mut tls: impl AsyncBufRead + AsyncWrite + Unpin,
) -> io::Result<()> {
    let (mut from, mut to) = plain.split();
    let (mut up, mut down) = (Up { ended: false, done: false }, Down { done: false });
    poll_fn(|cx| {
        let up = up.poll(cx, &mut from, &mut tls)?;
        let down = down.poll(cx, &mut tls, &mut to)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// The same between two connections in TLS.
pub(crate) async fn carry_on<A, B>(mut near: A, mut far: B) -> io::Result<()>
where
    A: AsyncBufRead + AsyncWrite + Unpin,
    B: AsyncBufRead + AsyncWrite + Unpin,
{
    let (mut there, mut back) = (Down { done: false }, Down { done: false });
    poll_fn(|cx| {
        let there = there.poll(cx, &mut near, &mut far)?;
        let back = back.poll(cx, &mut far, &mut near)?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await
}

/// From plain to TLS.
struct Up {
    ended: bool,
    done: bool,
}

impl Up {
    fn poll<T: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut ReadHalf<'_>,
        tls: &mut T,
    ) -> Poll<io::Result<()>> {
        while !self.done {
            if self.ended {
                ready!(Pin::new(&mut *tls).poll_shutdown(cx))?;
                self.done = true;
                break;
            }
            // Empty, it takes a whole buffer at once, so that none has to be kept for this connection.
            ready!(Pin::new(&mut *tls).poll_flush(cx))?;
            self.ended = ready!(BUFFER.with_borrow_mut(|buffer| {
                let mut space = ReadBuf::new(buffer);
                ready!(Pin::new(&mut *from).poll_read(cx, &mut space))?;
                let read = space.filled();
                if read.is_empty() {
                    return Poll::Ready(Ok(true));
                }
                match Pin::new(&mut *tls).poll_write(cx, read)? {
                    Poll::Ready(taken) if taken == read.len() => Poll::Ready(Ok(false)),
                    _ => Poll::Ready(Err(io::Error::other("TLS took less than it has room for"))),
                }
            }))?;
        }
        Poll::Ready(Ok(()))
    }
}

/// From TLS to plain, or on in TLS.
struct Down {
    done: bool,
}

impl Down {
    fn poll<T: AsyncBufRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        tls: &mut T,
        to: &mut W,
    ) -> Poll<io::Result<()>> {
        while !self.done {
            let Poll::Ready(record) = Pin::new(&mut *tls).poll_fill_buf(cx)? else {
                // What TLS has taken may not have left yet.
                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                return Poll::Pending;
            };
            if record.is_empty() {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                self.done = true;
                break;
            }
            let written = ready!(Pin::new(&mut *to).poll_write(cx, record))?;
            Pin::new(&mut *tls).consume(written);
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, BufStream, duplex},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn an_end_is_passed_on_while_the_other_way_lasts() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (plain, _) = listener.accept().await.unwrap();
        let (tls, mut far) = duplex(4 * BUFFER_BYTES);
        let carried = tokio::spawn(carry(plain, BufStream::new(tls)));
        let (question, mut asked) = (vec![7; 2 * BUFFER_BYTES], Vec::new());
        near.write_all(&question).await.unwrap();
        near.shutdown().await.unwrap();
        far.read_to_end(&mut asked).await.unwrap();
        assert!(asked == question);
        let mut answer = String::new();
        far.write_all(b"answer").await.unwrap();
        drop(far);
        near.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        carried.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_one_side_says_the_other_hears_through_two_in_tls() {
        let ((mut near, one), (other, mut far)) = (duplex(BUFFER_BYTES), duplex(1000));
        let carried = tokio::spawn(carry_on(BufStream::new(one), BufStream::new(other)));
        let question: Vec<u8> = (0..BUFFER_BYTES).map(|byte| byte.to_le_bytes()[0]).collect();
        near.write_all(&question).await.unwrap();
        near.shutdown().await.unwrap();
        let mut asked = Vec::new();
        far.read_to_end(&mut asked).await.unwrap();
        assert!(asked == question);
        far.write_all(b"answer").await.unwrap();
        drop(far);
        let mut answer = String::new();
        near.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "answer");
        carried.await.unwrap().unwrap();
    }
}
