//! Error numbers of WASI preview 1, and their translation from the kernel's.

use rustix::io::Errno as Os;

/// An error number as the module gets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

macro_rules! errnos {
    ($($name:ident $os:ident $value:literal)*) => {
        $(#[allow(dead_code, reason = "the table is complete")] pub const $name: Errno = Errno($value);)*

        impl From<Os> for Errno {
            fn from(os: Os) -> Errno {
                match os {
                    $(Os::$os => $name,)*
                    _ => IO,
                }
            }
        }
    };
}

/// The one number without a twin in the kernel: a path that leads out of what was opened to the module.
pub const NOTCAPABLE: Errno = Errno(76);

errnos! {
    TOOBIG TOOBIG 1
    ACCES ACCESS 2
    AGAIN AGAIN 6
    BADF BADF 8
    BUSY BUSY 10
    CONNRESET CONNRESET 15
    DEADLK DEADLK 16
    DQUOT DQUOT 19
    EXIST EXIST 20
    FAULT FAULT 21
    FBIG FBIG 22
    ILSEQ ILSEQ 25
    INTR INTR 27
    INVAL INVAL 28
    IO IO 29
    ISDIR ISDIR 31
    LOOP LOOP 32
    MFILE MFILE 33
    MLINK MLINK 34
    NAMETOOLONG NAMETOOLONG 37
    NFILE NFILE 41
    NODEV NODEV 43
    NOENT NOENT 44
    NOLCK NOLCK 46
    NOMEM NOMEM 48
    NOSPC NOSPC 51
    NOSYS NOSYS 52
    NOTCONN NOTCONN 53
    NOTDIR NOTDIR 54
    NOTEMPTY NOTEMPTY 55
    NOTSOCK NOTSOCK 57
    NOTSUP NOTSUP 58
    NOTTY NOTTY 59
    NXIO NXIO 60
    OVERFLOW OVERFLOW 61
    PERM PERM 63
    PIPE PIPE 64
    RANGE RANGE 68
    ROFS ROFS 69
    SPIPE SPIPE 70
    STALE STALE 72
    TXTBSY TXTBSY 74
    XDEV XDEV 75
}
