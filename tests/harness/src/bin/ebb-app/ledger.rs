//! Numbered, checksummed records over TCP, so that both ends can say exactly what arrived.
//!
//! The payload follows from flow and number, so even half a record can be told from a wrong one. A receiver prints a receipt
//! for each connection, however it ended, and sends it back when the stream ended in good order.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::Result;
use clap::Args;
use harness::report::{Failure, FailureKind, Receipt, Sent};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    conclude,
    net::{connect, failed, protocol, timed},
    tcp::BULK,
};

/// Magic, flow, number, payload length, checksum.
const HEADER: usize = 4 + 4 + 8 + 4 + 4;

const MAGIC: u32 = 0x0ebb_1ed6;

/// Longest payload of a record, in bytes.
const PAYLOAD_MAX: u32 = 1 << 20;

/// Longest receipt read back, in bytes.
const RECEIPT_MAX: u64 = 4096;

#[derive(Args)]
pub(crate) struct Flags {
    /// A `tcp-sink --ledger`
    to: SocketAddr,
    /// Number of this flow
    #[arg(long, default_value_t = 1)]
    flow: u32,
    /// Records to send
    #[arg(long, default_value_t = 1000)]
    records: u64,
    /// Payload bytes per record
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(..=i64::from(PAYLOAD_MAX)))]
    size: u32,
    /// Pause between records, in microseconds
    #[arg(long, default_value_t = 0)]
    interval_us: u64,
    /// Longest any one step may take, in milliseconds
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
}

/// Sends the records and waits for the receipt.
pub(crate) async fn send(flags: Flags) -> Result<ExitCode> {
    let mut sent = Sent { flow: flags.flow, records: 0, receipt: None, failure: None, connected: false };
    sent.failure = exchange(&flags, &mut sent).await.err();
    conclude(&sent, sent.failure.is_none())
}

async fn exchange(flags: &Flags, sent: &mut Sent) -> Result<(), Failure> {
    let step = Duration::from_millis(flags.timeout_ms);
    let mut stream = connect(flags.to, step).await?;
    sent.connected = true;
    let mut record = Vec::with_capacity(HEADER + flags.size as usize);
    let mut due = Instant::now();
    while sent.records < flags.records {
        encode(flags.flow, sent.records, flags.size, &mut record);
        timed(step, stream.write_all(&record)).await?;
        sent.records += 1;
        if flags.interval_us > 0 {
            due += Duration::from_micros(flags.interval_us);
            sleep_until(due).await;
        }
    }
    timed(step, stream.shutdown()).await?;
    let mut answer = Vec::new();
    timed(step, stream.take(RECEIPT_MAX).read_to_end(&mut answer)).await?;
    if answer.is_empty() {
        return Err(Failure { kind: FailureKind::Closed, detail: "no receipt".into() });
    }
    sent.receipt = Some(serde_json::from_slice(&answer).map_err(|error| protocol(error.to_string()))?);
    Ok(())
}

/// Receives one flow, prints its receipt and, when the stream ended in good order, sends it back.
pub(crate) async fn receive(mut stream: TcpStream) {
    let mut receiver = Receiver::default();
    let end = receiver.run(&mut stream).await;
    receiver.receipt.failure = end.as_ref().err().cloned();
    receiver.finish();
    let Ok(text) = serde_json::to_string(&receiver.receipt) else { return };
    println!("{text}");
    if end.is_ok() {
        // The sender reports a receipt that does not arrive.
        let _ = timeout(Duration::from_secs(10), async {
            stream.write_all(text.as_bytes()).await?;
            stream.shutdown().await
        })
        .await;
    }
}

#[derive(Default)]
struct Receiver {
    receipt: Receipt,
    /// Bytes of records not yet whole.
    pending: Vec<u8>,
    expected: Vec<u8>,
}

impl Receiver {
    async fn run(&mut self, stream: &mut TcpStream) -> Result<(), Failure> {
        let mut buffer = vec![0; BULK];
        loop {
            match stream.read(&mut buffer).await.map_err(|error| failed(&error))? {
                0 => return Ok(()),
                length => self.pending.extend_from_slice(&buffer[..length]),
            }
            self.take_records()?;
        }
    }

    fn take_records(&mut self) -> Result<(), Failure> {
        let mut at = 0;
        while let Some(header) = self.pending[at..].first_chunk::<HEADER>() {
            let header = Header::parse(header);
            if header.magic != MAGIC || header.length > PAYLOAD_MAX {
                return Err(self.corrupt("a record does not begin where the one before ends"));
            }
            let Some(record) = self.pending[at..].get(..HEADER + header.length as usize) else { break };
            encode(header.flow, header.number, header.length, &mut self.expected);
            if record != self.expected || self.receipt.flow.is_some_and(|flow| flow != header.flow) {
                return Err(self.corrupt("a record has wrong bytes"));
            }
            at += record.len();
            self.account(header);
        }
        self.pending.drain(..at);
        Ok(())
    }

