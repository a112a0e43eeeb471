//! Frames, invocations and verdicts come back as they were sent, and nothing else is taken for one.

use super::*;
use crate::cases::each;

const SETTINGS: &[u8] = b"module=/srv/hello.php\0net=1\0";
const ENVIRONMENT: &[u8] = b"A=1\0B=\xff\n\0";
const BODY: &[u8] = b"{\"name\":\"Alice\"}\0\xff";

fn frame() -> Vec<u8> {
    Invocation::encode(SETTINGS, ENVIRONMENT, "r-1", BODY).unwrap()
}

#[test]
fn an_invocation_comes_back_as_it_was_sent() {
    let frame = frame();
    let (kind, payload, used) = decode(&frame).unwrap().unwrap();
    assert_eq!((kind, used), (Kind::Invoke, frame.len()));
    let got = Invocation::decode(payload[..payload.len() - 1].to_vec()).unwrap();
    assert_eq!((got.settings(), got.environment(), got.request_id()), (SETTINGS, ENVIRONMENT, "r-1"));
    assert_eq!(got.body(), BODY);
}

#[test]
fn every_shorter_piece_of_a_frame_is_incomplete_and_of_a_payload_an_error_or_shorter_body() {
    let frame = frame();
    for length in 0..frame.len() {
        assert!(decode(&frame[..length]).unwrap().is_none());
    }
    let payload = &frame[FRAME_HEAD_BYTES..frame.len() - 1];
    for length in 0..payload.len() - BODY.len() {
        assert!(Invocation::decode(payload[..length].to_vec()).is_err(), "{length}");
    }
}

#[test]
fn unknown_kinds_and_oversized_frames_are_refused() {
    assert!(decode(&[0, 0, 0, 0, 0]).is_err());
    assert!(decode(&[9, 0, 0, 0, 0]).is_err());
    assert!(decode(&[2, 0xff, 0xff, 0xff, 0xff]).is_err());
    assert!(Invocation::encode(SETTINGS, &[b'a'; FRAME_BYTES_MAX], "", &[]).is_err());
    let open = Invocation::encode(b"net=1", ENVIRONMENT, "", &[]).unwrap();
    assert!(Invocation::decode(open[FRAME_HEAD_BYTES..open.len() - 1].to_vec()).is_err(), "the last NUL is missing");
}

#[test]
fn every_verdict_comes_back_as_it_was_sent() {
    let text = || "x y".to_string();
    let verdicts = [
        Verdict::Exited { code: 3 },
        Verdict::Signaled { signal: 9 },
        Verdict::TimedOut,
        Verdict::Compiling,
        Verdict::MemoryExceeded,
        Verdict::ScratchExceeded,
        Verdict::TooManyProcesses,
        Verdict::ForkServerLost,
        Verdict::ModuleMissing { path: text(), cause: text() },
        Verdict::ModuleNotExecutable { path: text(), cause: text() },
        Verdict::RuntimeMissing { program: text(), install: text() },
        Verdict::Exhausted { step: text(), cause: text() },
    ];
    each(verdicts, |verdict| {
        let usage = Some(Usage { cpu_us: 1, memory_bytes: 2, measured: Measured::Samples });
        let end = End { verdict, is_warm: true, spawn_us: 7, exec_us: 8, usage, stderr: "\"é\n".into() };
        assert_eq!(End::decode(&end.encode()).unwrap(), end);
        let end = End { usage: None, stderr: String::new(), ..end };
        assert_eq!(End::decode(&end.encode()).unwrap(), end);
    });
    assert!(End::decode(b"{}").is_err());
}
