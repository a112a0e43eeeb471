//! Replays the corpora of the fuzz targets (fuzz/): each file, and each prefix of it. A parser meets prefixes first
//! when bytes arrive in pieces. Then it changes them at random, 2,000 times for each target, and more often in a soak
//! (soak.rs): less than libFuzzer finds, since nothing tells which change reached new code, but on any machine. The
//! changes are the same in each run, and a debug build checks for overflow.

use std::fs;
use std::path::Path;

use faas::fuzzing;

use crate::cases::each;
use crate::soak;

/// Bytes of a changed input: beyond each parser's own bound.
const INPUT_BYTES_MAX: usize = 80 << 10;
/// Bytes that mean something to one of the parsers.
const WORDS: [&[u8]; 16] = [
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b": ",
    b" ",
    b"\0",
    b"=",
    b",",
    b";",
    b"%",
    b"\"",
    b"0",
    b"-1",
    b"\xff\xff\xff\xff",
    b"18446744073709551616",
    b"Content-Length: 1\r\n",
];

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let corpus: Vec<Vec<u8>> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
    assert!(corpus.len() > 10, "{} is nearly empty", folder.display());
    each(paths.iter().enumerate(), |(number, _)| {
        let bytes = &corpus[number];
        (0..=bytes.len()).for_each(|length| target(&bytes[..length]));
    });
    let mut random = Random(name.len() as u64);
    for _ in 0..soak::count(2_000, 2_000) {
        let input = random.changed(&corpus);
        let outcome = std::panic::catch_unwind(|| target(&input));
        assert!(outcome.is_ok(), "see above; the input is {}", input.escape_ascii());
    }
}

/// Numbers by splitmix64, from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let number = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        number ^ (number >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end.max(1) as u64) as usize
    }

    /// An input of the corpus with up to eight changes.
    fn changed(&mut self, corpus: &[Vec<u8>]) -> Vec<u8> {
        let mut input = corpus[self.below(corpus.len())].clone();
        for _ in 0..=self.below(8) {
            let (from, to) = (self.below(input.len() + 1), self.below(input.len() + 1));
            let (from, to) = (from.min(to), from.max(to));
            match self.below(7) {
                0 => drop(input.drain(from..to)),
                1 => input.truncate(to),
                2 if from < input.len() => input[from] ^= 1 << self.below(8),
                3 => drop(input.splice(from..from, WORDS[self.below(WORDS.len())].iter().copied())),
                4 => {
                    // A number that is a length, or other bytes.
                    let number = [0, 1, u32::MAX, i32::MAX as u32, self.next() as u32][self.below(5)].to_le_bytes();
                    drop(input.splice(from..to.min(from + 4), number));
                }
                5 => {
                    let other = &corpus[self.below(corpus.len())];
                    drop(input.splice(from.., other[self.below(other.len() + 1)..].iter().copied()));
                }
                _ => {
                    // Rarely so often that a parser's bound is passed.
                    let times = if self.below(200) == 0 { 10_000 } else { 1 + self.below(4) };
                    let repeated = input[from..to].repeat(times.min(1 + INPUT_BYTES_MAX / (to - from).max(1)));
                    drop(input.splice(from..to, repeated));
                }
            }
            input.truncate(INPUT_BYTES_MAX);
        }
        input
    }
}

#[test]
fn the_head_parser_withstands_its_corpus() {
    replay("head", fuzzing::head);
}

#[test]
fn the_chunk_decoder_withstands_its_corpus() {
    replay("chunks", fuzzing::chunks);
}

#[test]
fn the_frame_decoder_withstands_its_corpus() {
    replay("frame", fuzzing::frame);
}

#[test]
fn the_cgi_head_parser_withstands_its_corpus() {
    replay("cgi", fuzzing::cgi);
}

#[test]
fn the_parser_of_samples_withstands_its_corpus() {
    replay("sample", fuzzing::sample);
}

#[test]
fn the_parser_of_packets_of_fork_servers_withstands_its_corpus() {
    replay("word", fuzzing::word);
}
