//! Copies between memory of our own and memory that others access at the same time.
//!
//! Threads of this process may race on payload (the software device is one of them), and a plain
//! copy would then be undefined. Each copy here behaves as one relaxed atomic access for each
//! byte of the shared side, in any order: what is written meanwhile may come out torn between any
//! two bytes, and nothing worse. Order against other accesses comes from `crate::fence` alone.
//!
//! Bytes are `AtomicU8`. Words and long runs are assembly, because the language has no wide access
//! that is defined to be made of atomic bytes, while the processor's are: every single-byte part
//! of a load or store of either architecture, aligned or not, is indivisible. An `asm!` block may
//! do what such a sequence of atomic accesses may.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

const WORD: usize = size_of::<u64>();

/// Bytes that one round of `block_copy` moves.
#[cfg(target_arch = "x86_64")]
const BLOCK: usize = 64;

/// From these lengths on a string instruction is worth its start (10 to 20 ns, measured).
#[cfg(target_arch = "x86_64")]
const STRING_COPY_MIN: usize = 2048;
#[cfg(target_arch = "x86_64")]
const STRING_FILL_MIN: usize = 256;

/// Eight atomic bytes, loaded at once.
///
/// # Safety
/// `from` is valid for reads of 8 bytes that nobody accesses other than atomically.
#[inline(always)]
unsafe fn load_word(from: *const u8) -> u64 {
    let word: u64;
    // SAFETY: one load, of bytes that the caller vouches for; no stack, no flags.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov {}, qword ptr [{}]", out(reg) word, in(reg) from,
            options(nostack, preserves_flags, readonly));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("ldr {:x}, [{:x}]", out(reg) word, in(reg) from,
            options(nostack, preserves_flags, readonly));
    }
    word
}

/// Eight atomic bytes, stored at once.
///
/// # Safety
/// `to` is valid for writes of 8 bytes that nobody accesses other than atomically.
#[inline(always)]
unsafe fn store_word(to: *mut u8, word: u64) {
    // SAFETY: one store, to bytes that the caller vouches for; no stack, no flags.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov qword ptr [{}], {}", in(reg) to, in(reg) word,
            options(nostack, preserves_flags));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("str {:x}, [{:x}]", in(reg) word, in(reg) to,
            options(nostack, preserves_flags));
    }
}

/// One atomic byte.
///
/// # Safety
/// `byte` is valid for reads and writes of a byte that nobody accesses other than atomically.
#[inline(always)]
unsafe fn atomic<'a>(byte: *mut u8) -> &'a AtomicU8 {
    // SAFETY: as the caller vouches; a byte is always aligned.
    unsafe { AtomicU8::from_ptr(byte) }
}

/// Copy `out.len()` bytes from shared memory.
///
/// # Safety
/// `from` is valid for reads of that many bytes, in memory that may be written meanwhile, but by
/// Rust code of this process only atomically.
#[inline(always)]
pub unsafe fn read(from: *const u8, out: &mut [u8]) {
    // SAFETY: as the caller vouches for `from`; `out` is ours alone, so the two do not overlap.
    let done = unsafe { bulk_copy(from, out.as_mut_ptr(), out.len()) };
    // SAFETY: at most all of the bytes are done.
    let from = unsafe { from.add(done) };
    let (words, bytes) = out.get_mut(done..).unwrap_or_default().as_chunks_mut::<WORD>();
    let tail = words.len() * WORD;
    for (index, word) in words.iter_mut().enumerate() {
        // SAFETY: inside the bytes that the caller vouches for.
        *word = unsafe { load_word(from.add(index * WORD)) }.to_ne_bytes();
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        // SAFETY: as above; the atomic is only read.
        *byte = unsafe { atomic(from.add(tail + index).cast_mut()) }.load(Relaxed);
    }
}

/// Copy `data` to shared memory.
///
/// # Safety
/// `to` is valid for writes of `data.len()` bytes, in memory that may be accessed meanwhile, but by
/// Rust code of this process only atomically.
#[inline(always)]
pub unsafe fn write(to: *mut u8, data: &[u8]) {
    // SAFETY: as the caller vouches for `to`; nobody writes `data`, so the two do not overlap.
    let done = unsafe { bulk_copy(data.as_ptr(), to, data.len()) };
    // SAFETY: at most all of the bytes are done.
    let to = unsafe { to.add(done) };
    let (words, bytes) = data.get(done..).unwrap_or_default().as_chunks::<WORD>();
    let tail = words.len() * WORD;
    for (index, word) in words.iter().enumerate() {
        // SAFETY: inside the bytes that the caller vouches for.
        unsafe { store_word(to.add(index * WORD), u64::from_ne_bytes(*word)) };
    }
    for (index, &byte) in bytes.iter().enumerate() {
        // SAFETY: as above.
        unsafe { atomic(to.add(tail + index)) }.store(byte, Relaxed);
    }
}

