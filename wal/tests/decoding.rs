//! A bounded run of the fuzz targets' checks: frames, batches and segments from any bytes. The functions are
//! those that `cargo fuzz` drives (`wal/fuzz`); here a generator with a fixed seed does, so that every run is
//! the same.

#[allow(unreachable_pub, reason = "a library elsewhere")]
#[path = "../fuzz/src/lib.rs"]
mod decoding;

/// The generator of Vigna's `splitmix64`.
struct Bytes(u64);

impl Bytes {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn some(&mut self, most: u64) -> Vec<u8> {
        let bytes = self.word() % (most + 1);
        (0..bytes).map(|_| self.word() as u8).collect()
    }

    /// Bytes laid out like a frame, so that lengths and kinds are near valid ones.
    fn frame(&mut self) -> Vec<u8> {
        let body = self.some(120);
        let mut frame = vec![0; 48];
        // One in four has a wrong length.
        let says = if self.word().is_multiple_of(4) { self.word() as u32 } else { body.len() as u32 };
        frame[8..12].copy_from_slice(&says.to_le_bytes());
        frame[12] = (self.word() % 10) as u8;
        frame[13] = (self.word() % 2) as u8;
        for (at, most) in [(16, 3), (24, 4), (32, 4)] {
            frame[at] = (self.word() % most) as u8;
        }
        frame[40] = (self.word() % 3) as u8;
        frame.extend(body);
        // Entries with lengths near what fits.
        if let Some(first) = frame.get_mut(48..52).filter(|_| self.word().is_multiple_of(2)) {
            let fits = (says.wrapping_sub(4) & 0x0FFF_FFFF) << 3;
            first.copy_from_slice(&fits.to_le_bytes());
        }
        frame
    }
}

#[test]
fn frames_from_any_bytes() {
    let mut bytes = Bytes(1);
    for _ in 0..20_000 {
        decoding::frame(&bytes.some(400));
        decoding::frame(&bytes.frame());
    }
}

#[test]
fn batches_of_any_frames() {
    let mut bytes = Bytes(2);
    for _ in 0..1_000 {
        let mut batch = bytes.word().to_le_bytes().to_vec();
        batch.extend(bytes.word().to_le_bytes().into_iter().take(4));
        batch[0] %= 4;
        batch[1] %= 4;
        batch[2] %= 5;
        for _ in 0..bytes.word() % 6 {
            batch.extend(bytes.frame());
        }
        decoding::batch(&batch);
    }
}

#[test]
fn segments_with_any_damage() {
    let mut bytes = Bytes(3);
    for _ in 0..2_000 {
        decoding::segment(&bytes.some(160));
    }
}