    fn account(&mut self, header: Header) {
        let receipt = &mut self.receipt;
        let next = receipt.last.map_or(0, |last| last + 1);
        receipt.flow = Some(header.flow);
        receipt.first.get_or_insert(header.number);
        if header.number < next {
            receipt.duplicates += 1;
            return;
        }
        receipt.holes += header.number - next;
        receipt.last = Some(header.number);
        receipt.records += 1;
    }

    fn corrupt(&mut self, why: &str) -> Failure {
        self.receipt.corrupt += 1;
        protocol(why)
    }

    /// Judges what is left: it must be the beginning of the next record.
    fn finish(&mut self) {
        if self.receipt.corrupt > 0 {
            return;
        }
        self.receipt.partial_bytes = self.pending.len() as u64;
        let Some(header) = self.pending.first_chunk::<HEADER>() else {
            let magic = MAGIC.to_be_bytes();
            let known = self.pending.len().min(magic.len());
            self.receipt.corrupt += u64::from(self.pending[..known] != magic[..known]);
            return;
        };
        let header = Header::parse(header);
        encode(header.flow, header.number, header.length, &mut self.expected);
        self.receipt.corrupt += u64::from(!self.expected.starts_with(&self.pending));
    }
}

struct Header {
    magic: u32,
    flow: u32,
    number: u64,
    length: u32,
}

impl Header {
    fn parse(bytes: &[u8; HEADER]) -> Self {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let number = u64::from(word(8)) << 32 | u64::from(word(12));
        Self { magic: word(0), flow: word(4), number, length: word(16) }
    }
}

/// Writes one whole record into `record`.
fn encode(flow: u32, number: u64, length: u32, record: &mut Vec<u8>) {
    record.clear();
    record.extend_from_slice(&MAGIC.to_be_bytes());
    record.extend_from_slice(&flow.to_be_bytes());
    record.extend_from_slice(&number.to_be_bytes());
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(&[0; 4]);
    let mut word = (u64::from(flow) << 32 ^ number).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let (mut left, mut sum) = (length as usize, word);
    while left > 0 {
        // SplitMix64: cheap, and different for every record.
        word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let take = left.min(8);
        record.extend_from_slice(&mixed.to_le_bytes()[..take]);
        sum = sum.rotate_left(5) ^ mixed;
        left -= take;
    }
    let checksum = (sum ^ sum >> 32) as u32;
    record[HEADER - 4..HEADER].copy_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(numbers: &[u64]) -> Vec<u8> {
        let mut record = Vec::new();
        let mut all = Vec::new();
        for number in numbers {
            encode(3, *number, 100, &mut record);
            all.extend_from_slice(&record);
        }
        all
    }

    fn receipt_of(bytes: &[u8]) -> Receipt {
        let mut receiver = Receiver { pending: bytes.to_vec(), ..Receiver::default() };
        receiver.receipt.failure = receiver.take_records().err();
        receiver.finish();
        receiver.receipt
    }

    #[test]
    fn holes_and_duplicates_are_counted() {
        let receipt = receipt_of(&records(&[0, 1, 1, 4, 2]));
        assert_eq!((receipt.records, receipt.holes, receipt.duplicates, receipt.corrupt), (3, 2, 2, 0));
        assert_eq!((receipt.first, receipt.last), (Some(0), Some(4)));
    }

    #[test]
    fn a_stream_cut_anywhere_is_an_exact_prefix() {
        let whole = records(&[0, 1]);
        for end in 0..=whole.len() {
            let receipt = receipt_of(&whole[..end]);
            assert!(receipt.is_exact_prefix(), "cut at {end}: {receipt:?}");
            assert_eq!(receipt.records, (end / 124) as u64);
            assert_eq!(receipt.partial_bytes, (end % 124) as u64);
        }
    }

    #[test]
    fn one_wrong_bit_anywhere_is_noticed_whether_or_not_the_record_is_whole() {
        for end in [110, 124, 200] {
            let whole = records(&[0, 1]);
            for at in 0..end {
                let mut bytes = whole[..end].to_vec();
                bytes[at] ^= 0x10;
                // A wrong length may make the rest look like the beginning of a longer record with other payload.
                assert!(!receipt_of(&bytes).is_exact_prefix(), "bit at {at} of {end}");
            }
        }
    }
}
