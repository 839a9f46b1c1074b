//! HTTP/2 frame by frame on a plain connection: a client in a pod that keeps no rule.

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
};

use anyhow::{Context, Result};

use crate::hostile::{Answer, FRAME_MAX, PREFACE, status, string};

/// Kinds of frames (RFC 9113, section 6).
pub mod kind {
    /// DATA.
    pub const DATA: u8 = 0;
    /// HEADERS.
    pub const HEADERS: u8 = 1;
    /// RST_STREAM.
    pub const RESET: u8 = 3;
    /// SETTINGS.
    pub const SETTINGS: u8 = 4;
    /// PING.
    pub const PING: u8 = 6;
    /// GOAWAY.
    pub const GOAWAY: u8 = 7;
    /// WINDOW_UPDATE.
    pub const WINDOW: u8 = 8;
    /// CONTINUATION.
    pub const CONTINUATION: u8 = 9;
}

/// END_STREAM, or ACK.
pub const END_STREAM: u8 = 1;
/// END_HEADERS.
pub const END_HEADERS: u8 = 4;

/// A field of a head.
pub type Field<'a> = (&'a [u8], &'a [u8]);

/// A connection of such a client.
#[derive(Debug)]
pub struct Frames {
    stream: TcpStream,
    next: u32,
}

/// A frame that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its kind.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream.
    pub stream: u32,
    /// What is in it.
    pub payload: Vec<u8>,
}

impl Frames {
    /// Opens HTTP/2 on a connection, with its dynamic table switched off for what comes.
    ///
    /// # Errors
    /// It cannot be written to.
    pub fn open(mut stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.write_all(PREFACE)?;
        stream.write_all(&frame(kind::SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]))?;
        Ok(Self { stream, next: 1 })
    }

    /// Sends a request of exactly these fields, in as many frames as it takes, and `data`. Its stream.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn request(&mut self, fields: &[Field<'_>], data: Option<&[u8]>) -> Result<u32> {
        let stream = self.next;
        self.next += 2;
        let flags = END_HEADERS | if data.is_none() { END_STREAM } else { 0 };
        self.send(kind::HEADERS, flags, stream, &block(fields))?;
        if let Some(data) = data {
            self.send(kind::DATA, END_STREAM, stream, data)?;
        }
        Ok(stream)
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Result<()> {
        self.send_raw(&frame(kind, flags, stream, payload))
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn send_raw(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The next frame; `None` at the end of the connection, however it ends.
    ///
    /// # Errors
    /// Nothing comes in time.
    pub fn read(&mut self) -> Result<Option<Frame>> {
        let mut head = [0; 9];
        if !read_exact(&mut self.stream, &mut head)? {
            return Ok(None);
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if !read_exact(&mut self.stream, &mut payload)? {
            return Ok(None);
        }
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & 0x7fff_ffff;
        Ok(Some(Frame { kind: head[3], flags: head[4], stream, payload }))
    }

    /// What becomes of a stream: its status, a reset, or the end of the connection. SETTINGS and PINGs are answered.
    ///
    /// # Errors
    /// Nothing comes in time.
    pub fn answer(&mut self, of: u32) -> Result<Answer> {
        loop {
            let Some(frame) = self.read()? else { return Ok(Answer::Closed) };
            match frame.kind {
                kind::HEADERS if frame.stream == of => return Ok(Answer::Status(status(&frame.payload)?)),
                kind::RESET if frame.stream == of => return Ok(Answer::Reset),
                kind::GOAWAY if !frame.payload.starts_with(&[0x7f, 0xff, 0xff, 0xff]) => {
                    return Ok(Answer::Closed);
                }
                kind::SETTINGS | kind::PING if frame.flags & END_STREAM == 0 => {
                    let payload = if frame.kind == kind::PING { &frame.payload[..] } else { &[] };
                    // A connection that ends meanwhile is seen by reading.
                    let _ = self.send(frame.kind, END_STREAM, 0, payload);
                }
                _ => {}
            }
        }
    }

    /// The connection.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

/// A whole frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    debug_assert!(payload.len() <= FRAME_MAX);
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A head: every field literal, never indexed, with a name of its own (RFC 7541, section 6.2.2).
#[must_use]
pub fn block(fields: &[Field<'_>]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        string(&mut block, name);
        string(&mut block, value);
    }
    block
}

/// False at the end of the connection.
fn read_exact(stream: &mut TcpStream, buffer: &mut [u8]) -> Result<bool> {
    match stream.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Err(error).context("nothing comes")
        }
        Err(_) => Ok(false),
    }
}
