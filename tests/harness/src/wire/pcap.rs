//! The classic pcap file: written as packets come, read back one record at a time.

use std::{
    fs::File,
    io::{BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};

/// Longest packet kept, in bytes; segmentation offload makes them of up to 64 KiB and some.
pub(super) const PACKET_MAX: usize = 256 * 1024;

/// Length of the file header.
pub(super) const HEADER: u64 = 24;

const MAGIC: u32 = 0xa1b2_c3d4;
const ETHERNET: u32 = 1;
const RECORD_HEADER: usize = 16;

/// Appends packets to a new file.
pub(super) struct Writer {
    file: BufWriter<File>,
    written: u64,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        // Version 2.4, no time zone, no accuracy.
        let words = [MAGIC, 2 | 4 << 16, 0, 0, PACKET_MAX as u32, ETHERNET];
        for word in words {
            file.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { file, written: HEADER })
    }

    /// Adds a packet of which `frame` is the kept part and `length` the whole.
    pub(super) fn add(&mut self, frame: &[u8], length: usize) -> Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = u32::try_from(now.as_secs()).unwrap_or(u32::MAX);
        for word in [seconds, now.subsec_micros(), u32::try_from(frame.len())?, u32::try_from(length)?] {
            self.file.write_all(&word.to_le_bytes())?;
        }
        self.file.write_all(frame)?;
        self.written += (RECORD_HEADER + frame.len()) as u64;
        Ok(())
    }

    /// Makes everything so far visible to readers, and says how long the file is.
    pub(super) fn flush(&mut self) -> Result<u64> {
        self.file.flush()?;
        Ok(self.written)
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }
}

/// Calls `each` with every packet between two offsets of a file, until it returns false.
pub(super) fn read(path: &Path, from: u64, to: u64, mut each: impl FnMut(&[u8]) -> bool) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic)?;
    ensure!(u32::from_le_bytes(magic) == MAGIC, "{} is not a pcap file of ours", path.display());
    file.seek(SeekFrom::Start(from.max(HEADER)))?;
    let mut input = BufReader::with_capacity(1 << 20, file.take(to.saturating_sub(from.max(HEADER))));
    let (mut header, mut frame) = ([0; RECORD_HEADER], Vec::new());
    loop {
        match input.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error).context("read a pcap record"),
        }
        let kept = u32::from_le_bytes([header[8], header[9], header[10], header[11]]) as usize;
        ensure!(kept <= PACKET_MAX, "a pcap record of {kept} bytes");
        frame.resize(kept, 0);
        input.read_exact(&mut frame).context("read a packet")?;
        if !each(&frame) {
            return Ok(());
        }
    }
}
