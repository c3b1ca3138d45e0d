//! Reading a header piece by piece, as far as it is looked at and no further.

use std::fmt;

use loader_core::{Error, Result, WeightFile};

use crate::error::format_error;

/// How much is read at first; most headers are longer, but a file that is refused at its first
/// bytes should cost no more than this.
const FIRST_READ: usize = 16 << 10;
/// How much is read at a time later on.
const LARGEST_READ: usize = 256 << 10;

/// A position in a header, with a window of bytes read ahead of it.
///
/// It never reads beyond its end, whatever the header claims, so that what a header makes its
/// reader allocate is bounded by bytes that are really there.
pub(crate) struct HeaderReader<'a> {
    file: &'a WeightFile,
    window: Vec<u8>,
    /// How much of the window has been taken.
    taken: usize,
    /// Where the window ends in the file.
    read_to: u64,
    end: u64,
    #[cfg(feature = "safetensors")]
    failure: Option<Error>,
}

impl<'a> HeaderReader<'a> {
    /// Reads from `start` to `end` at most.
    pub(crate) fn new(file: &'a WeightFile, start: u64, end: u64) -> Self {
        Self {
            file,
            window: Vec::new(),
            taken: 0,
            read_to: start,
            end: end.max(start),
            #[cfg(feature = "safetensors")]
            failure: None,
        }
    }

    /// Where the next byte lies, from the start of the file given.
    pub(crate) fn position(&self) -> u64 {
        self.read_to - (self.window.len() - self.taken) as u64
    }

    /// The bytes read ahead: none only at the end.
    pub(crate) fn ahead(&mut self) -> Result<&[u8]> {
        if self.taken == self.window.len() {
            let next = (self.window.len() * 2).clamp(FIRST_READ, LARGEST_READ);
            let next = usize::try_from(self.end - self.read_to).map_or(next, |left| next.min(left));
            self.taken = 0;
            self.window.clear();
            self.window.resize(next, 0);
            if let Err(error) = self.file.read_exact_at(&mut self.window, self.read_to) {
                self.window.clear();
                return Err(error);
            }
            self.read_to += next as u64;
        }
        Ok(&self.window[self.taken..])
    }

    /// Goes past `bytes` of what is ahead.
    pub(crate) fn take(&mut self, bytes: usize) {
        self.taken = (self.taken + bytes).min(self.window.len());
    }

    /// An error at the next byte.
    pub(crate) fn error(&self, message: impl fmt::Display) -> Error {
        format_error(self.file, self.position(), message)
    }

    /// The error behind an `io::Error` that this reader gave as a `Read`, if it did.
    #[cfg(feature = "safetensors")]
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failure.take()
    }
}

impl HeaderReader<'_> {
    /// Bytes left before the end.
    pub(crate) fn remaining(&self) -> u64 {
        self.end - self.position()
    }

    /// An error at a byte passed before.
    pub(crate) fn error_at(&self, offset: u64, message: impl fmt::Display) -> Error {
        format_error(self.file, offset, message)
    }

    /// The next `len` bytes, none of them allocated for before it is known that they are there.
    pub(crate) fn bytes(&mut self, len: u64) -> Result<Vec<u8>> {
        self.expect(len)?;
        let mut bytes = Vec::new();
        let mut left = len;
        while left > 0 {
            let ahead = self.ahead()?;
            let piece = usize::try_from(left).map_or(ahead.len(), |left| left.min(ahead.len()));
            bytes.extend_from_slice(&ahead[..piece]);
            self.take(piece);
            left -= piece as u64;
        }
        Ok(bytes)
    }

    /// Fails unless `len` bytes are left.
    pub(crate) fn expect(&self, len: u64) -> Result<()> {
        let remaining = self.remaining();
        if len <= remaining {
            return Ok(());
        }
        let file_len = self.file.len();
        Err(if self.end < file_len {
            self.error(format_args!(
                "the header is longer than the limit of {} bytes ({len} more are claimed)",
                self.end
            ))
        } else {
            self.error(format_args!(
                "{len} more bytes of header are claimed, the file ends after {remaining}; was it cut short?"
            ))
        })
    }
}

#[cfg(feature = "gguf")]
impl HeaderReader<'_> {
    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        self.expect(N as u64)?;
        let mut filled = 0;
        while filled < N {
            let ahead = self.ahead()?;
            let piece = ahead.len().min(N - filled);
            array[filled..filled + piece].copy_from_slice(&ahead[..piece]);
            self.take(piece);
            filled += piece;
        }
        Ok(array)
    }

    /// Goes past `len` bytes without reading those that are not read yet.
    pub(crate) fn skip(&mut self, len: u64) -> Result<()> {
        self.expect(len)?;
        let ahead = (self.window.len() - self.taken) as u64;
        match usize::try_from(len) {
            Ok(bytes) if len <= ahead => self.taken += bytes,
            _ => {
                self.read_to += len - ahead;
                self.taken = self.window.len();
            }
        }
        Ok(())
    }
}

#[cfg(feature = "safetensors")]
impl std::io::Read for HeaderReader<'_> {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        // serde_json reads byte by byte, so that this reader's position is the parser's.
        if let ([place], Some(&byte)) = (&mut *buffer, self.window.get(self.taken)) {
            *place = byte;
            self.taken += 1;
            return Ok(1);
        }
        self.read_ahead(buffer)
    }
}

#[cfg(feature = "safetensors")]
impl HeaderReader<'_> {
    #[cold]
    fn read_ahead(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.ahead() {
            Ok(ahead) => {
                let len = ahead.len().min(buffer.len());
                buffer[..len].copy_from_slice(&ahead[..len]);
                self.take(len);
                Ok(len)
            }
            Err(error) => {
                self.failure = Some(error);
                Err(std::io::Error::other("see the error kept"))
            }
        }
    }
}
