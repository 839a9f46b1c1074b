//! Counts the messages in a stream of gRPC, whose length prefixes may be cut anywhere. Pure.

/// Bytes in front of each message: whether it is compressed, and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: u8 = 5;

/// How far a stream of messages has been read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Messages {
    /// Bytes of a prefix that were read.
    prefix: u8,
    /// The length, as far as it was read.
    length: u32,
    /// Bytes of a message that are still to come.
    left: u32,
}

impl Messages {
    /// Reads on, and returns how many messages have begun within `data`.
    pub(super) fn read(&mut self, mut data: &[u8]) -> u64 {
        let mut begun = 0;
        while !data.is_empty() {
            if self.left > 0 {
                let skipped = data.len().min(self.left as usize);
                data = &data[skipped..];
                self.left -= skipped as u32;
                continue;
            }
            self.prefix += 1;
            if self.prefix > 1 {
                self.length = self.length << 8 | u32::from(data[0]);
            }
            data = &data[1..];
            if self.prefix == PREFIX_BYTES {
                *self = Self { left: self.length, ..Self::default() };
                begun += 1;
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_wherever_the_stream_is_cut() {
        let mut stream = Vec::new();
        for length in [0u32, 1, 300, 0, 70_000] {
            stream.push(0);
            stream.extend_from_slice(&length.to_be_bytes());
            stream.resize(stream.len() + length as usize, 0xff);
        }
        for size in [1, 2, 3, 5, 7, 4096, stream.len()] {
            let mut messages = Messages::default();
            let begun: u64 = stream.chunks(size).map(|chunk| messages.read(chunk)).sum();
            assert_eq!(begun, 5, "in pieces of {size}");
            assert_eq!(messages, Messages::default());
        }
    }

    #[test]
    fn what_is_no_stream_of_messages_is_read_to_its_end() {
        let mut messages = Messages::default();
        assert_eq!(messages.read(&[0xff; 1000]), 1);
        assert_eq!(messages.read(&[0xff; 1000]), 0);
    }
}
