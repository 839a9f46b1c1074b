//! A gRPC service of four shapes of call, and a client for each, without generated code.
//!
//! A note's text is what is asked for: `fail:CODE` that status, `hang` no answer before the call is withdrawn,
//! `flaky:KEY:N` UNAVAILABLE for the first N calls with that key; anything else is sent back.

pub(crate) mod client;
pub(crate) mod server;

use bytes::Buf;
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// What is said in either direction.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Note {
    /// What is asked for, or sent back.
    #[prost(string, tag = "1")]
    pub(crate) text: String,
    /// A number to add up.
    #[prost(uint64, tag = "2")]
    pub(crate) number: u64,
    /// Filling.
    #[prost(bytes = "vec", tag = "3")]
    pub(crate) payload: Vec<u8>,
}

/// How notes are written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Notes;

impl Codec for Notes {
    type Encode = Note;
    type Decode = Note;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Notes {
    type Item = Note;
    type Error = Status;

    fn encode(&mut self, note: Note, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(note.encoded_len());
        note.encode(buffer).map_err(|error| Status::internal(error.to_string()))
    }
}

impl Decoder for Notes {
    type Item = Note;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Note>, Status> {
        let whole = buffer.copy_to_bytes(buffer.remaining());
        Note::decode(whole).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}
