//! A picture and a sound, as small as they can be.
//!
//! They stand apart because tools, prompts and resources all show them. Nothing here is ever
//! looked at or listened to.

use base64::{Engine as _, engine::general_purpose::STANDARD};

/// One red pixel.
pub(crate) const RED_DOT_PNG: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";

const RATE: u32 = 8_000;
const SAMPLES: u32 = 80;
const MIDDLE: u8 = 0x80;

/// Ten milliseconds of silence: 8-bit mono PCM behind a RIFF header.
pub(crate) fn silence_wav() -> String {
    let mut wav = Vec::new();
    wav.extend(b"RIFF");
    wav.extend((36 + SAMPLES).to_le_bytes());
    wav.extend(b"WAVEfmt ");
    wav.extend(16u32.to_le_bytes());
    wav.extend(1u16.to_le_bytes()); // PCM
    wav.extend(1u16.to_le_bytes()); // one channel
    wav.extend(RATE.to_le_bytes());
    wav.extend(RATE.to_le_bytes()); // one byte for each sample
    wav.extend(1u16.to_le_bytes());
    wav.extend(8u16.to_le_bytes());
    wav.extend(b"data");
    wav.extend(SAMPLES.to_le_bytes());
    wav.extend((0..SAMPLES).map(|_| MIDDLE));
    STANDARD.encode(wav)
}
