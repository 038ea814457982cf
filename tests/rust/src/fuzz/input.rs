//! Bytes as a program.

/// Bytes, read from front to back. Past the end there are zeros, so that no program is cut short
/// in the middle of a step.
///
/// Numbers are little-endian and lists come without lengths: what a byte means does not depend on
/// what follows it, so that a fuzzer can cut and paste, and a person can write a program by hand.
#[derive(Debug)]
pub(super) struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    pub(super) fn is_over(&self) -> bool {
        self.rest.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let (now, later) = self.rest.split_at(N.min(self.rest.len()));
        self.rest = later;
        let mut bytes = [0; N];
        bytes[..now.len()].copy_from_slice(now);
        bytes
    }

    pub(super) fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(super) fn word(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(super) fn double(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// One of these, by one byte.
    pub(super) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::from(self.byte()) % choices.len()]
    }
}