/// Eight bytes of shared memory, as a number.
///
/// # Safety
/// As for [`read`], of 8 bytes.
#[inline(always)]
pub unsafe fn read_8(from: *const u8) -> u64 {
    // SAFETY: as the caller vouches.
    unsafe { load_word(from) }
}

/// Four bytes of shared memory, as a number.
///
/// # Safety
/// As for [`read`], of 4 bytes.
#[inline(always)]
pub unsafe fn read_4(from: *const u8) -> u32 {
    let word: u32;
    // SAFETY: one load, of bytes that the caller vouches for; no stack, no flags.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov {:e}, dword ptr [{}]", out(reg) word, in(reg) from,
            options(nostack, preserves_flags, readonly));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("ldr {:w}, [{:x}]", out(reg) word, in(reg) from,
            options(nostack, preserves_flags, readonly));
    }
    word
}

/// Store a number as four bytes of shared memory.
///
/// # Safety
/// As for [`write`], of 4 bytes.
#[inline(always)]
pub unsafe fn write_4(to: *mut u8, word: u32) {
    // SAFETY: one store, to bytes that the caller vouches for; no stack, no flags.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        std::arch::asm!("mov dword ptr [{}], {:e}", in(reg) to, in(reg) word,
            options(nostack, preserves_flags));
        #[cfg(target_arch = "aarch64")]
        std::arch::asm!("str {:w}, [{:x}]", in(reg) word, in(reg) to,
            options(nostack, preserves_flags));
    }
}

/// Set `length` bytes of shared memory to one value.
///
/// # Safety
/// As for [`write`].
pub unsafe fn fill(to: *mut u8, length: usize, byte: u8) {
    #[cfg(target_arch = "x86_64")]
    if length >= STRING_FILL_MIN {
        // SAFETY: as the caller vouches for `to`.
        return unsafe { string_fill(to, length, byte) };
    }
    let tail = length / WORD * WORD;
    for offset in (0..tail).step_by(WORD) {
        // SAFETY: inside the bytes that the caller vouches for.
        unsafe { store_word(to.add(offset), u64::from_ne_bytes([byte; WORD])) };
    }
    for offset in tail..length {
        // SAFETY: as above.
        unsafe { atomic(to.add(offset)) }.store(byte, Relaxed);
    }
}

/// Copy what words would be slow for, from the start on; how many bytes that was.
///
/// # Safety
/// `from` and `to` are valid for `length` bytes and do not overlap; others may access either, but
/// Rust code of this process only atomically.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
unsafe fn bulk_copy(from: *const u8, to: *mut u8, length: usize) -> usize {
    if length < BLOCK {
        return 0;
    }
    if length >= STRING_COPY_MIN {
        // SAFETY: as the caller vouches.
        unsafe { string_copy(from, to, length) };
        return length;
    }
    let done = length / BLOCK * BLOCK;
    // SAFETY: as the caller vouches; it is at least one whole block.
    unsafe { block_copy(from, to, done) };
    done
}

/// # Safety
/// None: it does nothing.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
unsafe fn bulk_copy(_from: *const u8, _to: *mut u8, _length: usize) -> usize {
    0
}

/// # Safety
/// As for `bulk_copy`; `length` is a multiple of BLOCK, and not 0.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn block_copy(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: each round loads and stores the next BLOCK bytes, of which there are `length` in
    // all. However wide an access is, its bytes are indivisible, so it does what that many relaxed
    // AtomicU8 loads and stores may do.
    unsafe {
        std::arch::asm!(
            "2:",
            "movups {a}, [{from}]",
            "movups {b}, [{from} + 16]",
            "movups {c}, [{from} + 32]",
            "movups {d}, [{from} + 48]",
            "movups [{to}], {a}",
            "movups [{to} + 16], {b}",
            "movups [{to} + 32], {c}",
            "movups [{to} + 48], {d}",
            "add {from}, 64",
            "add {to}, 64",
            "sub {left}, 64",
            "jnz 2b",
            from = inout(reg) from => _,
            to = inout(reg) to => _,
            left = inout(reg) length => _,
            a = out(xmm_reg) _,
            b = out(xmm_reg) _,
            c = out(xmm_reg) _,
            d = out(xmm_reg) _,
            options(nostack),
        );
    }
}

