//! Replays the corpora of the fuzz targets (fuzz/): each file, and each prefix of it. A parser meets prefixes first
//! when bytes arrive in pieces.

use std::fs;
use std::path::Path;

use faas::fuzzing;

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut count = 0;
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let outcome = std::panic::catch_unwind(|| (0..=bytes.len()).for_each(|length| target(&bytes[..length])));
        assert!(outcome.is_ok(), "see above; the input is {}", path.display());
        count += 1;
    }
    assert!(count > 10, "{} is nearly empty", folder.display());
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