/// # Safety
/// As for `bulk_copy`.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn string_copy(from: *const u8, to: *mut u8, length: usize) {
    // SAFETY: the instruction is defined as a sequence of byte moves. However the processor joins
    // them, each byte is loaded and stored indivisibly, as in `block_copy`. The direction flag is
    // clear, as the ABI promises, and stays so.
    unsafe {
        std::arch::asm!("rep movsb", inout("rcx") length => _, inout("rsi") from => _,
            inout("rdi") to => _, options(nostack, preserves_flags));
    }
}

/// # Safety
/// `to` is valid for writes of `length` bytes; others may access them, but Rust code of this
/// process only atomically.
#[cfg(target_arch = "x86_64")]
#[inline]
unsafe fn string_fill(to: *mut u8, length: usize, byte: u8) {
    // SAFETY: as in `string_copy`: a sequence of byte stores.
    unsafe {
        std::arch::asm!("rep stosb", inout("rcx") length => _, inout("rdi") to => _,
            in("al") byte, options(nostack, preserves_flags));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Around every length at which another way is taken, at every alignment.
    fn lengths() -> impl Iterator<Item = usize> {
        (0..=200).chain([255, 256, 257, 2047, 2048, 2049, 4096, 5000])
    }

    #[test]
    fn copies_move_exactly_their_bytes_at_every_length_and_alignment() {
        let pattern: Vec<u8> = (0..6000).map(|i| (i * 7 % 251) as u8 + 1).collect();
        for length in lengths() {
            for offset in 0..9 {
                let mut there = vec![0; 6000];
                let data = &pattern[offset..offset + length];
                // SAFETY: inside `there`, which is ours alone.
                unsafe { write(there.as_mut_ptr().add(offset), data) };
                assert_eq!(&there[offset..offset + length], data);
                assert!(there[..offset].iter().chain(&there[offset + length..]).all(|&b| b == 0));

                let mut back = vec![0; length + 1];
                // SAFETY: as above.
                unsafe { read(there.as_ptr().add(offset), &mut back[..length]) };
                assert_eq!((&back[..length], back[length]), (data, 0));

                // SAFETY: as above.
                unsafe { fill(there.as_mut_ptr().add(offset), length, 0xA5) };
                assert!(there[offset..offset + length].iter().all(|&b| b == 0xA5));
                assert!(there[..offset].iter().chain(&there[offset + length..]).all(|&b| b == 0));
            }
        }
    }

    #[test]
    fn numbers_are_read_and_written_at_every_alignment_and_nowhere_else() {
        for offset in 0..9 {
            let mut bytes = [0xEE_u8; 24];
            let at = bytes[offset..].as_mut_ptr();
            // SAFETY: inside `bytes`, which is ours alone.
            unsafe { write_4(at, 0x0403_0201) };
            assert_eq!(bytes[offset..offset + 5], [1, 2, 3, 4, 0xEE]);
            assert!(bytes[..offset].iter().all(|&byte| byte == 0xEE));
            // SAFETY: as above.
            let (four, eight) = unsafe { (read_4(at), read_8(at)) };
            assert_eq!((four, eight), (0x0403_0201, 0xEEEE_EEEE_0403_0201));
        }
    }

    #[test]
    fn racing_copies_tear_between_bytes_only() {
        // Both writers' bytes differ in every bit, so that a torn byte would show.
        for length in [1, 7, 16, 100, 4096] {
            let shared: Vec<AtomicU8> = (0..length).map(|_| AtomicU8::new(0x55)).collect();
            let start = shared.as_ptr() as usize;
            std::thread::scope(|scope| {
                for byte in [0x55, 0xAA] {
                    scope.spawn(move || {
                        let data = vec![byte; length];
                        for _ in 0..500 {
                            // SAFETY: atomics that outlive the scope, accessed by copies alone.
                            unsafe { write(start as *mut u8, &data) };
                            // SAFETY: as above.
                            unsafe { fill(start as *mut u8, length, byte) };
                        }
                    });
                }
                let mut seen = vec![0; length];
                for _ in 0..500 {
                    // SAFETY: as above.
                    unsafe { read(start as *const u8, &mut seen) };
                    assert!(seen.iter().all(|&byte| byte == 0x55 || byte == 0xAA));
                }
            });
        }
    }
}
